CREATE OR REPLACE FUNCTION resolve_operator_token(token_hash bytea) RETURNS TABLE (tenant_id uuid, name text, actor text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT o.tenant_id, o.name, o.actor FROM operator_tokens o WHERE o.token_sha256 = token_hash AND o.revoked_at IS NULL AND (o.expires_at IS NULL OR o.expires_at > now()) $$;

ALTER FUNCTION resolve_operator_token(bytea) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION resolve_operator_token(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION resolve_operator_token(bytea) TO stile_service;
