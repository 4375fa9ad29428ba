CREATE OR REPLACE FUNCTION resolve_enrolment_token(token_hash bytea) RETURNS TABLE (tenant_id uuid, device text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT e.tenant_id, e.device FROM enrolment_tokens e WHERE e.token_sha256 = token_hash AND e.used_at IS NULL AND e.expires_at > now() $$;

ALTER FUNCTION resolve_enrolment_token(bytea) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION resolve_enrolment_token(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION resolve_enrolment_token(bytea) TO stile_service;
