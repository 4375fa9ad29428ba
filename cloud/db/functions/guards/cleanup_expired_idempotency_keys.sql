CREATE OR REPLACE FUNCTION cleanup_expired_idempotency_keys(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  removed integer;
BEGIN
  DELETE FROM idempotency_keys i WHERE i.tenant_id = current_tenant_id() AND (i.idempotency_key, i.operation) IN (
    SELECT x.idempotency_key, x.operation FROM idempotency_keys x WHERE x.tenant_id = current_tenant_id() AND x.expires_at < now() AND (x.lock_expires_at IS NULL OR x.lock_expires_at < now()) ORDER BY x.expires_at LIMIT at_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS removed = ROW_COUNT;
  RETURN removed;
END
$$;
