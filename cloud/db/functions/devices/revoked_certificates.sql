-- Certificates of gates that are revoked and have not ended long ago, for the broker's list: the broker serves all tenants at once.
CREATE OR REPLACE FUNCTION revoked_certificates() RETURNS TABLE (tenant_id uuid, serial text, device text, revoked_at timestamptz, session_ended boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT c.tenant_id, c.serial, c.device, c.revoked_at, c.session_ended_at IS NOT NULL FROM gate_certificates c
    WHERE c.revoked_at IS NOT NULL AND c.not_after > now() - interval '2 days' ORDER BY c.serial $$;

ALTER FUNCTION revoked_certificates() OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION revoked_certificates() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION revoked_certificates() TO stile_service;
