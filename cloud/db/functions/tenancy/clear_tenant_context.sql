CREATE OR REPLACE FUNCTION clear_tenant_context() RETURNS void LANGUAGE sql AS $$
  SELECT set_config('app.current_tenant_id', '', true)
$$;
