-- Takes stored rows out of ledger_rows that do not follow a row which arrived later: they become forked rows. Answers them, for what they counted to be taken back.
-- The only place where a row leaves ledger_rows but by detaching a month.
CREATE OR REPLACE FUNCTION set_rows_apart(of_gate text, of_epoch bigint, low bigint, high bigint) RETURNS jsonb LANGUAGE plpgsql
  SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  tenant uuid := current_tenant_id();
  apart jsonb;
BEGIN
  WITH gone AS (
    DELETE FROM ledger_rows r WHERE r.tenant_id = tenant AND r.gate = of_gate AND r.epoch = of_epoch AND r.seq BETWEEN low AND high RETURNING r.seq, r.hash, r.entry
  )
  SELECT coalesce(jsonb_agg(jsonb_build_object('gate', of_gate, 'epoch', of_epoch, 'seq', g.seq, 'hash', encode(g.hash, 'hex'), 'entry', g.entry) ORDER BY g.seq), '[]') INTO apart FROM gone g;
  RETURN apart;
END
$$;

ALTER FUNCTION set_rows_apart(text, bigint, bigint, bigint) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION set_rows_apart(text, bigint, bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION set_rows_apart(text, bigint, bigint, bigint) TO stile_service;
