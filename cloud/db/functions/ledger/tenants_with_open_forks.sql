-- Returns tenants that have forked rows open, at most so many.
CREATE OR REPLACE FUNCTION tenants_with_open_forks(at_most integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$
    SELECT DISTINCT f.tenant_id FROM forked_rows f WHERE f.closed IS NULL AND f.first_at < now() - interval '1 hour' LIMIT at_most
  $$;

ALTER FUNCTION tenants_with_open_forks(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_with_open_forks(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_with_open_forks(integer) TO stile_service;
