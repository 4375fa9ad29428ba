-- The same, for rows as records, and from JSON: an array of objects with the fields of ledger_input.
CREATE OR REPLACE FUNCTION reconcile_rows(input ledger_input[]) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT reconcile_columns(array_agg(i.gate), array_agg(i.epoch), array_agg(i.seq), array_agg(decode(i.hash, 'hex')), array_agg(i.kind), array_agg(i.readable), array_agg(i.entry), array_agg(i.ts), array_agg(i.boot_id), array_agg(i.boottime_ms),
    array_agg(i.offset_ms), array_agg(i.bound_ms), array_agg(i.event_id), array_agg(i.ticket_id), array_agg(decode(i.ticket_ref, 'hex')), array_agg(i.direction), array_agg(i.units), array_agg(i.manifest_version),
    array_agg(i.of_gate), array_agg(i.of_epoch), array_agg(i.of_seq), array_agg(i.unit), array_agg(i.outcome)) FROM unnest(input) AS i);
END
$$;
