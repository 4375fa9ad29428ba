CREATE OR REPLACE FUNCTION tenants_with_gates() RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT DISTINCT a.tenant_id FROM gate_assignments a $$;

ALTER FUNCTION tenants_with_gates() OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_with_gates() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_with_gates() TO stile_service;
