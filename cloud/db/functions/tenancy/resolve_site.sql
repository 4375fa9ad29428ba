CREATE OR REPLACE FUNCTION resolve_site(site text) RETURNS uuid
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT s.tenant_id FROM sites s WHERE s.site_id = site $$;

ALTER FUNCTION resolve_site(text) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION resolve_site(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION resolve_site(text) TO stile_service;
