-- Keeps the answer; false: the lock is not held (any more), or by somebody else.
CREATE OR REPLACE FUNCTION complete_idempotency_key(key text, operation text, response_status integer, response_body jsonb, locked_by text DEFAULT NULL) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  UPDATE idempotency_keys i SET response_status = complete_idempotency_key.response_status, response_body = complete_idempotency_key.response_body, locked_at = NULL, lock_expires_at = NULL
  WHERE i.tenant_id = current_tenant_id() AND i.idempotency_key = key AND i.operation = complete_idempotency_key.operation AND i.locked_at IS NOT NULL AND i.response_status IS NULL
    AND i.locked_by IS NOT DISTINCT FROM complete_idempotency_key.locked_by;
  RETURN FOUND;
END
$$;
