-- Returns whether an original is in the account: stored under its own key with this hash, or repeated by a stored row.
CREATE OR REPLACE FUNCTION original_counted(o_gate text, o_epoch bigint, o_seq bigint, o_hash bytea) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (SELECT FROM ledger_agains a WHERE a.tenant_id = current_tenant_id() AND a.of_gate = o_gate AND a.of_epoch = o_epoch AND a.of_seq = o_seq AND a.of_hash = o_hash)
    OR (EXISTS (SELECT FROM ledger_epochs e WHERE e.tenant_id = current_tenant_id() AND e.gate = o_gate AND e.epoch = o_epoch AND e.stored @> o_seq) AND stored_hash(o_gate, o_epoch, o_seq) = o_hash);
END
$$;
