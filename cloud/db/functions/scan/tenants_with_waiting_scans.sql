CREATE OR REPLACE FUNCTION tenants_with_waiting_scans(wanted integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT DISTINCT p.tenant_id FROM pending_scans p
    WHERE p.failed IS NULL AND EXISTS (SELECT FROM tickets t WHERE t.tenant_id = p.tenant_id AND t.ticket_id = p.ticket_id AND (p.event_id IS NULL OR t.event_id = p.event_id)) LIMIT wanted $$;

ALTER FUNCTION tenants_with_waiting_scans(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_with_waiting_scans(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_with_waiting_scans(integer) TO stile_service;
