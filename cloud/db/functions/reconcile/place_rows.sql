-- The same for what is shown of their other rows (ledger_lines.at), where nothing placed the boot before. A row's own boot and boot time stand in its text.
CREATE OR REPLACE FUNCTION place_rows(gate_list text[], boot_nos bigint[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on SET enable_seqscan = on SET enable_bitmapscan = on AS $$
BEGIN
  UPDATE ledger_lines r SET at = m.at FROM (
    SELECT x.tenant_id, x.gate, x.epoch, x.seq, x.received_at, middle_of(b, substring(x.entry FROM '"boottime_ms":([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)')::double precision, x.at) AS at FROM boots b
    JOIN ledger_rows x ON x.tenant_id = b.tenant_id AND x.gate = b.gate AND (x.epoch, x.seq) BETWEEN (b.first_epoch, b.first_seq) AND (b.last_epoch, b.last_seq)
    WHERE b.tenant_id = current_tenant_id() AND b.gate = ANY (gate_list) AND b.boot_no = ANY (boot_nos) AND x.readable AND strpos(x.entry, '"boot_id":' || to_json(b.boot_id)::text) > 0) AS m
  WHERE r.tenant_id = m.tenant_id AND r.gate = m.gate AND r.epoch = m.epoch AND r.seq = m.seq AND r.received_at = m.received_at AND m.at IS NOT NULL AND r.at <> m.at;
END
$$;
