-- Tickets in full: what was sold and for how much, the twelve states with their allowed changes, and every change with who, why and from where.
--
-- A refusal of the database that people should read has an SQLSTATE `ST` + an HTTP status (ST404, ST409 …), a code in CONSTRAINT and a sentence in MESSAGE.

CREATE FUNCTION refuse(http_status integer, code text, message text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'ST' || http_status, CONSTRAINT = code, MESSAGE = message;
END
$$;

-- Who acts, why and from where, for this transaction. What is set stays until it is set again or the transaction ends.
CREATE FUNCTION set_status_change_context(actor text, actor_type text DEFAULT 'user', reason text DEFAULT '', source text DEFAULT '') RETURNS void LANGUAGE sql
  BEGIN ATOMIC
    SELECT set_config('app.current_user_id', coalesce(actor, ''), true), set_config('app.actor_type', coalesce(actor_type, ''), true),
      set_config('app.status_change_reason', coalesce(reason, ''), true), set_config('app.status_change_source', coalesce(source, ''), true);
  END;
CREATE FUNCTION context_of(setting text) RETURNS text LANGUAGE sql STABLE
  RETURN nullif(current_setting('app.' || setting, true), '');
CREATE FUNCTION actor_type_now() RETURNS text LANGUAGE sql STABLE
  RETURN CASE WHEN context_of('actor_type') IN ('user', 'system', 'admin', 'service') THEN context_of('actor_type') WHEN context_of('current_user_id') IS NULL THEN 'system' ELSE 'user' END;

-- Rows that several may change at once: each change adds one, whoever makes it. A writer compares with WHERE row_version = …
CREATE FUNCTION raise_row_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;

ALTER TABLE tickets
  ADD COLUMN ticket_number text CHECK (ticket_number <> ''),
  ADD COLUMN user_id text CHECK (user_id <> ''),
  ADD COLUMN order_id text,
  ADD COLUMN payment_id text,
  ADD COLUMN currency text CHECK (currency ~ '^[A-Z]{3}$'),
  ADD COLUMN price_cents bigint CHECK (price_cents >= 0),
  ADD COLUMN face_value_cents bigint CHECK (face_value_cents >= 0),
  ADD COLUMN resale_price_cents bigint CHECK (resale_price_cents >= 0),
  ADD COLUMN max_resale_price_cents bigint CHECK (max_resale_price_cents >= 0),
  ADD COLUMN section text, ADD COLUMN seat_row text, ADD COLUMN seat text,
  ADD COLUMN is_transferable boolean NOT NULL DEFAULT true,
  ADD COLUMN transfer_count integer NOT NULL DEFAULT 0 CHECK (transfer_count >= 0),
  ADD COLUMN max_transfers integer CHECK (max_transfers > 0),
  ADD COLUMN is_nft boolean NOT NULL DEFAULT false,
  ADD COLUMN token_mint text CHECK (token_mint <> ''),
  ADD COLUMN status_reason text, ADD COLUMN status_changed_by text, ADD COLUMN status_changed_at timestamptz,
  ADD COLUMN purchased_at timestamptz,
  -- Somebody looked at it and found it right (ticket_validations); entering is first_scanned_at.
  ADD COLUMN validated_at timestamptz,
  ADD COLUMN deleted_at timestamptz,
  ADD CONSTRAINT tickets_resale_above_price CHECK (max_resale_price_cents IS NULL OR price_cents IS NULL OR max_resale_price_cents >= price_cents),
  ADD CONSTRAINT tickets_resale_within_limit CHECK (resale_price_cents IS NULL OR max_resale_price_cents IS NULL OR resale_price_cents <= max_resale_price_cents),
  ADD CONSTRAINT tickets_transfers_within_limit CHECK (max_transfers IS NULL OR transfer_count <= max_transfers),
  ADD CONSTRAINT tickets_mint_is_nft CHECK (token_mint IS NULL OR is_nft),
  -- What is away must not admit anybody.
  ADD CONSTRAINT tickets_deleted_opens_nothing CHECK (deleted_at IS NULL OR status IN ('available', 'revoked', 'refunded', 'expired', 'cancelled'));

-- None of these holds a column that a scan changes (status, counts), so that an entry still changes no index (0002). States are counted per event by its key.
CREATE UNIQUE INDEX tickets_number ON tickets (tenant_id, ticket_number) WHERE ticket_number IS NOT NULL;
CREATE UNIQUE INDEX tickets_token_mint ON tickets (tenant_id, token_mint) WHERE token_mint IS NOT NULL;
CREATE INDEX tickets_by_id ON tickets (tenant_id, ticket_id);
CREATE INDEX tickets_by_user ON tickets (tenant_id, user_id) WHERE user_id IS NOT NULL;
CREATE INDEX tickets_by_order ON tickets (tenant_id, order_id) WHERE order_id IS NOT NULL;

-- What people type when they look for a ticket. Names and addresses are not in the ticket.
CREATE FUNCTION ticket_text(ticket_id text, ticket_number text, section text, seat_row text, seat text, note text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN to_tsvector('simple'::regconfig, translate(coalesce(ticket_id, '') || ' ' || coalesce(ticket_number, '') || ' ' || coalesce(section, '') || ' ' || coalesce(seat_row, '') || ' ' || coalesce(seat, '') || ' ' || coalesce(note, ''), '-_:/.', '     '));
-- Tickets that have nothing but their id are found by that (tickets_by_id): a plain import fills no text index.
CREATE INDEX tickets_text ON tickets USING gin (ticket_text(ticket_id, ticket_number, section, seat_row, seat, note)) WHERE ticket_number IS NOT NULL OR seat IS NOT NULL OR note IS NOT NULL;
CREATE FUNCTION search_tickets(words text, at_most integer DEFAULT 50) RETURNS SETOF tickets LANGUAGE sql STABLE AS $$
  (SELECT t.* FROM tickets t WHERE t.tenant_id = current_tenant_id() AND t.ticket_id = words
  UNION
  SELECT t.* FROM tickets t WHERE t.tenant_id = current_tenant_id() AND (t.ticket_number IS NOT NULL OR t.seat IS NOT NULL OR t.note IS NOT NULL)
    AND ticket_text(t.ticket_id, t.ticket_number, t.section, t.seat_row, t.seat, t.note) @@ plainto_tsquery('simple'::regconfig, translate(words, '-_:/.', '     ')))
  ORDER BY event_id, ticket_id LIMIT least(at_most, 1000)
$$;

-- Where a ticket of this id stands. Refuses with NO_SUCH_TICKET, and with AMBIGUOUS_TICKET where several events have one and none is named.
CREATE FUNCTION find_ticket(ticket text, event text DEFAULT NULL) RETURNS tickets LANGUAGE plpgsql STABLE AS $$
DECLARE
  found tickets[];
BEGIN
  SELECT array_agg(x) INTO found FROM (SELECT t AS x FROM tickets t WHERE t.tenant_id = current_tenant_id() AND t.ticket_id = ticket AND (event IS NULL OR t.event_id = event) LIMIT 2) AS few;
  IF found IS NULL THEN PERFORM refuse(404, 'NO_SUCH_TICKET', format('there is no ticket %s%s', ticket, ' in ' || event)); END IF;
  IF cardinality(found) > 1 THEN PERFORM refuse(409, 'AMBIGUOUS_TICKET', format('%s is a ticket of several events: say which', ticket)); END IF;
  RETURN found[1];
END
$$;

-- The states that each state may change to. Beside these, checked_in goes back to what it was before the entry, once that is given back.
CREATE FUNCTION next_ticket_statuses(status ticket_status) RETURNS ticket_status[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE status
    WHEN 'available' THEN '{reserved,sold,minted,revoked,expired,cancelled}'
    WHEN 'reserved' THEN '{available,sold,minted,revoked,refunded,expired,cancelled}'
    WHEN 'sold' THEN '{minted,active,transferred,checked_in,used,revoked,refunded,expired,cancelled}'
    WHEN 'minted' THEN '{active,transferred,checked_in,used,revoked,refunded,expired,cancelled}'
    WHEN 'active' THEN '{minted,transferred,checked_in,used,revoked,refunded,expired,cancelled}'
    WHEN 'transferred' THEN '{minted,active,checked_in,used,revoked,refunded,expired,cancelled}'
    WHEN 'checked_in' THEN '{used,revoked,refunded,expired,cancelled}'
    WHEN 'used' THEN '{revoked,refunded,cancelled}'
    WHEN 'revoked' THEN '{refunded}'
    WHEN 'expired' THEN '{refunded}'
    WHEN 'cancelled' THEN '{refunded}'
    ELSE '{}' END::ticket_status[];

-- Held for every writer, the ticketing side's own statements apart: what it says of its sales (source `ticketing`: PUT, import) is so, and is kept as irregular.
CREATE FUNCTION ticket_status_change_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  source text := current_setting('app.status_change_source', true);
BEGIN
  IF NOT NEW.status = ANY (next_ticket_statuses(OLD.status)) AND NOT (OLD.status = 'checked_in' AND NEW.status IS NOT DISTINCT FROM OLD.status_before_entry) AND source IS DISTINCT FROM 'ticketing' THEN
    RAISE EXCEPTION USING ERRCODE = 'ST409', CONSTRAINT = 'NOT_ALLOWED', TABLE = 'tickets', COLUMN = 'status',
      MESSAGE = format('ticket %s is %s: it cannot become %s', NEW.ticket_id, OLD.status, NEW.status),
      HINT = 'from ' || OLD.status || ' it can become: ' || coalesce(nullif(array_to_string(next_ticket_statuses(OLD.status), ', '), ''), 'nothing any more');
  END IF;
  NEW.status_changed_at := now();
  NEW.status_changed_by := nullif(current_setting('app.current_user_id', true), '');
  NEW.status_reason := nullif(current_setting('app.status_change_reason', true), '');
  RETURN NEW;
END
$$;
CREATE TRIGGER tickets_status_change BEFORE UPDATE OF status ON tickets FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION ticket_status_change_trigger();

-- No foreign key: the history outlives the ticket.
CREATE TABLE ticket_state_history (
  tenant_id uuid NOT NULL REFERENCES tenants,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  previous_status ticket_status,
  new_status ticket_status NOT NULL,
  changed_by text,
  actor_type text NOT NULL CHECK (actor_type IN ('user', 'system', 'admin', 'service')),
  reason text,
  -- ledger: reconciliation, from what gates wrote. ticketing: the ticketing side's own statement. manual: a line without a change.
  source text NOT NULL,
  -- A change that no rule allows, taken because the ticketing side says so.
  irregular boolean NOT NULL DEFAULT false,
  changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_id, id)
);
SELECT isolate_by_tenant('ticket_state_history');
REVOKE UPDATE, DELETE ON ticket_state_history FROM stile_service;

-- A set at a time: an ingest changes a thousand tickets in one statement.
CREATE FUNCTION log_ticket_status_change() RETURNS trigger LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
BEGIN
  INSERT INTO ticket_state_history (tenant_id, event_id, ticket_id, previous_status, new_status, changed_by, actor_type, reason, source, irregular)
  SELECT n.tenant_id, n.event_id, n.ticket_id, o.status, n.status, s.actor, s.actor_type,
    CASE WHEN NOT l.from_ledger THEN s.reason WHEN n.status = 'checked_in' THEN 'first entry' ELSE 'the entry was given back' END,
    CASE WHEN l.from_ledger THEN 'ledger' ELSE coalesce(s.source, 'database') END,
    NOT l.from_ledger AND NOT n.status = ANY (next_ticket_statuses(o.status))
  FROM after_change n JOIN before_change o ON o.tenant_id = n.tenant_id AND o.event_id = n.event_id AND o.ticket_id = n.ticket_id AND o.status <> n.status
  CROSS JOIN LATERAL (SELECT (n.status = 'checked_in' AND n.status_before_entry = o.status) IS TRUE OR (o.status = 'checked_in' AND n.status = o.status_before_entry AND n.status_before_entry IS NULL) IS TRUE AS from_ledger) AS l
  CROSS JOIN (SELECT context_of('current_user_id') AS actor, actor_type_now() AS actor_type, context_of('status_change_reason') AS reason, context_of('status_change_source') AS source) AS s
  ORDER BY n.event_id, n.ticket_id;
  RETURN NULL;
END
$$;
CREATE TRIGGER tickets_log_status AFTER UPDATE ON tickets REFERENCING OLD TABLE AS before_change NEW TABLE AS after_change FOR EACH STATEMENT EXECUTE FUNCTION log_ticket_status_change();

-- A line about a ticket whose state did not change here: something found out, or done elsewhere.
CREATE FUNCTION log_ticket_status_change_manual(ticket text, previous ticket_status, new_status ticket_status, changed_by text, reason text, actor_type text DEFAULT 'admin', event text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
  line bigint;
BEGIN
  IF coalesce(changed_by, '') = '' OR coalesce(reason, '') = '' THEN PERFORM refuse(400, 'BAD_REQUEST', 'a line by hand needs who wrote it and why'); END IF;
  INSERT INTO ticket_state_history (tenant_id, event_id, ticket_id, previous_status, new_status, changed_by, actor_type, reason, source)
  VALUES (t.tenant_id, t.event_id, t.ticket_id, previous, new_status, changed_by, actor_type, reason, 'manual') RETURNING id INTO line;
  RETURN line;
END
$$;

-- Newest first.
CREATE FUNCTION get_ticket_state_history(ticket text, at_most integer DEFAULT 100, event text DEFAULT NULL)
  RETURNS TABLE (id bigint, previous_status ticket_status, new_status ticket_status, changed_by text, actor_type text, reason text, source text, irregular boolean, changed_at timestamptz) LANGUAGE sql STABLE AS $$
  SELECT h.id, h.previous_status, h.new_status, h.changed_by, h.actor_type, h.reason, h.source, h.irregular, h.changed_at
  FROM find_ticket(ticket, event) AS t JOIN ticket_state_history h ON h.tenant_id = t.tenant_id AND h.event_id = t.event_id AND h.ticket_id = t.ticket_id
  ORDER BY h.id DESC LIMIT greatest(1, least(at_most, 1000))
$$;

-- May this ticket come in for the first time, at this time? Its state and times alone: rules of gates and re-entry are the gates' and reconciliation's.
-- reason: of contract/reasons.ts. The event's own times where none are given.
CREATE FUNCTION can_check_in_ticket(ticket text, event_start timestamptz DEFAULT NULL, event_end timestamptz DEFAULT NULL, event text DEFAULT NULL, at timestamptz DEFAULT now(), OUT can_check_in boolean, OUT reason text, OUT message text) LANGUAGE plpgsql STABLE AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
BEGIN
  SELECT coalesce(event_start, e.starts_at), coalesce(event_end, e.ends_at) INTO event_start, event_end FROM events e WHERE e.tenant_id = t.tenant_id AND e.event_id = t.event_id;
  SELECT r.reason, r.message INTO reason, message FROM refusal_of_ticket(t, at) AS r;
  IF reason IS NULL AND t.status IN ('checked_in', 'used') THEN reason := 'already_redeemed'; message := 'the ticket was used before';
  ELSIF reason IS NULL AND event_start > at THEN reason := 'invalid_time'; message := format('the event begins at %s', event_start);
  ELSIF reason IS NULL AND event_end < at THEN reason := 'invalid_time'; message := format('the event ended at %s', event_end);
  END IF;
  can_check_in := reason IS NULL;
END
$$;

-- What a ticket's state says against an entry; NULL: nothing. The same order as rightOf in cloud/manifest/ticket-rights.ts.
CREATE FUNCTION refusal_of_ticket(t tickets, at timestamptz, OUT reason text, OUT message text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  CASE
    WHEN t.status = 'available' THEN reason := 'invalid'; message := 'nobody holds this ticket';
    WHEN t.status = 'revoked' THEN reason := 'revoked'; message := 'the ticket was revoked';
    WHEN t.status IN ('refunded', 'cancelled') THEN reason := 'canceled'; message := format('the ticket is %s', t.status);
    WHEN t.status = 'expired' THEN reason := 'invalid_time'; message := 'the ticket has expired';
    WHEN t.blocked THEN reason := 'blocked'; message := 'the ticket is blocked' || coalesce(': ' || t.note, '');
    WHEN t.status = 'reserved' THEN reason := 'unpaid'; message := 'the ticket is not paid';
    WHEN NOT t.approved THEN reason := 'unapproved'; message := 'the ticket is not approved yet';
    WHEN t.valid_from > at THEN reason := 'invalid_time'; message := format('valid from %s', to_char(t.valid_from AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'));
    WHEN t.valid_until < at THEN reason := 'invalid_time'; message := format('was valid until %s', to_char(t.valid_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'));
    ELSE NULL;
  END CASE;
END
$$;

-- Tickets under the names that the forerunners' reports use.
CREATE VIEW ticket_overview WITH (security_invoker = true) AS
  SELECT t.tenant_id, t.event_id, t.ticket_id AS id, t.tier AS ticket_type_id, t.user_id, t.ticket_number, t.order_id, t.payment_id, t.currency, t.price_cents, t.price_cents / 100.0 AS price, t.face_value_cents / 100.0 AS face_value,
    t.section, t.seat_row AS "row", t.seat, t.status, t.scan_count > 0 OR t.validated_at IS NOT NULL AS is_validated, coalesce(t.first_scanned_at, t.validated_at) AS validated_at, t.is_transferable, t.is_nft, t.token_mint,
    t.status_reason, t.status_changed_by, t.status_changed_at, t.purchased_at, t.valid_from, t.valid_until AS expires_at, t.scan_count, t.first_scanned_at, t.last_scanned_at, t.created_at, t.updated_at, t.deleted_at
  FROM tickets t;
GRANT SELECT ON ticket_overview TO stile_service;
