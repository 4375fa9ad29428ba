-- The tenant of this transaction, or a refusal: none is set, or there is no such tenant.
CREATE OR REPLACE FUNCTION verify_tenant_context() RETURNS uuid LANGUAGE plpgsql STABLE AS $$
DECLARE
  tenant uuid;
BEGIN
  BEGIN
    tenant := current_tenant_id();
  EXCEPTION WHEN invalid_text_representation THEN PERFORM refuse(403, 'NO_TENANT', 'app.current_tenant_id is not a tenant''s id');
  END;
  IF tenant IS NULL THEN PERFORM refuse(403, 'NO_TENANT', 'no tenant is set for this transaction'); END IF;
  IF NOT EXISTS (SELECT FROM tenants t WHERE t.id = tenant) THEN PERFORM refuse(403, 'NO_TENANT', 'the tenant of this transaction does not exist'); END IF;
  RETURN tenant;
END
$$;
