-- Every tenant, in the order of their ids, so many after one.
CREATE OR REPLACE FUNCTION tenants_after(tenant uuid, wanted integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT t.id FROM tenants t WHERE tenant IS NULL OR t.id > tenant ORDER BY t.id LIMIT wanted $$;

ALTER FUNCTION tenants_after(uuid,integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_after(uuid,integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_after(uuid,integer) TO stile_service;
