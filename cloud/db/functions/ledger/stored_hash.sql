-- Returns the hash of a stored row, or of a place whose row is gone; NULL where neither is known.
CREATE OR REPLACE FUNCTION stored_hash(of_gate text, of_epoch bigint, of_seq bigint) RETURNS bytea LANGUAGE plpgsql STABLE
  SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
  found_hash bytea;
BEGIN
  SELECT r.hash INTO found_hash FROM ledger_lines r WHERE r.tenant_id = current_tenant_id() AND r.gate = of_gate AND r.epoch = of_epoch AND r.seq = of_seq LIMIT 1;
  IF found_hash IS NULL THEN
    SELECT g.hash INTO found_hash FROM ledger_gone g WHERE g.tenant_id = current_tenant_id() AND g.gate = of_gate AND g.epoch = of_epoch AND g.seq = of_seq;
  END IF;
  RETURN found_hash;
END
$$;
