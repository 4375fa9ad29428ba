-- Tickets with a grant of these boots.
CREATE OR REPLACE FUNCTION tickets_of_boots(gate_list text[], boot_nos bigint[]) RETURNS TABLE (event_id text, ticket_id text) LANGUAGE plpgsql STABLE
  SET plan_cache_mode = force_custom_plan
  SET enable_nestloop = on
  SET enable_seqscan = on
  SET enable_bitmapscan = on AS $$
BEGIN
  IF cardinality(boot_nos) = 0 THEN RETURN; END IF;
  RETURN QUERY SELECT DISTINCT a.event_id, a.ticket_id FROM boots b
    JOIN admissions a ON a.tenant_id = b.tenant_id AND a.gate = b.gate AND (a.epoch, a.seq) BETWEEN (b.first_epoch, b.first_seq) AND (b.last_epoch, b.last_seq) AND a.boot_no = b.boot_no
    WHERE b.tenant_id = current_tenant_id() AND b.gate = ANY (gate_list) AND b.boot_no = ANY (boot_nos)
    -- Rows that repeat an original stand at its place.
    UNION SELECT a.event_id, a.ticket_id FROM boots b
    JOIN admissions a ON a.tenant_id = b.tenant_id AND a.original_gate = b.gate AND a.original_epoch BETWEEN b.first_epoch AND b.last_epoch AND a.boot_no = b.boot_no
    WHERE b.tenant_id = current_tenant_id() AND b.gate = ANY (gate_list) AND b.boot_no = ANY (boot_nos);
END
$$;
