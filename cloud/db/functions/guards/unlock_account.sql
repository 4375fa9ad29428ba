-- After a success, or by hand; false: there was nothing to undo.
CREATE OR REPLACE FUNCTION unlock_account(account text, actor text DEFAULT NULL) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(format('lockout/%s/%s', current_tenant_id(), account), 5));
  IF coalesce((SELECT e.kind FROM account_lockout_events e WHERE e.tenant_id = current_tenant_id() AND e.user_id = account ORDER BY e.id DESC LIMIT 1), 'unlocked') = 'unlocked' THEN RETURN false; END IF;
  INSERT INTO account_lockout_events (tenant_id, user_id, kind, actor) VALUES (current_tenant_id(), account, 'unlocked', actor);
  RETURN true;
END
$$;
