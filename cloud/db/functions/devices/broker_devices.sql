-- Every device of the installation by name, for the broker's ACL: the broker serves all tenants at once. Names only.
CREATE OR REPLACE FUNCTION broker_devices() RETURNS TABLE (name text, revoked boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.name, d.revoked_at IS NOT NULL FROM devices d WHERE d.kind = 'gate' ORDER BY d.name $$;

ALTER FUNCTION broker_devices() OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION broker_devices() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION broker_devices() TO stile_service;
