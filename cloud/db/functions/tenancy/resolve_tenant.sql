CREATE OR REPLACE FUNCTION resolve_tenant(tenant_name text) RETURNS uuid
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT t.id FROM tenants t WHERE t.name = tenant_name $$;

ALTER FUNCTION resolve_tenant(text) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION resolve_tenant(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION resolve_tenant(text) TO stile_service;
