-- Checks and locks in one step. state: acquired (do the work), locked (somebody does it), completed (here is the answer), other_request (the key was used for
-- something else). A lock that ran out is taken over.
CREATE OR REPLACE FUNCTION acquire_idempotency_key(key text, operation text, request_sha256 bytea, locked_by text DEFAULT NULL, lock_s integer DEFAULT 60, OUT acquired boolean, OUT state text, OUT response_status integer, OUT response_body jsonb) LANGUAGE plpgsql AS $$
DECLARE
  k idempotency_keys;
BEGIN
  INSERT INTO idempotency_keys AS i (tenant_id, idempotency_key, operation, request_sha256, locked_at, locked_by, lock_expires_at)
  VALUES (current_tenant_id(), key, acquire_idempotency_key.operation, acquire_idempotency_key.request_sha256, now(), acquire_idempotency_key.locked_by, clock_timestamp() + make_interval(secs => lock_s))
  ON CONFLICT DO NOTHING RETURNING i.* INTO k;
  acquired := k.idempotency_key IS NOT NULL;
  state := 'acquired';
  IF acquired THEN RETURN; END IF;
  SELECT * INTO k FROM idempotency_keys i WHERE i.tenant_id = current_tenant_id() AND i.idempotency_key = key AND i.operation = acquire_idempotency_key.operation FOR UPDATE;
  -- Removed between the two: whoever asks again gets it.
  IF k.idempotency_key IS NULL THEN acquired := false; state := 'locked'; RETURN; END IF;
  IF k.expires_at > now() THEN
    IF k.request_sha256 <> acquire_idempotency_key.request_sha256 THEN state := 'other_request'; RETURN; END IF;
    IF k.response_status IS NOT NULL THEN state := 'completed'; response_status := k.response_status; response_body := k.response_body; RETURN; END IF;
    IF k.locked_at IS NOT NULL AND (k.lock_expires_at IS NULL OR k.lock_expires_at > clock_timestamp()) THEN state := 'locked'; RETURN; END IF;
  END IF;
  UPDATE idempotency_keys i SET request_sha256 = acquire_idempotency_key.request_sha256, locked_at = now(), locked_by = acquire_idempotency_key.locked_by, lock_expires_at = clock_timestamp() + make_interval(secs => lock_s),
    response_status = NULL, response_body = NULL, failed_at = NULL, attempts = i.attempts + 1, expires_at = now() + interval '24 hours'
  WHERE i.tenant_id = k.tenant_id AND i.idempotency_key = key AND i.operation = k.operation;
  acquired := true;
END
$$;
