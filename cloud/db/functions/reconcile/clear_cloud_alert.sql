-- False: the cloud has raised no such alert (a gate's own is the gate's to clear). The next finding raises it again.
CREATE OR REPLACE FUNCTION clear_cloud_alert(gate text, alert text, actor text, reason text) RETURNS boolean LANGUAGE sql AS $$
  WITH gone AS (
    DELETE FROM device_alerts a WHERE a.tenant_id = current_tenant_id() AND a.device = gate AND a.alert_id = clear_cloud_alert.alert AND a.by_cloud RETURNING a.*
  ), kept AS (
    INSERT INTO cleared_alerts (tenant_id, device, alert_id, alert, raised_at, actor, reason)
    SELECT g.tenant_id, g.device, g.alert_id, g.alert, g.received_at, clear_cloud_alert.actor, clear_cloud_alert.reason FROM gone g RETURNING 1
  )
  SELECT EXISTS (SELECT FROM kept)
$$;
