-- Returns whether the stored row carries this hash as its predecessor's.
CREATE OR REPLACE FUNCTION stored_row_follows(of_gate text, of_epoch bigint, of_seq bigint, previous bytea) RETURNS boolean LANGUAGE plpgsql STABLE
  SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
  RETURN coalesce((SELECT row_follows(previous, r.entry, r.hash) FROM ledger_rows r WHERE r.tenant_id = current_tenant_id() AND r.gate = of_gate AND r.epoch = of_epoch AND r.seq = of_seq LIMIT 1), true);
END
$$;
