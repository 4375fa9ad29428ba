CREATE OR REPLACE FUNCTION tenants_with_judgements_due(wanted integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT DISTINCT d.tenant_id FROM judgements_due d LIMIT wanted $$;

ALTER FUNCTION tenants_with_judgements_due(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_with_judgements_due(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_with_judgements_due(integer) TO stile_service;
