-- As in 0005, with a bound: the alerts of one device are few, whatever it says.
CREATE OR REPLACE FUNCTION record_device_status(words jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  max_alerts CONSTANT integer := 32;
BEGIN
  PERFORM 1 FROM devices d WHERE d.tenant_id = current_tenant_id() AND d.name IN (SELECT w ->> 'device' FROM jsonb_array_elements(words) AS w) ORDER BY d.name FOR UPDATE;
  UPDATE devices d SET
    state = CASE WHEN n.state IS NULL OR (NOT n.online AND d.state ->> 'state' = 'online' AND d.state ->> 'session' IS DISTINCT FROM n.session) THEN d.state ELSE n.state END,
    state_at = CASE WHEN n.state IS NULL OR (NOT n.online AND d.state ->> 'state' = 'online' AND d.state ->> 'session' IS DISTINCT FROM n.session) THEN d.state_at ELSE now() END,
    info = coalesce(n.info, d.info), health = coalesce(n.health, d.health), health_at = CASE WHEN n.health IS NULL THEN d.health_at ELSE now() END
  FROM (
    SELECT w ->> 'device' AS device, (max(w ->> 'word') FILTER (WHERE w ->> 'kind' = 'state'))::jsonb AS state, (max(w ->> 'word') FILTER (WHERE w ->> 'kind' = 'info'))::jsonb AS info, (max(w ->> 'word') FILTER (WHERE w ->> 'kind' = 'health'))::jsonb AS health,
      max(w ->> 'session') FILTER (WHERE w ->> 'kind' = 'state') AS session, coalesce(bool_or((w ->> 'online')::boolean) FILTER (WHERE w ->> 'kind' = 'state'), false) AS online
    FROM jsonb_array_elements(words) AS w WHERE w ->> 'kind' <> 'alert' GROUP BY 1) AS n
  WHERE d.tenant_id = current_tenant_id() AND d.name = n.device;
  -- A device has eight readers at most, and says little else: one that invents alerts is heard so far and no further.
  INSERT INTO device_alerts AS a (tenant_id, device, alert_id, alert)
  SELECT n.tenant_id, n.device, n.alert_id, n.alert FROM (
    SELECT s.*, row_number() OVER (PARTITION BY s.device, s.known ORDER BY s.alert_id) AS place FROM (
      SELECT d.tenant_id, d.name AS device, w ->> 'alert_id' AS alert_id, (w ->> 'word')::jsonb AS alert,
        EXISTS (SELECT FROM device_alerts k WHERE k.tenant_id = d.tenant_id AND k.device = d.name AND k.alert_id = w ->> 'alert_id') AS known,
        (SELECT count(*) FROM device_alerts k WHERE k.tenant_id = d.tenant_id AND k.device = d.name) AS there
      FROM jsonb_array_elements(words) AS w JOIN devices d ON d.tenant_id = current_tenant_id() AND d.name = w ->> 'device'
      WHERE w ->> 'kind' = 'alert' AND w ->> 'word' IS NOT NULL) AS s) AS n
  WHERE n.known OR n.there + n.place <= max_alerts ORDER BY n.device, n.alert_id
  ON CONFLICT (tenant_id, device, alert_id) DO UPDATE SET alert = excluded.alert, received_at = now() WHERE a.alert <> excluded.alert;
  -- What the cloud found itself (clone, a broken chain) no gate can clear.
  DELETE FROM device_alerts a USING jsonb_array_elements(words) AS w
  WHERE a.tenant_id = current_tenant_id() AND a.device = w ->> 'device' AND a.alert_id = w ->> 'alert_id' AND w ->> 'kind' = 'alert' AND w ->> 'word' IS NULL AND NOT a.by_cloud;
END
$$;
