-- What ingest writes beside the account, and what it may know before it knows a tenant.

-- Last words of devices: [{device, kind: state | info | health | alert, alert_id, word: JSON text or null (an alert cleared), session, online}].
-- An offline word of another session than the one that is online is an old connection's late will: it says nothing.
CREATE FUNCTION note_device_words(words jsonb) RETURNS void LANGUAGE plpgsql AS $$
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
  INSERT INTO device_alerts AS a (tenant_id, device, alert_id, alert)
  SELECT d.tenant_id, d.name, w ->> 'alert_id', (w ->> 'word')::jsonb FROM jsonb_array_elements(words) AS w JOIN devices d ON d.tenant_id = current_tenant_id() AND d.name = w ->> 'device'
  WHERE w ->> 'kind' = 'alert' AND w ->> 'word' IS NOT NULL ORDER BY 2, 3
  ON CONFLICT (tenant_id, device, alert_id) DO UPDATE SET alert = excluded.alert, received_at = now() WHERE a.alert <> excluded.alert;
  -- What the cloud found itself (clone, a broken chain) no gate can clear.
  DELETE FROM device_alerts a USING jsonb_array_elements(words) AS w
  WHERE a.tenant_id = current_tenant_id() AND a.device = w ->> 'device' AND a.alert_id = w ->> 'alert_id' AND w ->> 'kind' = 'alert' AND w ->> 'word' IS NULL AND NOT a.by_cloud;
END
$$;

CREATE INDEX ledger_epochs_unpublished ON ledger_epochs (tenant_id, gate) WHERE published_seq < upto_seq AND gate LIKE '%/cloud';
GRANT SELECT ON ledger_epochs, ticket_usage, tickets TO stile_resolver;
CREATE FUNCTION tenants_with_unpublished_rows(wanted integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT DISTINCT e.tenant_id FROM ledger_epochs e WHERE e.published_seq < e.upto_seq AND e.gate LIKE '%/cloud' LIMIT wanted $$;
CREATE FUNCTION tenants_with_appeared_tickets(wanted integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$
    SELECT DISTINCT u.tenant_id FROM ticket_usage u
    WHERE NOT u.known AND EXISTS (SELECT FROM tickets t WHERE t.tenant_id = u.tenant_id AND t.event_id = u.event_id AND t.ticket_id = u.ticket_id) LIMIT wanted;
  $$;
ALTER FUNCTION tenants_with_unpublished_rows(integer) OWNER TO stile_resolver;
ALTER FUNCTION tenants_with_appeared_tickets(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_with_unpublished_rows(integer), tenants_with_appeared_tickets(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_with_unpublished_rows(integer), tenants_with_appeared_tickets(integer) TO stile_service;
