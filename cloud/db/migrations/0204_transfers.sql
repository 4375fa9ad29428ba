-- What happens to a ticket between people: transfers, refunds, validations; and the audit of every change of its rights.
--
-- Order of locks: event, ticket, then the transfer or refund. What gates must hear goes through the event's version and the outbox.

CREATE TABLE ticket_transfers (
  tenant_id uuid NOT NULL,
  transfer_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  from_user_id text,
  to_user_id text,
  to_email text,
  -- SHA-256 of transfer_id and the code: the codes are told to the two people and kept nowhere.
  transfer_code_sha256 bytea CHECK (octet_length(transfer_code_sha256) = 32),
  acceptance_code_sha256 bytea CHECK (octet_length(acceptance_code_sha256) = 32),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'accepted', 'rejected', 'cancelled', 'completed', 'expired')),
  reason text,
  expires_at timestamptz NOT NULL DEFAULT now() + interval '3 days',
  tx_signature text,
  blockchain_confirmed boolean NOT NULL DEFAULT false,
  blockchain_confirmed_at timestamptz,
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, transfer_id),
  FOREIGN KEY (tenant_id, event_id, ticket_id) REFERENCES tickets (tenant_id, event_id, ticket_id),
  CHECK (to_user_id IS NOT NULL OR to_email IS NOT NULL),
  CHECK (from_user_id IS DISTINCT FROM to_user_id OR from_user_id IS NULL)
);
CREATE UNIQUE INDEX ticket_transfers_one_open ON ticket_transfers (tenant_id, event_id, ticket_id) WHERE status IN ('pending', 'accepted');
CREATE INDEX ticket_transfers_by_ticket ON ticket_transfers (tenant_id, event_id, ticket_id, created_at);
CREATE INDEX ticket_transfers_to ON ticket_transfers (tenant_id, to_user_id) WHERE status = 'pending';

CREATE FUNCTION next_transfer_statuses(status text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE status WHEN 'pending' THEN '{accepted,rejected,cancelled,expired}' WHEN 'accepted' THEN '{completed,cancelled,expired}' ELSE '{}' END::text[];
CREATE FUNCTION ticket_transfer_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.status <> OLD.status AND NOT NEW.status = ANY (next_transfer_statuses(OLD.status)) THEN
    PERFORM refuse(409, 'NOT_ALLOWED', format('the transfer is %s: it cannot become %s', OLD.status, NEW.status));
  END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
CREATE TRIGGER ticket_transfers_change BEFORE UPDATE ON ticket_transfers FOR EACH ROW EXECUTE FUNCTION ticket_transfer_change();

-- Offers a ticket to somebody. The codes come in hashed (transfer_code_hash).
CREATE FUNCTION transfer_code_hash(transfer uuid, code text) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN sha256(convert_to(transfer::text || '/' || code, 'UTF8'));
CREATE FUNCTION create_ticket_transfer(ticket text, from_user text, to_user text, acceptance_code text, event text DEFAULT NULL, to_email text DEFAULT NULL, lasts interval DEFAULT '3 days') RETURNS ticket_transfers LANGUAGE plpgsql AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
  made ticket_transfers;
  id uuid := gen_random_uuid();
BEGIN
  PERFORM 1 FROM events e WHERE e.tenant_id = t.tenant_id AND e.event_id = t.event_id FOR NO KEY UPDATE;
  SELECT * INTO t FROM tickets x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id FOR NO KEY UPDATE;
  IF NOT t.is_transferable THEN PERFORM refuse(409, 'NOT_ALLOWED', format('ticket %s may not be transferred', ticket)); END IF;
  IF t.blocked OR t.status NOT IN ('sold', 'minted', 'active', 'transferred') THEN PERFORM refuse(409, 'NOT_ALLOWED', format('ticket %s is %s: only one that is valid and unused can be transferred', ticket, CASE WHEN t.blocked THEN 'blocked' ELSE t.status::text END)); END IF;
  IF t.transfer_count >= t.max_transfers THEN PERFORM refuse(409, 'TOO_MANY', format('ticket %s was transferred %s times: no more', ticket, t.max_transfers)); END IF;
  IF t.user_id IS DISTINCT FROM from_user AND t.user_id IS NOT NULL THEN PERFORM refuse(403, 'FORBIDDEN', format('ticket %s is not theirs', ticket)); END IF;
  UPDATE ticket_transfers x SET status = 'expired' WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id AND x.status IN ('pending', 'accepted') AND x.expires_at <= now();
  IF EXISTS (SELECT FROM ticket_transfers x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id AND x.status IN ('pending', 'accepted')) THEN PERFORM refuse(409, 'NOT_ALLOWED', format('ticket %s is being transferred already', ticket)); END IF;
  INSERT INTO ticket_transfers (tenant_id, transfer_id, event_id, ticket_id, from_user_id, to_user_id, to_email, acceptance_code_sha256, expires_at)
  VALUES (t.tenant_id, id, t.event_id, t.ticket_id, from_user, to_user, create_ticket_transfer.to_email, transfer_code_hash(id, acceptance_code), now() + lasts) RETURNING * INTO made;
  INSERT INTO ticket_notifications (tenant_id, kind, user_id, event_id, ticket_id, detail) VALUES (t.tenant_id, 'transfer_offered', to_user, t.event_id, t.ticket_id, jsonb_build_object('transfer_id', id));
  RETURN made;
END
$$;

-- Accepted with its code and completed in one step: the ticket is the new holder's, with a new code where one is given (new_ref: ticket_ref_of); the old one
-- opens nothing any more.
CREATE FUNCTION accept_ticket_transfer(transfer uuid, acceptance_code text, to_user text, new_ref bytea DEFAULT NULL) RETURNS ticket_transfers LANGUAGE plpgsql AS $$
DECLARE
  x ticket_transfers;
  t tickets;
  risen bigint;
BEGIN
  SELECT * INTO x FROM ticket_transfers y WHERE y.tenant_id = current_tenant_id() AND y.transfer_id = transfer;
  IF x IS NULL THEN PERFORM refuse(404, 'NO_SUCH_TRANSFER', 'there is no such transfer'); END IF;
  PERFORM 1 FROM events e WHERE e.tenant_id = x.tenant_id AND e.event_id = x.event_id FOR NO KEY UPDATE;
  SELECT * INTO t FROM tickets y WHERE y.tenant_id = x.tenant_id AND y.event_id = x.event_id AND y.ticket_id = x.ticket_id FOR NO KEY UPDATE;
  SELECT * INTO x FROM ticket_transfers y WHERE y.tenant_id = x.tenant_id AND y.transfer_id = transfer FOR UPDATE;
  IF x.status <> 'pending' THEN PERFORM refuse(409, 'NOT_ALLOWED', format('the transfer is %s', x.status)); END IF;
  IF x.expires_at <= now() THEN PERFORM refuse(409, 'EXPIRED', 'the transfer has run out'); END IF;
  IF x.acceptance_code_sha256 IS DISTINCT FROM transfer_code_hash(transfer, acceptance_code) OR (x.to_user_id IS NOT NULL AND x.to_user_id <> to_user) THEN PERFORM refuse(403, 'FORBIDDEN', 'this is not the code of this transfer'); END IF;
  IF t.blocked OR t.status NOT IN ('sold', 'minted', 'active', 'transferred') THEN PERFORM refuse(409, 'NOT_ALLOWED', format('ticket %s is %s now', t.ticket_id, CASE WHEN t.blocked THEN 'blocked' ELSE t.status::text END)); END IF;
  risen := raise_event_version(x.event_id);
  IF new_ref IS NOT NULL AND new_ref <> t.ticket_ref THEN
    INSERT INTO ticket_tombstones AS y (tenant_id, event_id, ticket_ref, ticket_id, reason, changed_version) VALUES (t.tenant_id, t.event_id, t.ticket_ref, t.ticket_id, 'revoked', risen)
    ON CONFLICT (tenant_id, event_id, ticket_ref) DO UPDATE SET reason = 'revoked', ticket_id = excluded.ticket_id, changed_version = excluded.changed_version;
    DELETE FROM ticket_tombstones y WHERE y.tenant_id = t.tenant_id AND y.event_id = t.event_id AND y.ticket_ref = new_ref;
  END IF;
  PERFORM set_status_change_context(to_user, 'user', 'transfer ' || transfer, 'transfer');
  UPDATE tickets y SET status = 'transferred', user_id = to_user, ticket_ref = coalesce(new_ref, y.ticket_ref), transfer_count = y.transfer_count + 1, changed_version = risen, row_version = y.row_version + 1, updated_at = now()
  WHERE y.tenant_id = t.tenant_id AND y.event_id = t.event_id AND y.ticket_id = t.ticket_id;
  UPDATE ticket_transfers y SET status = 'accepted', to_user_id = to_user WHERE y.tenant_id = x.tenant_id AND y.transfer_id = transfer;
  UPDATE ticket_transfers y SET status = 'completed' WHERE y.tenant_id = x.tenant_id AND y.transfer_id = transfer RETURNING * INTO x;
  INSERT INTO ticket_notifications (tenant_id, kind, user_id, event_id, ticket_id, detail) VALUES (x.tenant_id, 'transfer_completed', x.from_user_id, x.event_id, x.ticket_id, jsonb_build_object('transfer_id', transfer));
  RETURN x;
END
$$;

-- Newest first; transfers that an operator made (ticket_actions) among them.
CREATE FUNCTION get_ticket_transfer_history(ticket text, event text DEFAULT NULL, at_most integer DEFAULT 100) RETURNS TABLE (transfer_id uuid, from_user_id text, to_user_id text, status text, reason text, at timestamptz, tx_signature text) LANGUAGE sql STABLE AS $$
  SELECT h.* FROM find_ticket(ticket, event) AS t CROSS JOIN LATERAL (
    SELECT x.transfer_id, x.from_user_id, x.to_user_id, x.status, x.reason, x.updated_at AS at, x.tx_signature FROM ticket_transfers x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id
    UNION ALL SELECT NULL, a.actor, a.detail ->> 'to_user_id', 'completed', a.reason, a.at, NULL FROM ticket_actions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id AND a.action = 'transfer') AS h
  ORDER BY h.at DESC LIMIT greatest(1, least(at_most, 1000))
$$;

CREATE TABLE refunds (
  tenant_id uuid NOT NULL,
  refund_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  order_id text,
  amount_cents bigint NOT NULL CHECK (amount_cents >= 0),
  currency text CHECK (currency ~ '^[A-Z]{3}$'),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'completed', 'failed')),
  reason text NOT NULL DEFAULT '',
  requested_by text,
  decided_by text,
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, refund_id),
  FOREIGN KEY (tenant_id, event_id, ticket_id) REFERENCES tickets (tenant_id, event_id, ticket_id)
);
CREATE UNIQUE INDEX refunds_one_open ON refunds (tenant_id, event_id, ticket_id) WHERE status NOT IN ('rejected', 'failed');
CREATE FUNCTION refund_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  paid bigint;
BEGIN
  IF TG_OP = 'INSERT' THEN
    SELECT t.price_cents INTO paid FROM tickets t WHERE t.tenant_id = NEW.tenant_id AND t.event_id = NEW.event_id AND t.ticket_id = NEW.ticket_id;
    IF NEW.status <> 'pending' THEN PERFORM refuse(409, 'NOT_ALLOWED', 'a refund begins pending'); END IF;
    IF NEW.amount_cents > paid THEN PERFORM refuse(409, 'TOO_MUCH', format('ticket %s cost %s: not more can be refunded', NEW.ticket_id, paid / 100.0)); END IF;
    RETURN NEW;
  END IF;
  IF NEW.status <> OLD.status AND NOT NEW.status = ANY (CASE OLD.status WHEN 'pending' THEN '{approved,rejected}' WHEN 'approved' THEN '{completed,failed}' ELSE '{}' END::text[]) THEN
    PERFORM refuse(409, 'NOT_ALLOWED', format('the refund is %s: it cannot become %s', OLD.status, NEW.status));
  END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
CREATE TRIGGER refunds_change BEFORE INSERT OR UPDATE ON refunds FOR EACH ROW EXECUTE FUNCTION refund_change();
-- The money is back: the ticket opens nothing any more, and the gates are told.
CREATE FUNCTION refund_completed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  risen bigint := raise_event_version(NEW.event_id);
BEGIN
  PERFORM set_status_change_context(coalesce(NEW.decided_by, context_of('current_user_id')), 'user', NEW.reason, 'refund');
  UPDATE tickets t SET status = 'refunded', changed_version = risen, row_version = t.row_version + 1, updated_at = now()
  WHERE t.tenant_id = NEW.tenant_id AND t.event_id = NEW.event_id AND t.ticket_id = NEW.ticket_id AND t.status <> 'refunded';
  INSERT INTO ticket_notifications (tenant_id, kind, user_id, event_id, ticket_id, detail)
  SELECT NEW.tenant_id, 'refunded', t.user_id, NEW.event_id, NEW.ticket_id, jsonb_build_object('amount_cents', NEW.amount_cents) FROM tickets t WHERE t.tenant_id = NEW.tenant_id AND t.event_id = NEW.event_id AND t.ticket_id = NEW.ticket_id;
  RETURN NULL;
END
$$;
CREATE TRIGGER refunds_to_tickets AFTER UPDATE OF status ON refunds FOR EACH ROW WHEN (NEW.status = 'completed' AND OLD.status <> 'completed') EXECUTE FUNCTION refund_completed();

-- Somebody looked at a ticket (and at who holds it) and said what it is. Not an entry.
CREATE TABLE ticket_validations (
  tenant_id uuid NOT NULL,
  validation_id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  result text NOT NULL CHECK (result IN ('valid', 'invalid')),
  method text NOT NULL DEFAULT 'manual' CHECK (method IN ('manual', 'scan', 'identity')),
  note text NOT NULL DEFAULT '',
  validated_by text,
  validated_by_id uuid,
  validated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_id, validation_id),
  FOREIGN KEY (tenant_id, event_id, ticket_id) REFERENCES tickets (tenant_id, event_id, ticket_id)
);
CREATE FUNCTION ticket_validated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.validated_by_id := uuid_or_null(NEW.validated_by);
  IF NEW.result = 'valid' THEN
    UPDATE tickets t SET validated_at = NEW.validated_at WHERE t.tenant_id = NEW.tenant_id AND t.event_id = NEW.event_id AND t.ticket_id = NEW.ticket_id AND t.validated_at IS NULL;
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER ticket_validations_mark BEFORE INSERT ON ticket_validations FOR EACH ROW EXECUTE FUNCTION ticket_validated();

-- Every change of a ticket's rights, by whoever writes it: what it was and what it became. Entries are not changes of rights: they are in the ledgers.
CREATE TABLE ticket_audit_log (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  action text NOT NULL CHECK (action IN ('update', 'delete')),
  actor text,
  actor_type text NOT NULL,
  source text,
  old_values jsonb NOT NULL,
  new_values jsonb NOT NULL DEFAULT '{}',
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_id, id)
);
CREATE FUNCTION audit_ticket() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  -- Hashes of codes, counts and versions say nothing to people.
  old_row jsonb := to_jsonb(OLD) - '{tenant_id,ticket_ref,row_version,changed_version,updated_at,created_at,scan_count,first_scanned_at,last_scanned_at,status_before_entry,status_changed_at,status_changed_by,status_reason}'::text[];
  new_row jsonb;
BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO ticket_audit_log (tenant_id, event_id, ticket_id, action, actor, actor_type, source, old_values)
    VALUES (OLD.tenant_id, OLD.event_id, OLD.ticket_id, 'delete', context_of('current_user_id'), actor_type_now(), context_of('status_change_source'), jsonb_strip_nulls(old_row));
    RETURN NULL;
  END IF;
  new_row := to_jsonb(NEW);
  INSERT INTO ticket_audit_log (tenant_id, event_id, ticket_id, action, actor, actor_type, source, old_values, new_values)
  SELECT NEW.tenant_id, NEW.event_id, NEW.ticket_id, 'update', context_of('current_user_id'), actor_type_now(), context_of('status_change_source'),
    coalesce(jsonb_object_agg(o.key, o.value), '{}') || CASE WHEN NEW.ticket_ref <> OLD.ticket_ref THEN '{"code": "old"}' ELSE '{}' END::jsonb,
    coalesce(jsonb_object_agg(o.key, new_row -> o.key), '{}') || CASE WHEN NEW.ticket_ref <> OLD.ticket_ref THEN '{"code": "new"}' ELSE '{}' END::jsonb
  FROM jsonb_each(old_row) AS o WHERE o.value IS DISTINCT FROM new_row -> o.key;
  RETURN NULL;
END
$$;
-- Whoever changes rights raises row_version; reconciliation does not.
CREATE TRIGGER tickets_audit AFTER UPDATE ON tickets FOR EACH ROW WHEN (OLD.row_version IS DISTINCT FROM NEW.row_version) EXECUTE FUNCTION audit_ticket();
CREATE TRIGGER tickets_audit_delete AFTER DELETE ON tickets FOR EACH ROW EXECUTE FUNCTION audit_ticket();

SELECT isolate_by_tenant(tab) FROM unnest(ARRAY['ticket_transfers', 'refunds', 'ticket_validations', 'ticket_audit_log']::regclass[]) AS tab;
REVOKE UPDATE, DELETE ON ticket_validations, ticket_audit_log FROM stile_service;
REVOKE DELETE ON ticket_transfers, refunds FROM stile_service;
