-- Raises, renews or clears the cloud's alert `ledger` of gates, which names the number of open forked rows.
CREATE OR REPLACE FUNCTION tell_of_forked_rows(gates text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
BEGIN
  INSERT INTO device_alerts AS a (tenant_id, device, alert_id, by_cloud, alert)
  SELECT tenant, d.name, 'ledger', true, jsonb_build_object('schema', 1, 'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'severity', 'warning',
    'message', format('%s rows do not follow what is stored of this ledger: its store went back in time, or two machines write as this gate. They are kept and count once they are sent again.', n.open))
  FROM unnest(gates) AS g JOIN devices d ON d.tenant_id = tenant AND d.name = g
  CROSS JOIN LATERAL (SELECT count(*) AS open FROM forked_rows f WHERE f.tenant_id = tenant AND f.gate = g AND f.closed IS NULL) AS n WHERE n.open > 0 ORDER BY d.name
  ON CONFLICT (tenant_id, device, alert_id) DO UPDATE SET alert = excluded.alert || jsonb_build_object('since', a.alert -> 'since'), by_cloud = true, received_at = now() WHERE a.by_cloud;
  DELETE FROM device_alerts a WHERE a.tenant_id = tenant AND a.device = ANY (gates) AND a.alert_id IN ('ledger', 'clone') AND a.by_cloud
    AND NOT EXISTS (SELECT FROM forked_rows f WHERE f.tenant_id = tenant AND f.gate = a.device AND f.closed IS NULL)
    AND NOT EXISTS (SELECT FROM ledger_breaks b WHERE b.tenant_id = tenant AND b.gate = a.device);
END
$$;
