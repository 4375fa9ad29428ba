-- Raises the alert `clone` of gates whose forked rows stay open: found more than an hour ago, though the gate is connected and could have sent them again. Answers how many.
CREATE OR REPLACE FUNCTION raise_clone_alerts() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  raised integer;
BEGIN
  INSERT INTO device_alerts AS a (tenant_id, device, alert_id, by_cloud, alert)
  SELECT tenant, d.name, 'clone', true, jsonb_build_object('schema', 1, 'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'severity', 'critical',
    'message', format('%s rows that do not follow are open for an hour, and the gate did not send them again: two machines may be writing as this gate. stile-cloud gate forks lists them.', f.open))
  FROM (SELECT x.gate, count(*) AS open, min(x.first_at) AS first_at FROM forked_rows x WHERE x.tenant_id = tenant AND x.closed IS NULL GROUP BY x.gate) AS f
  JOIN devices d ON d.tenant_id = tenant AND d.name = f.gate AND d.state ->> 'state' = 'online' AND d.state_at < now() - interval '1 minute'
  WHERE f.first_at < now() - interval '1 hour' ORDER BY d.name
  ON CONFLICT (tenant_id, device, alert_id) DO NOTHING;
  GET DIAGNOSTICS raised = ROW_COUNT;
  RETURN raised;
END
$$;
