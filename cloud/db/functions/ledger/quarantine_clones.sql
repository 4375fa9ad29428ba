CREATE OR REPLACE FUNCTION quarantine_clones(gates text[], epochs bigint[], seqs bigint[], hashes bytea[], entries text[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  clones jsonb;
BEGIN
  WITH clone AS (
    SELECT DISTINCT ON (i.gate, i.epoch, i.seq, i.hash) i.* FROM unnest(gates, epochs, seqs, hashes, entries) AS i (gate, epoch, seq, hash, entry)
    CROSS JOIN LATERAL (SELECT r.hash FROM ledger_rows r WHERE r.tenant_id = current_tenant_id() AND r.gate = i.gate AND r.epoch = i.epoch AND r.seq = i.seq LIMIT 1) AS l
    WHERE l.hash <> i.hash ORDER BY i.gate, i.epoch, i.seq, i.hash
  ), kept AS (
    INSERT INTO quarantine AS q (tenant_id, topic, reason, detail, payload_sha256, payload_bytes, payload)
    SELECT current_tenant_id(), c.gate || '/ledger', 'clone', format('row [%s, %s] came again with another hash', c.epoch, c.seq), sha256(convert_to(c.epoch || '/' || c.seq || '/' || encode(c.hash, 'hex'), 'UTF8')), octet_length(c.entry),
      substring(convert_to(c.entry, 'UTF8') FOR 65536) FROM clone c
    ON CONFLICT (tenant_id, topic, reason, payload_sha256) DO UPDATE SET times = q.times + 1, last_at = now()
  ), alert AS (
    INSERT INTO device_alerts (tenant_id, device, alert_id, by_cloud, alert)
    SELECT DISTINCT current_tenant_id(), c.gate, 'clone', true, jsonb_build_object('schema', 1, 'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'severity', 'critical',
      'message', 'rows came under keys that are stored with other contents: two machines may be writing as this gate') FROM clone c JOIN devices d ON d.tenant_id = current_tenant_id() AND d.name = c.gate
    ON CONFLICT (tenant_id, device, alert_id) DO NOTHING
  )
  SELECT coalesce(jsonb_agg(jsonb_build_array(c.gate, c.epoch, c.seq)), '[]') INTO clones FROM clone c;
  RETURN clones;
END
$$;
