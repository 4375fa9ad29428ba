CREATE OR REPLACE FUNCTION tenants_with_late_tickets(wanted integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$
    SELECT DISTINCT u.tenant_id FROM ticket_usage u
    WHERE NOT u.known AND EXISTS (SELECT FROM tickets t WHERE t.tenant_id = u.tenant_id AND t.event_id = u.event_id AND t.ticket_id = u.ticket_id) LIMIT wanted;
  $$;

ALTER FUNCTION tenants_with_late_tickets(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_with_late_tickets(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_with_late_tickets(integer) TO stile_service;
