-- Lets go without an answer: as if never asked, or (set_failed) remembered as failed; either way the next may try. Answers how many were let go: 0 where the
-- lock is somebody else's, taken over meanwhile or never held. Without locked_by: of locks that were taken without a name.
CREATE OR REPLACE FUNCTION release_idempotency_lock(key text, set_failed boolean DEFAULT false, operation text DEFAULT NULL, locked_by text DEFAULT NULL) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  released integer;
BEGIN
  IF set_failed THEN
    UPDATE idempotency_keys i SET locked_at = NULL, locked_by = NULL, lock_expires_at = NULL, failed_at = now()
    WHERE i.tenant_id = current_tenant_id() AND i.idempotency_key = key AND (release_idempotency_lock.operation IS NULL OR i.operation = release_idempotency_lock.operation) AND i.response_status IS NULL AND i.locked_at IS NOT NULL
      AND i.locked_by IS NOT DISTINCT FROM release_idempotency_lock.locked_by;
  ELSE
    DELETE FROM idempotency_keys i WHERE i.tenant_id = current_tenant_id() AND i.idempotency_key = key AND (release_idempotency_lock.operation IS NULL OR i.operation = release_idempotency_lock.operation) AND i.response_status IS NULL AND i.locked_at IS NOT NULL
      AND i.locked_by IS NOT DISTINCT FROM release_idempotency_lock.locked_by;
  END IF;
  GET DIAGNOSTICS released = ROW_COUNT;
  RETURN released;
END
$$;
