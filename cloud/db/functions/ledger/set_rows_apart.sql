-- Takes stored rows out of the ledger that do not follow a row which arrived later: they become forked rows. Answers them, for what they counted to be taken back.
-- The only place where a row leaves ledger_lines but by detaching a month.
CREATE OR REPLACE FUNCTION set_rows_apart(of_gate text, of_epoch bigint, low bigint, high bigint) RETURNS jsonb LANGUAGE plpgsql
  SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  tenant uuid := current_tenant_id();
  apart jsonb;
BEGIN
  -- Their texts stay in the messages that they came in.
  SELECT coalesce(jsonb_agg(jsonb_build_object('gate', of_gate, 'epoch', of_epoch, 'seq', g.seq, 'hash', encode(g.hash, 'hex'), 'entry', g.entry) ORDER BY g.seq), '[]') INTO apart FROM ledger_rows g WHERE g.tenant_id = tenant AND g.gate = of_gate AND g.epoch = of_epoch AND g.seq BETWEEN low AND high;
  DELETE FROM ledger_lines r WHERE r.tenant_id = tenant AND r.gate = of_gate AND r.epoch = of_epoch AND r.seq BETWEEN low AND high;
  RETURN apart;
END
$$;

ALTER FUNCTION set_rows_apart(text, bigint, bigint, bigint) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION set_rows_apart(text, bigint, bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION set_rows_apart(text, bigint, bigint, bigint) TO stile_service;
