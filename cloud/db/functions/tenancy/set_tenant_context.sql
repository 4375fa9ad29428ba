-- For this transaction alone: a pooled connection takes it to nobody.
CREATE OR REPLACE FUNCTION set_tenant_context(tenant uuid) RETURNS void LANGUAGE sql AS $$
  SELECT set_config('app.current_tenant_id', tenant::text, true)
$$;
