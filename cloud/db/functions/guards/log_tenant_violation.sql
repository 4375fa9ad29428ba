-- In a transaction of its own where the attempt's is rolled back.
CREATE OR REPLACE FUNCTION log_tenant_violation(attempted_tenant uuid, what text, actor text DEFAULT NULL, detail jsonb DEFAULT '{}') RETURNS bigint LANGUAGE sql AS $$
  INSERT INTO tenant_access_violations (tenant_id, attempted_tenant_id, what, actor, detail) VALUES (current_tenant_id(), attempted_tenant, left(what, 200), coalesce(actor, context_of('current_user_id')), detail) RETURNING id
$$;
