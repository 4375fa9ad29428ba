CREATE OR REPLACE FUNCTION sites_with_unpublished_conflicts(wanted integer) RETURNS TABLE (tenant_id uuid, site_id text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$
    SELECT c.tenant_id, split_part(c.loser_gate, '/', 1) FROM conflicts c WHERE NOT c.told AND c.found_at < now() - interval '2 seconds'
    UNION SELECT w.tenant_id, split_part(w.loser_gate, '/', 1) FROM withdrawn_conflicts w LIMIT wanted;
  $$;

ALTER FUNCTION sites_with_unpublished_conflicts(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION sites_with_unpublished_conflicts(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sites_with_unpublished_conflicts(integer) TO stile_service;
