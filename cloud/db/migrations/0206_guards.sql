-- Guards: tenants that keep to themselves, writes that happen once, limits of spending, accounts that are locked, acts that need several people.

-- Somebody reached for what is not theirs. Kept also where no tenant is set: then only who has none set sees it.
CREATE TABLE tenant_access_violations (
  tenant_id uuid,
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  attempted_tenant_id uuid,
  what text NOT NULL CHECK (what <> ''),
  actor text,
  detail jsonb NOT NULL DEFAULT '{}',
  database_role text NOT NULL DEFAULT current_user,
  at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tenant_access_violations_by_time ON tenant_access_violations (tenant_id, at DESC);
ALTER TABLE tenant_access_violations ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_access_violations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON tenant_access_violations USING (tenant_id IS NOT DISTINCT FROM current_tenant_id()) WITH CHECK (tenant_id IS NOT DISTINCT FROM current_tenant_id());
GRANT SELECT, INSERT ON tenant_access_violations TO stile_service;

-- The tenant of this transaction, or a refusal: none is set, or there is no such tenant.
CREATE FUNCTION verify_tenant_context() RETURNS uuid LANGUAGE plpgsql STABLE AS $$
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
-- In a transaction of its own where the attempt's is rolled back.
CREATE FUNCTION log_tenant_violation(attempted_tenant uuid, what text, actor text DEFAULT NULL, detail jsonb DEFAULT '{}') RETURNS bigint LANGUAGE sql AS $$
  INSERT INTO tenant_access_violations (tenant_id, attempted_tenant_id, what, actor, detail) VALUES (current_tenant_id(), attempted_tenant, left(what, 200), coalesce(actor, context_of('current_user_id')), detail) RETURNING id
$$;

-- What one holder, or the owner of a venue, may see. For programs that speak for one person (app.current_user_id).
CREATE VIEW my_tickets WITH (security_invoker = true) AS SELECT t.* FROM ticket_overview t WHERE t.user_id = context_of('current_user_id') AND t.deleted_at IS NULL;
CREATE VIEW my_venues_tickets WITH (security_invoker = true) AS
  SELECT t.* FROM ticket_overview t JOIN events e ON e.tenant_id = t.tenant_id AND e.event_id = t.event_id
  WHERE EXISTS (SELECT FROM venues v WHERE v.tenant_id = e.tenant_id AND v.site_id = e.site_id AND v.owner_user_id = context_of('current_user_id'));
GRANT SELECT ON my_tickets, my_venues_tickets TO stile_service;

-- Writes that happen once, for callers whose work is longer than a transaction (cloud/tickets/idempotency.ts is for those whose is not; the table is theirs both).
ALTER TABLE idempotency_keys ADD COLUMN attempts integer NOT NULL DEFAULT 1, ADD COLUMN failed_at timestamptz;

-- Checks and locks in one step. state: acquired (do the work), locked (somebody does it), completed (here is the answer), other_request (the key was used for
-- something else). A lock that ran out is taken over.
CREATE FUNCTION acquire_idempotency_key(key text, operation text, request_sha256 bytea, locked_by text DEFAULT NULL, lock_s integer DEFAULT 60, OUT acquired boolean, OUT state text, OUT response_status integer, OUT response_body jsonb) LANGUAGE plpgsql AS $$
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
-- Keeps the answer; false: the lock is not held (any more), or by somebody else.
CREATE FUNCTION complete_idempotency_key(key text, operation text, response_status integer, response_body jsonb, locked_by text DEFAULT NULL) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  UPDATE idempotency_keys i SET response_status = complete_idempotency_key.response_status, response_body = complete_idempotency_key.response_body, locked_at = NULL, lock_expires_at = NULL
  WHERE i.tenant_id = current_tenant_id() AND i.idempotency_key = key AND i.operation = complete_idempotency_key.operation AND i.locked_at IS NOT NULL AND i.response_status IS NULL
    AND (complete_idempotency_key.locked_by IS NULL OR i.locked_by = complete_idempotency_key.locked_by);
  RETURN FOUND;
END
$$;
-- Lets go without an answer: as if never asked, or (set_failed) remembered as failed; either way the next may try. Answers how many were let go.
CREATE FUNCTION release_idempotency_lock(key text, set_failed boolean DEFAULT false, operation text DEFAULT NULL) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  released integer;
BEGIN
  IF set_failed THEN
    UPDATE idempotency_keys i SET locked_at = NULL, locked_by = NULL, lock_expires_at = NULL, failed_at = now()
    WHERE i.tenant_id = current_tenant_id() AND i.idempotency_key = key AND (release_idempotency_lock.operation IS NULL OR i.operation = release_idempotency_lock.operation) AND i.response_status IS NULL AND i.locked_at IS NOT NULL;
  ELSE
    DELETE FROM idempotency_keys i WHERE i.tenant_id = current_tenant_id() AND i.idempotency_key = key AND (release_idempotency_lock.operation IS NULL OR i.operation = release_idempotency_lock.operation) AND i.response_status IS NULL AND i.locked_at IS NOT NULL;
  END IF;
  GET DIAGNOSTICS released = ROW_COUNT;
  RETURN released;
END
$$;
CREATE FUNCTION cleanup_expired_idempotency_keys(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  removed integer;
BEGIN
  DELETE FROM idempotency_keys i WHERE i.tenant_id = current_tenant_id() AND (i.idempotency_key, i.operation) IN (
    SELECT x.idempotency_key, x.operation FROM idempotency_keys x WHERE x.tenant_id = current_tenant_id() AND x.expires_at < now() AND (x.lock_expires_at IS NULL OR x.lock_expires_at < now()) ORDER BY x.expires_at LIMIT at_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS removed = ROW_COUNT;
  RETURN removed;
END
$$;

-- A message that came with this nonce was taken.
CREATE TABLE webhook_nonces (
  tenant_id uuid NOT NULL REFERENCES tenants,
  source text NOT NULL CHECK (source <> ''),
  nonce text NOT NULL CHECK (length(nonce) BETWEEN 1 AND 200),
  received_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, source, nonce)
);
CREATE INDEX webhook_nonces_by_expiry ON webhook_nonces (tenant_id, expires_at);
-- True for the first who brings it; what ran out is removed on the way.
CREATE FUNCTION use_webhook_nonce(source text, nonce text, keep_s integer DEFAULT 86400) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM webhook_nonces w WHERE w.tenant_id = current_tenant_id() AND (w.source, w.nonce) IN (SELECT x.source, x.nonce FROM webhook_nonces x WHERE x.tenant_id = current_tenant_id() AND x.expires_at < now() LIMIT 100 FOR UPDATE SKIP LOCKED);
  INSERT INTO webhook_nonces (tenant_id, source, nonce, expires_at) VALUES (current_tenant_id(), use_webhook_nonce.source, use_webhook_nonce.nonce, now() + make_interval(secs => keep_s)) ON CONFLICT DO NOTHING;
  RETURN FOUND;
END
$$;

-- What a user may spend, in cents, in rolling windows; NULL: no limit of that kind. In order.
CREATE TABLE spending_limits (
  tenant_id uuid NOT NULL REFERENCES tenants,
  user_id text NOT NULL,
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  per_transaction_cents bigint CHECK (per_transaction_cents >= 0),
  per_day_cents bigint CHECK (per_day_cents >= 0),
  per_week_cents bigint CHECK (per_week_cents >= 0),
  per_month_cents bigint CHECK (per_month_cents >= 0),
  row_version bigint NOT NULL DEFAULT 1,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, user_id, currency),
  -- least() passes over what is not set.
  CONSTRAINT spending_limits_in_order CHECK (coalesce(per_transaction_cents <= least(per_day_cents, per_week_cents, per_month_cents), true) AND coalesce(per_day_cents <= least(per_week_cents, per_month_cents), true) AND coalesce(per_week_cents <= per_month_cents, true))
);
CREATE TRIGGER spending_limits_version BEFORE UPDATE ON spending_limits FOR EACH ROW EXECUTE FUNCTION raise_row_version();
CREATE TABLE spending_transactions (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  user_id text NOT NULL,
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  amount_cents bigint NOT NULL CHECK (amount_cents > 0),
  order_id text,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id)
);
CREATE INDEX spending_transactions_by_user ON spending_transactions (tenant_id, user_id, currency, at DESC);
-- Notes what is spent, or refuses: LIMIT. One at a time for a user.
CREATE FUNCTION spend_within_limits(spender text, amount_cents bigint, currency text, order_id text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  l spending_limits;
  day_sum bigint; week_sum bigint; month_sum bigint;
  line bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(format('spend/%s/%s/%s', current_tenant_id(), spender, currency), 5));
  SELECT * INTO l FROM spending_limits x WHERE x.tenant_id = current_tenant_id() AND x.user_id = spender AND x.currency = spend_within_limits.currency;
  SELECT coalesce(sum(x.amount_cents) FILTER (WHERE x.at > now() - interval '1 day'), 0), coalesce(sum(x.amount_cents) FILTER (WHERE x.at > now() - interval '7 days'), 0), coalesce(sum(x.amount_cents), 0) INTO day_sum, week_sum, month_sum
  FROM spending_transactions x WHERE x.tenant_id = current_tenant_id() AND x.user_id = spender AND x.currency = spend_within_limits.currency AND x.at > now() - interval '30 days';
  IF spend_within_limits.amount_cents > l.per_transaction_cents THEN PERFORM refuse(409, 'LIMIT', format('at most %s at once', l.per_transaction_cents / 100.0)); END IF;
  IF day_sum + spend_within_limits.amount_cents > l.per_day_cents THEN PERFORM refuse(409, 'LIMIT', format('at most %s a day', l.per_day_cents / 100.0)); END IF;
  IF week_sum + spend_within_limits.amount_cents > l.per_week_cents THEN PERFORM refuse(409, 'LIMIT', format('at most %s a week', l.per_week_cents / 100.0)); END IF;
  IF month_sum + spend_within_limits.amount_cents > l.per_month_cents THEN PERFORM refuse(409, 'LIMIT', format('at most %s in 30 days', l.per_month_cents / 100.0)); END IF;
  INSERT INTO spending_transactions (tenant_id, user_id, currency, amount_cents, order_id) VALUES (current_tenant_id(), spender, spend_within_limits.currency, spend_within_limits.amount_cents, spend_within_limits.order_id) RETURNING id INTO line;
  RETURN line;
END
$$;

CREATE TABLE account_lockout_events (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  user_id text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('failed_attempt', 'locked', 'unlocked')),
  failed_count integer NOT NULL DEFAULT 0 CHECK (failed_count >= 0),
  locked_until timestamptz,
  actor text,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, user_id, id),
  CHECK ((kind = 'locked') = (locked_until IS NOT NULL))
);
-- NULL: not locked.
CREATE FUNCTION account_locked_until(account text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN e.kind = 'locked' AND e.locked_until > now() THEN e.locked_until END FROM account_lockout_events e WHERE e.tenant_id = current_tenant_id() AND e.user_id = account AND e.kind <> 'failed_attempt' ORDER BY e.id DESC LIMIT 1
$$;
-- One more attempt that failed; at the limit the account is locked. Answers until when, NULL: not (yet). Counting begins anew after a lock or an unlocking.
CREATE FUNCTION record_failed_attempt(account text, at_most integer DEFAULT 5, lock_minutes integer DEFAULT 15) RETURNS timestamptz LANGUAGE plpgsql AS $$
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
-- After a success, or by hand; false: there was nothing to undo.
CREATE FUNCTION unlock_account(account text, actor text DEFAULT NULL) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(format('lockout/%s/%s', current_tenant_id(), account), 5));
  IF coalesce((SELECT e.kind FROM account_lockout_events e WHERE e.tenant_id = current_tenant_id() AND e.user_id = account ORDER BY e.id DESC LIMIT 1), 'unlocked') = 'unlocked' THEN RETURN false; END IF;
  INSERT INTO account_lockout_events (tenant_id, user_id, kind, actor) VALUES (current_tenant_id(), account, 'unlocked', actor);
  RETURN true;
END
$$;

-- Acts that several people must agree to. One rejection is enough to stop one; nobody agrees to their own.
CREATE TABLE multisig_approval_requests (
  tenant_id uuid NOT NULL REFERENCES tenants,
  request_id uuid NOT NULL DEFAULT gen_random_uuid(),
  operation text NOT NULL CHECK (operation <> ''),
  payload jsonb NOT NULL DEFAULT '{}',
  requested_by text NOT NULL,
  required_approvals integer NOT NULL CHECK (required_approvals BETWEEN 1 AND 20),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'expired', 'executed')),
  expires_at timestamptz NOT NULL DEFAULT now() + interval '1 day',
  executed_at timestamptz,
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, request_id)
);
CREATE TABLE multisig_approvals (
  tenant_id uuid NOT NULL, request_id uuid NOT NULL, approver text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, request_id, approver),
  FOREIGN KEY (tenant_id, request_id) REFERENCES multisig_approval_requests (tenant_id, request_id)
);
CREATE TABLE multisig_rejections (
  tenant_id uuid NOT NULL, request_id uuid NOT NULL, approver text NOT NULL,
  reason text NOT NULL CHECK (reason <> ''),
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, request_id, approver),
  FOREIGN KEY (tenant_id, request_id) REFERENCES multisig_approval_requests (tenant_id, request_id)
);
CREATE FUNCTION multisig_request_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.operation, NEW.payload, NEW.requested_by, NEW.required_approvals) IS DISTINCT FROM (OLD.operation, OLD.payload, OLD.requested_by, OLD.required_approvals) THEN PERFORM refuse(409, 'NOT_ALLOWED', 'what was asked for cannot be changed: ask anew'); END IF;
  IF NEW.status <> OLD.status THEN
    IF NOT NEW.status = ANY (CASE OLD.status WHEN 'pending' THEN '{approved,rejected,expired}' WHEN 'approved' THEN '{executed,expired}' ELSE '{}' END::text[]) THEN PERFORM refuse(409, 'NOT_ALLOWED', format('the request is %s: it cannot become %s', OLD.status, NEW.status)); END IF;
    IF NEW.status IN ('approved', 'executed') AND (SELECT count(*) FROM multisig_approvals a WHERE a.tenant_id = NEW.tenant_id AND a.request_id = NEW.request_id) < NEW.required_approvals THEN PERFORM refuse(409, 'NOT_ALLOWED', format('%s have to agree first', NEW.required_approvals)); END IF;
    IF NEW.status = 'executed' AND NEW.expires_at <= now() THEN PERFORM refuse(409, 'EXPIRED', 'the request has run out'); END IF;
    IF NEW.status = 'executed' THEN NEW.executed_at := now(); END IF;
  END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
CREATE TRIGGER multisig_requests_change BEFORE UPDATE ON multisig_approval_requests FOR EACH ROW EXECUTE FUNCTION multisig_request_change();
CREATE FUNCTION multisig_may_vote() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  r multisig_approval_requests;
BEGIN
  SELECT * INTO r FROM multisig_approval_requests x WHERE x.tenant_id = NEW.tenant_id AND x.request_id = NEW.request_id FOR UPDATE;
  IF r.request_id IS NULL THEN PERFORM refuse(404, 'NO_SUCH_REQUEST', 'there is no such request'); END IF;
  IF r.status <> 'pending' THEN PERFORM refuse(409, 'NOT_ALLOWED', format('the request is %s', r.status)); END IF;
  IF r.expires_at <= now() THEN PERFORM refuse(409, 'EXPIRED', 'the request has run out'); END IF;
  IF TG_TABLE_NAME = 'multisig_approvals' AND NEW.approver = r.requested_by THEN PERFORM refuse(403, 'FORBIDDEN', 'nobody agrees to their own request'); END IF;
  RETURN NEW;
END
$$;
CREATE FUNCTION multisig_voted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME = 'multisig_rejections' THEN
    UPDATE multisig_approval_requests x SET status = 'rejected' WHERE x.tenant_id = NEW.tenant_id AND x.request_id = NEW.request_id;
  ELSE
    UPDATE multisig_approval_requests x SET status = 'approved' WHERE x.tenant_id = NEW.tenant_id AND x.request_id = NEW.request_id
      AND (SELECT count(*) FROM multisig_approvals a WHERE a.tenant_id = x.tenant_id AND a.request_id = x.request_id) >= x.required_approvals;
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER multisig_approvals_check BEFORE INSERT ON multisig_approvals FOR EACH ROW EXECUTE FUNCTION multisig_may_vote();
CREATE TRIGGER multisig_approvals_count AFTER INSERT ON multisig_approvals FOR EACH ROW EXECUTE FUNCTION multisig_voted();
CREATE TRIGGER multisig_rejections_check BEFORE INSERT ON multisig_rejections FOR EACH ROW EXECUTE FUNCTION multisig_may_vote();
CREATE TRIGGER multisig_rejections_count AFTER INSERT ON multisig_rejections FOR EACH ROW EXECUTE FUNCTION multisig_voted();

SELECT isolate_by_tenant(tab) FROM unnest(ARRAY['webhook_nonces', 'spending_limits', 'spending_transactions', 'account_lockout_events', 'multisig_approval_requests', 'multisig_approvals', 'multisig_rejections']::regclass[]) AS tab;
REVOKE UPDATE, DELETE ON spending_transactions, account_lockout_events, multisig_approvals, multisig_rejections FROM stile_service;
REVOKE DELETE ON multisig_approval_requests FROM stile_service;
