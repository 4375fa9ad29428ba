-- Rows that don't carry the hash of the one before them. Answers those that were not flagged before; one alert a gate.
CREATE OR REPLACE FUNCTION flag_chain_breaks(gates text[], epochs bigint[], seqs bigint[]) RETURNS TABLE (gate text, epoch bigint, seq bigint) LANGUAGE sql AS $$
  WITH flagged AS (
    INSERT INTO ledger_breaks AS b (tenant_id, gate, epoch, seq)
    SELECT DISTINCT current_tenant_id(), k.gate, k.epoch, k.seq FROM unnest(gates, epochs, seqs) AS k (gate, epoch, seq)
    JOIN ledger_epochs e ON e.tenant_id = current_tenant_id() AND e.gate = k.gate AND e.epoch = k.epoch AND e.stored @> k.seq
    ON CONFLICT DO NOTHING RETURNING b.gate, b.epoch, b.seq
  ), alert AS (
    INSERT INTO device_alerts (tenant_id, device, alert_id, by_cloud, alert)
    SELECT DISTINCT current_tenant_id(), f.gate, 'ledger', true, jsonb_build_object('schema', 1, 'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'severity', 'critical',
      'message', 'a row does not carry the hash of the one before it') FROM flagged f JOIN devices d ON d.tenant_id = current_tenant_id() AND d.name = f.gate
    ON CONFLICT (tenant_id, device, alert_id) DO NOTHING
  )
  SELECT f.gate, f.epoch, f.seq FROM flagged f
$$;
