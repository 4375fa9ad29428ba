-- The same, from JSON: an array of objects with the fields of ledger_input.
CREATE OR REPLACE FUNCTION reconcile_ledger(rows jsonb) RETURNS jsonb LANGUAGE sql AS $$
  SELECT reconcile_rows((SELECT array_agg(i) FROM jsonb_populate_recordset(NULL::ledger_input, rows) AS i))
$$;
