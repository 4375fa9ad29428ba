-- One more attempt that failed; at the limit the account is locked. Answers until when, NULL: not (yet). Counting begins anew after a lock or an unlocking.
CREATE OR REPLACE FUNCTION record_failed_attempt(account text, at_most integer DEFAULT 5, lock_minutes integer DEFAULT 15) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
  locked timestamptz;
  failed integer;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(format('lockout/%s/%s', current_tenant_id(), account), 5));
  locked := account_locked_until(account);
  IF locked IS NOT NULL THEN RETURN locked; END IF;
  SELECT count(*) + 1 INTO failed FROM account_lockout_events e WHERE e.tenant_id = current_tenant_id() AND e.user_id = account AND e.kind = 'failed_attempt'
    AND e.id > coalesce((SELECT max(x.id) FROM account_lockout_events x WHERE x.tenant_id = current_tenant_id() AND x.user_id = account AND x.kind <> 'failed_attempt'), 0);
  INSERT INTO account_lockout_events (tenant_id, user_id, kind, failed_count) VALUES (current_tenant_id(), account, 'failed_attempt', failed);
  IF failed < at_most THEN RETURN NULL; END IF;
  INSERT INTO account_lockout_events (tenant_id, user_id, kind, failed_count, locked_until) VALUES (current_tenant_id(), account, 'locked', failed, now() + make_interval(mins => lock_minutes)) RETURNING locked_until INTO locked;
  RETURN locked;
END
$$;
