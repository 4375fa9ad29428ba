-- Places the grants of these boots in time anew. Under their tickets' locks.
CREATE OR REPLACE FUNCTION reposition_boots(gate_list text[], boot_nos bigint[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan
  SET enable_nestloop = on
  SET enable_seqscan = on
  SET enable_bitmapscan = on AS $$
BEGIN
  UPDATE admissions a SET at_low = m.at_low, at = m.at, at_high = m.at_high, placed = m.placed FROM (
    SELECT x.tenant_id, x.gate, x.epoch, x.seq, earliest_of(b, x.boottime_ms) AS at_low, middle_of(b, x.boottime_ms, x.ts) AS at, latest_of(b, x.boottime_ms) AS at_high, b.offset_ms IS NOT NULL AS placed FROM boots b
    JOIN admissions x ON x.tenant_id = b.tenant_id AND x.gate = b.gate AND (x.epoch, x.seq) BETWEEN (b.first_epoch, b.first_seq) AND (b.last_epoch, b.last_seq) AND x.boot_no = b.boot_no
    WHERE b.tenant_id = current_tenant_id() AND b.gate = ANY (gate_list) AND b.boot_no = ANY (boot_nos)
    -- Rows that repeat an original stand at its place.
    UNION SELECT x.tenant_id, x.gate, x.epoch, x.seq, earliest_of(b, x.boottime_ms), middle_of(b, x.boottime_ms, x.ts), latest_of(b, x.boottime_ms), b.offset_ms IS NOT NULL FROM boots b
    JOIN admissions x ON x.tenant_id = b.tenant_id AND x.original_gate = b.gate AND x.original_epoch BETWEEN b.first_epoch AND b.last_epoch AND x.boot_no = b.boot_no
    WHERE b.tenant_id = current_tenant_id() AND b.gate = ANY (gate_list) AND b.boot_no = ANY (boot_nos)) AS m
  WHERE a.tenant_id = m.tenant_id AND a.gate = m.gate AND a.epoch = m.epoch AND a.seq = m.seq;
END
$$;
