CREATE OR REPLACE FUNCTION resolve_device(device_name text) RETURNS TABLE (tenant_id uuid, revoked boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.tenant_id, d.revoked_at IS NOT NULL FROM devices d WHERE d.name = device_name $$;

ALTER FUNCTION resolve_device(text) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION resolve_device(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION resolve_device(text) TO stile_service;
