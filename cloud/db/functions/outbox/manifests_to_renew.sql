-- Assigned events whose newest manifest is missing or older than half its life, so that no gate's list runs out while the cloud is up.
CREATE OR REPLACE FUNCTION manifests_to_renew(wanted integer) RETURNS TABLE (tenant_id uuid, event_id text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$
    SELECT e.tenant_id, e.event_id FROM events e
    WHERE EXISTS (SELECT FROM gate_assignments a WHERE a.tenant_id = e.tenant_id AND a.event_id = e.event_id)
      AND (e.ends_at IS NULL OR e.ends_at > now() - interval '1 day')
      AND NOT EXISTS (SELECT FROM manifests m WHERE m.tenant_id = e.tenant_id AND m.event_id = e.event_id AND now() < m.generated_at + (m.expires_at - m.generated_at) / 2)
      AND NOT EXISTS (SELECT FROM outbox o WHERE o.tenant_id = e.tenant_id AND o.kind = 'event' AND o.key = e.event_id AND o.build)
    LIMIT wanted;
  $$;

ALTER FUNCTION manifests_to_renew(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION manifests_to_renew(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION manifests_to_renew(integer) TO stile_service;
