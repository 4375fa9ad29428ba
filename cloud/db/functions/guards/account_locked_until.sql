-- NULL: not locked.
CREATE OR REPLACE FUNCTION account_locked_until(account text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN e.kind = 'locked' AND e.locked_until > now() THEN e.locked_until END FROM account_lockout_events e WHERE e.tenant_id = current_tenant_id() AND e.user_id = account AND e.kind <> 'failed_attempt' ORDER BY e.id DESC LIMIT 1
$$;
