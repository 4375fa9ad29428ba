CREATE OR REPLACE FUNCTION next_outbox(wanted integer) RETURNS TABLE (tenant_id uuid, id bigint)
  LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT o.tenant_id, o.id FROM outbox o WHERE o.due_at <= now() ORDER BY o.due_at, o.id LIMIT wanted FOR UPDATE SKIP LOCKED $$;

ALTER FUNCTION next_outbox(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION next_outbox(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION next_outbox(integer) TO stile_service;
