CREATE OR REPLACE FUNCTION tenants_with_unpublished_rows(wanted integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT DISTINCT e.tenant_id FROM ledger_epochs e WHERE e.published_seq < e.upto_seq AND (e.gate LIKE '%/cloud' OR e.gate LIKE '%/@%') LIMIT wanted $$;

ALTER FUNCTION tenants_with_unpublished_rows(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_with_unpublished_rows(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_with_unpublished_rows(integer) TO stile_service;
