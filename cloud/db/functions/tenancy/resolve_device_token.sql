CREATE OR REPLACE FUNCTION resolve_device_token(token_hash bytea) RETURNS TABLE (tenant_id uuid, device text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.tenant_id, d.name FROM devices d WHERE d.token_sha256 = token_hash AND d.revoked_at IS NULL $$;

ALTER FUNCTION resolve_device_token(bytea) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION resolve_device_token(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION resolve_device_token(bytea) TO stile_service;
