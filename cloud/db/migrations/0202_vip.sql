-- VIP: reservations with their guests' passes, and general tickets that are linked to one.
--
-- A pass is a ticket with vip = true, so gates admit it, and let it in again, without asking. Whether it is here follows from the account alone: when
-- reconciliation changes the ticket, the trigger below brings pass, reservation and scan log to what the account says, whoever scanned it: a gate, or
-- process_vip_scan_with_reentry. Order of locks: event, ledger, ticket, pass, reservation.

CREATE TABLE vip_reservations (
  tenant_id uuid NOT NULL,
  reservation_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  -- A table, a box: never a person.
  label text NOT NULL DEFAULT '',
  host_user_id text,
  guest_count integer NOT NULL CHECK (guest_count BETWEEN 1 AND 500),
  checked_in_guests integer NOT NULL DEFAULT 0 CHECK (checked_in_guests BETWEEN 0 AND guest_count),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'confirmed', 'checked_in', 'completed', 'cancelled', 'no_show')),
  checked_in_at timestamptz,
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, reservation_id),
  UNIQUE (tenant_id, event_id, reservation_id),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);

-- guest_number 0: the host. The token is not here: its salted hash is the ticket's ticket_ref.
CREATE TABLE vip_guest_passes (
  tenant_id uuid NOT NULL,
  pass_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  reservation_id uuid NOT NULL,
  guest_number integer NOT NULL CHECK (guest_number >= 0),
  ticket_id text NOT NULL,
  status text NOT NULL DEFAULT 'issued' CHECK (status IN ('issued', 'checked_in', 'revoked')),
  entries integer NOT NULL DEFAULT 0,
  checked_in_at timestamptz,
  last_entry_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, pass_id),
  UNIQUE (tenant_id, reservation_id, guest_number),
  UNIQUE (tenant_id, event_id, ticket_id),
  FOREIGN KEY (tenant_id, event_id, reservation_id) REFERENCES vip_reservations (tenant_id, event_id, reservation_id),
  FOREIGN KEY (tenant_id, event_id, ticket_id) REFERENCES tickets (tenant_id, event_id, ticket_id)
);

-- General tickets with the host's right to come in again.
CREATE TABLE vip_linked_tickets (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  reservation_id uuid NOT NULL,
  -- What the ticket was before, to return to.
  was_vip boolean NOT NULL DEFAULT false,
  linked_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_id),
  FOREIGN KEY (tenant_id, event_id, reservation_id) REFERENCES vip_reservations (tenant_id, event_id, reservation_id),
  FOREIGN KEY (tenant_id, event_id, ticket_id) REFERENCES tickets (tenant_id, event_id, ticket_id)
);
CREATE INDEX vip_linked_tickets_by_reservation ON vip_linked_tickets (tenant_id, reservation_id);

-- Every entry of a VIP, once for its row of the ledger, and refusals at the VIP door.
CREATE TABLE vip_scan_logs (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  reservation_id uuid,
  -- NULL: a linked general ticket.
  pass_id uuid,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  scan_type text NOT NULL CHECK (scan_type IN ('first_entry', 'reentry', 'refused')),
  reason text,
  scanned_at timestamptz NOT NULL,
  previous_entry_at timestamptz,
  scanned_by text,
  scanned_by_id uuid,
  -- The account no longer counts it: the entry was given back.
  given_back boolean NOT NULL DEFAULT false,
  gate text NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL,
  PRIMARY KEY (tenant_id, id),
  UNIQUE (tenant_id, gate, epoch, seq)
);
CREATE INDEX vip_scan_logs_by_ticket ON vip_scan_logs (tenant_id, event_id, ticket_id, scanned_at DESC);
CREATE INDEX vip_scan_logs_by_reservation ON vip_scan_logs (tenant_id, reservation_id, scanned_at DESC);
SELECT isolate_by_tenant(tab) FROM unnest(ARRAY['vip_reservations', 'vip_guest_passes', 'vip_linked_tickets', 'vip_scan_logs']::regclass[]) AS tab;

-- A change that gates must hear of: the event's next version, and a mark for those who tell them.
CREATE FUNCTION raise_event_version(event text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  risen bigint;
BEGIN
  UPDATE events e SET version = next_event_version(e.version), updated_at = now() WHERE e.tenant_id = current_tenant_id() AND e.event_id = event RETURNING e.version INTO risen;
  IF risen IS NULL THEN PERFORM refuse(404, 'NO_SUCH_EVENT', format('there is no event %s', event)); END IF;
  INSERT INTO outbox (tenant_id, kind, key) VALUES (current_tenant_id(), 'event', event);
  RETURN risen;
END
$$;

-- As ticketRef in cloud/tickets/codes/code-hash.ts: a scanner's marks before the code are taken off.
CREATE FUNCTION ticket_ref_of(event text, code text) RETURNS bytea LANGUAGE sql STABLE
  AS $$ SELECT substring(sha256(e.salt || convert_to(regexp_replace(code, '^((\][A-Za-z][0-9A-Za-z]|\\[0-9]{6})\s*){1,4}', ''), 'UTF8')) FOR 16) FROM events e WHERE e.tenant_id = current_tenant_id() AND e.event_id = event $$;

CREATE FUNCTION next_vip_statuses(status text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE status WHEN 'pending' THEN '{confirmed,cancelled}' WHEN 'confirmed' THEN '{checked_in,cancelled,no_show}' WHEN 'checked_in' THEN '{completed,cancelled}' WHEN 'no_show' THEN '{checked_in}' ELSE '{}' END::text[];

-- Tests, and nothing else: a setting that no program of ours makes, and a database that says so by its name.
CREATE FUNCTION is_test_database() RETURNS boolean LANGUAGE sql STABLE
  RETURN coalesce(current_setting('stile.test_mode', true), '') = 'on' AND current_database() ~ '^(stile_)?test';

CREATE FUNCTION vip_reservation_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.status <> OLD.status AND NOT NEW.status = ANY (next_vip_statuses(OLD.status)) AND NOT (current_setting('app.vip_reset', true) = 'on' AND is_test_database()) THEN
    PERFORM refuse(409, 'NOT_ALLOWED', format('the reservation is %s: it cannot become %s', OLD.status, NEW.status));
  END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
CREATE TRIGGER vip_reservations_change BEFORE UPDATE ON vip_reservations FOR EACH ROW EXECUTE FUNCTION vip_reservation_change();

-- A pass is worth what its reservation is: unpaid until it is confirmed, nothing once it is off.
CREATE FUNCTION vip_passes_follow_reservation() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  target ticket_status := CASE WHEN NEW.status = 'confirmed' AND OLD.status = 'pending' THEN 'sold' WHEN NEW.status = 'cancelled' THEN 'cancelled' END;
BEGIN
  IF target IS NOT NULL THEN
    UPDATE tickets t SET status = target, changed_version = raise_event_version(NEW.event_id), row_version = t.row_version + 1, updated_at = now()
    FROM vip_guest_passes p WHERE p.tenant_id = NEW.tenant_id AND p.reservation_id = NEW.reservation_id AND p.status <> 'revoked'
      AND t.tenant_id = p.tenant_id AND t.event_id = p.event_id AND t.ticket_id = p.ticket_id AND target = ANY (next_ticket_statuses(t.status));
  END IF;
  IF NEW.status = 'cancelled' THEN DELETE FROM vip_linked_tickets l WHERE l.tenant_id = NEW.tenant_id AND l.reservation_id = NEW.reservation_id; END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER vip_reservations_to_passes AFTER UPDATE OF status ON vip_reservations FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION vip_passes_follow_reservation();

-- Changes a reservation with its locks in order; a plain UPDATE is held to the same rules, and may have to give way to reconciliation.
CREATE FUNCTION set_vip_reservation_status(reservation uuid, new_status text) RETURNS vip_reservations LANGUAGE plpgsql AS $$
DECLARE
  v vip_reservations;
BEGIN
  PERFORM 1 FROM events e JOIN vip_reservations r ON r.tenant_id = e.tenant_id AND r.event_id = e.event_id WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = reservation FOR UPDATE OF e;
  IF NOT FOUND THEN PERFORM refuse(404, 'NO_SUCH_RESERVATION', format('there is no reservation %s', reservation)); END IF;
  PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = current_tenant_id() AND (u.event_id, u.ticket_id) IN (SELECT p.event_id, p.ticket_id FROM vip_guest_passes p WHERE p.tenant_id = current_tenant_id() AND p.reservation_id = reservation
    UNION SELECT l.event_id, l.ticket_id FROM vip_linked_tickets l WHERE l.tenant_id = current_tenant_id() AND l.reservation_id = reservation) ORDER BY u.event_id, u.ticket_id FOR UPDATE;
  PERFORM 1 FROM tickets t WHERE t.tenant_id = current_tenant_id() AND (t.event_id, t.ticket_id) IN (SELECT p.event_id, p.ticket_id FROM vip_guest_passes p WHERE p.tenant_id = current_tenant_id() AND p.reservation_id = reservation
    UNION SELECT l.event_id, l.ticket_id FROM vip_linked_tickets l WHERE l.tenant_id = current_tenant_id() AND l.reservation_id = reservation) ORDER BY t.event_id, t.ticket_id FOR UPDATE;
  UPDATE vip_reservations r SET status = new_status WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = reservation AND r.status <> new_status;
  SELECT * INTO v FROM vip_reservations r WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = reservation;
  RETURN v;
END
$$;

-- A pass for the host (guest_number 0) or the next guest; pass_ref: the hash of its token (ticket_ref_of).
CREATE FUNCTION issue_vip_pass(reservation uuid, pass_ref bytea, for_host boolean DEFAULT false, tier text DEFAULT 'vip', zone text DEFAULT NULL) RETURNS vip_guest_passes LANGUAGE plpgsql AS $$
DECLARE
  v vip_reservations;
  p vip_guest_passes;
  number integer;
  risen bigint;
BEGIN
  SELECT * INTO v FROM vip_reservations r WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = reservation;
  IF v IS NULL THEN PERFORM refuse(404, 'NO_SUCH_RESERVATION', format('there is no reservation %s', reservation)); END IF;
  -- Holds back everybody else who issues for this event.
  risen := raise_event_version(v.event_id);
  SELECT r.status INTO v.status FROM vip_reservations r WHERE r.tenant_id = v.tenant_id AND r.reservation_id = reservation;
  IF v.status NOT IN ('pending', 'confirmed', 'checked_in') THEN PERFORM refuse(409, 'NOT_ALLOWED', format('the reservation is %s: it has no more passes', v.status)); END IF;
  number := CASE WHEN for_host THEN 0 ELSE (SELECT coalesce(max(g.guest_number), 0) + 1 FROM vip_guest_passes g WHERE g.tenant_id = v.tenant_id AND g.reservation_id = reservation) END;
  IF (SELECT count(*) FROM vip_guest_passes g WHERE g.tenant_id = v.tenant_id AND g.reservation_id = reservation AND g.status <> 'revoked') >= v.guest_count THEN
    PERFORM refuse(409, 'NOT_ALLOWED', format('the reservation is for %s, and all have their passes', v.guest_count));
  END IF;
  p.pass_id := gen_random_uuid();
  INSERT INTO ticket_types (tenant_id, event_id, tier) VALUES (v.tenant_id, v.event_id, issue_vip_pass.tier) ON CONFLICT DO NOTHING;
  INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier, zone, status, vip, note, changed_version)
  VALUES (v.tenant_id, v.event_id, 'VIP-' || p.pass_id, pass_ref, issue_vip_pass.tier, issue_vip_pass.zone, CASE v.status WHEN 'pending' THEN 'reserved' ELSE 'sold' END::ticket_status, true, nullif(v.label, ''), risen);
  INSERT INTO vip_guest_passes (tenant_id, pass_id, event_id, reservation_id, guest_number, ticket_id) VALUES (v.tenant_id, p.pass_id, v.event_id, reservation, number, 'VIP-' || p.pass_id) RETURNING * INTO p;
  RETURN p;
END
$$;

-- Linking a ticket gives it the right, and takes it back: told to the gates, and judged anew, for what was too much may now be right.
CREATE FUNCTION set_ticket_vip(event text, ticket text, is_vip boolean) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  was boolean;
  risen bigint := raise_event_version(event);
BEGIN
  PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = current_tenant_id() AND u.event_id = event AND u.ticket_id = ticket FOR UPDATE;
  SELECT t.vip INTO was FROM tickets t WHERE t.tenant_id = current_tenant_id() AND t.event_id = event AND t.ticket_id = ticket FOR UPDATE;
  IF was IS DISTINCT FROM is_vip THEN
    UPDATE tickets t SET vip = is_vip, changed_version = risen, row_version = t.row_version + 1, updated_at = now() WHERE t.tenant_id = current_tenant_id() AND t.event_id = event AND t.ticket_id = ticket;
    PERFORM judge_tickets(ARRAY[event], ARRAY[ticket]);
  END IF;
  RETURN was;
END
$$;
CREATE FUNCTION vip_ticket_remember() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Locked in order here, before the foreign keys touch ticket and reservation.
  PERFORM 1 FROM events e WHERE e.tenant_id = NEW.tenant_id AND e.event_id = NEW.event_id FOR NO KEY UPDATE;
  PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = NEW.tenant_id AND u.event_id = NEW.event_id AND u.ticket_id = NEW.ticket_id FOR UPDATE;
  PERFORM 1 FROM tickets t WHERE t.tenant_id = NEW.tenant_id AND t.event_id = NEW.event_id AND t.ticket_id = NEW.ticket_id FOR NO KEY UPDATE;
  NEW.was_vip := (find_ticket(NEW.ticket_id, NEW.event_id)).vip;
  RETURN NEW;
END
$$;
CREATE FUNCTION vip_ticket_linked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN PERFORM set_ticket_vip(NEW.event_id, NEW.ticket_id, true); ELSE PERFORM set_ticket_vip(OLD.event_id, OLD.ticket_id, OLD.was_vip); END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER vip_linked_tickets_remember BEFORE INSERT ON vip_linked_tickets FOR EACH ROW EXECUTE FUNCTION vip_ticket_remember();
CREATE TRIGGER vip_linked_tickets_tell AFTER INSERT OR DELETE ON vip_linked_tickets FOR EACH ROW EXECUTE FUNCTION vip_ticket_linked();
REVOKE UPDATE ON vip_linked_tickets FROM stile_service;

-- What follows from the account, after every statement that touches a VIP's ticket. Never raises for what a reservation is.
CREATE FUNCTION vip_follows_account() RETURNS trigger LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan SET enable_hashjoin = on SET enable_seqscan = on AS $$
DECLARE
  touched uuid[];
BEGIN
  IF NOT EXISTS (SELECT FROM after_change n WHERE n.vip) THEN RETURN NULL; END IF;
  INSERT INTO vip_scan_logs AS g (tenant_id, reservation_id, pass_id, event_id, ticket_id, scan_type, scanned_at, previous_entry_at, gate, epoch, seq)
  SELECT n.tenant_id, coalesce(p.reservation_id, l.reservation_id), p.pass_id, n.event_id, n.ticket_id, CASE a.verdict WHEN 'winner' THEN 'first_entry' ELSE 'reentry' END, a.at, a.before, a.gate, a.epoch, a.seq
  FROM after_change n
  LEFT JOIN vip_guest_passes p ON p.tenant_id = n.tenant_id AND p.event_id = n.event_id AND p.ticket_id = n.ticket_id
  LEFT JOIN vip_linked_tickets l ON l.tenant_id = n.tenant_id AND l.event_id = n.event_id AND l.ticket_id = n.ticket_id
  CROSS JOIN LATERAL (SELECT x.*, lag(x.at) OVER (ORDER BY x.at, x.gate COLLATE "C", x.epoch, x.seq) AS before FROM admissions x WHERE x.tenant_id = n.tenant_id AND x.event_id = n.event_id AND x.ticket_id = n.ticket_id AND x.verdict IN ('winner', 'reentry')) AS a
  WHERE n.vip ORDER BY a.at, a.gate, a.epoch, a.seq
  ON CONFLICT (tenant_id, gate, epoch, seq) DO UPDATE SET scan_type = excluded.scan_type, previous_entry_at = excluded.previous_entry_at, scanned_at = excluded.scanned_at, given_back = false
  WHERE (g.scan_type, g.previous_entry_at, g.scanned_at, g.given_back) IS DISTINCT FROM (excluded.scan_type, excluded.previous_entry_at, excluded.scanned_at, false);
  UPDATE vip_scan_logs g SET given_back = true FROM after_change n
  WHERE n.vip AND g.tenant_id = n.tenant_id AND g.event_id = n.event_id AND g.ticket_id = n.ticket_id AND g.scan_type <> 'refused' AND NOT g.given_back
    AND NOT EXISTS (SELECT FROM admissions a WHERE a.tenant_id = g.tenant_id AND a.gate = g.gate AND a.epoch = g.epoch AND a.seq = g.seq AND a.verdict IN ('winner', 'reentry'));

  PERFORM 1 FROM vip_guest_passes p WHERE (p.tenant_id, p.event_id, p.ticket_id) IN (SELECT n.tenant_id, n.event_id, n.ticket_id FROM after_change n WHERE n.vip) ORDER BY p.pass_id FOR NO KEY UPDATE;
  WITH changed AS (
    UPDATE vip_guest_passes p SET entries = n.scan_count, checked_in_at = n.first_scanned_at, last_entry_at = n.last_scanned_at,
      status = CASE WHEN n.status IN ('revoked', 'refunded', 'cancelled', 'expired') THEN 'revoked' WHEN n.scan_count > 0 THEN 'checked_in' ELSE 'issued' END
    FROM after_change n WHERE n.vip AND p.tenant_id = n.tenant_id AND p.event_id = n.event_id AND p.ticket_id = n.ticket_id
      AND (p.entries, p.checked_in_at, p.last_entry_at, p.status = 'revoked') IS DISTINCT FROM (n.scan_count, n.first_scanned_at, n.last_scanned_at, n.status IN ('revoked', 'refunded', 'cancelled', 'expired'))
    RETURNING p.reservation_id
  )
  SELECT array_agg(DISTINCT c.reservation_id) INTO touched FROM changed c;
  IF touched IS NULL THEN RETURN NULL; END IF;
  PERFORM 1 FROM vip_reservations r WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = ANY (touched) ORDER BY r.reservation_id FOR NO KEY UPDATE;
  -- Guests that are in stay counted when their pass is taken from them.
  UPDATE vip_reservations r SET checked_in_guests = c.guests, checked_in_at = c.first_at, status = CASE WHEN c.guests > 0 AND r.status IN ('confirmed', 'no_show') THEN 'checked_in' ELSE r.status END
  FROM (SELECT p.reservation_id, count(*) FILTER (WHERE p.entries > 0) AS guests, min(p.checked_in_at) AS first_at FROM vip_guest_passes p WHERE p.tenant_id = current_tenant_id() AND p.reservation_id = ANY (touched) GROUP BY 1) AS c
  WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = c.reservation_id
    AND ((r.checked_in_guests, r.checked_in_at) IS DISTINCT FROM (c.guests::integer, c.first_at) OR (c.guests > 0 AND r.status IN ('confirmed', 'no_show')));
  RETURN NULL;
END
$$;
CREATE TRIGGER tickets_vip_follows AFTER UPDATE ON tickets REFERENCING NEW TABLE AS after_change FOR EACH STATEMENT EXECUTE FUNCTION vip_follows_account();

-- Has this ticket a host's right to come in again? Asked by scanners of the general entrance.
CREATE FUNCTION check_vip_linked_ticket_reentry(ticket text, event text DEFAULT NULL, OUT is_linked boolean, OUT reentry_allowed boolean, OUT reservation_id uuid, OUT reservation_status text, OUT entries integer, OUT last_entry_at timestamptz) LANGUAGE plpgsql STABLE AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
BEGIN
  SELECT l.reservation_id, r.status INTO reservation_id, reservation_status FROM vip_linked_tickets l JOIN vip_reservations r ON r.tenant_id = l.tenant_id AND r.reservation_id = l.reservation_id
  WHERE l.tenant_id = t.tenant_id AND l.event_id = t.event_id AND l.ticket_id = t.ticket_id;
  is_linked := reservation_id IS NOT NULL;
  entries := t.scan_count;
  last_entry_at := t.last_scanned_at;
  reentry_allowed := is_linked AND reservation_status IN ('confirmed', 'checked_in') AND (refusal_of_ticket(t, now())).reason IS NULL;
END
$$;

-- The one door for VIP scans: first entry or re-entry, as the account says. pass_ref: the hash of the token (of a pass, or of a linked ticket). Concurrent
-- scans wait for each other. A re-entry changes no state; it is logged, and last_entry_at says when the guest came in before.
CREATE FUNCTION process_vip_scan_with_reentry(event text, pass_ref bytea, scanned_by text DEFAULT NULL, device text DEFAULT NULL, at timestamptz DEFAULT NULL,
    OUT allowed boolean, OUT scan_type text, OUT reason text, OUT message text, OUT last_entry_at timestamptz, OUT entries integer, OUT reservation_id uuid, OUT pass_id uuid, OUT reservation_status text, OUT checked_in_guests integer, OUT guest_count integer)
  LANGUAGE plpgsql AS $$
DECLARE
  t tickets;
  site text := site_of_scan(event, device);
  happened timestamptz;
  became record;
BEGIN
  SELECT * INTO t FROM tickets x WHERE x.tenant_id = current_tenant_id() AND x.event_id = event AND x.ticket_ref = pass_ref;
  IF t IS NULL THEN PERFORM refuse(404, 'NO_SUCH_PASS', 'not a VIP pass of this event'); END IF;
  SELECT p.reservation_id, p.pass_id INTO reservation_id, pass_id FROM vip_guest_passes p WHERE p.tenant_id = t.tenant_id AND p.event_id = event AND p.ticket_id = t.ticket_id;
  IF reservation_id IS NULL THEN SELECT l.reservation_id INTO reservation_id FROM vip_linked_tickets l WHERE l.tenant_id = t.tenant_id AND l.event_id = event AND l.ticket_id = t.ticket_id; END IF;
  IF reservation_id IS NULL THEN PERFORM refuse(404, 'NO_SUCH_PASS', 'this ticket belongs to no VIP reservation'); END IF;

  PERFORM lock_cloud_ledger(site);
  happened := coalesce(at, clock_timestamp());
  t := lock_ticket_for_scan(event, t.ticket_id, false);
  PERFORM 1 FROM vip_guest_passes p WHERE p.tenant_id = t.tenant_id AND p.pass_id = process_vip_scan_with_reentry.pass_id FOR NO KEY UPDATE;
  SELECT r.status INTO reservation_status FROM vip_reservations r WHERE r.tenant_id = t.tenant_id AND r.reservation_id = process_vip_scan_with_reentry.reservation_id FOR NO KEY UPDATE;
  last_entry_at := t.last_scanned_at;
  SELECT r.reason, r.message INTO reason, message FROM refusal_of_ticket(t, happened) AS r;
  IF reason IS NULL AND reservation_status NOT IN ('confirmed', 'checked_in', 'no_show') THEN
    reason := 'unapproved'; message := format('the reservation is %s', reservation_status);
  ELSIF reason IS NULL AND t.scan_count > 0 THEN
    -- Policy may have it otherwise than always.
    SELECT f.cause, words_of_cause(f.cause, t.last_scanned_at) INTO reason, message FROM foresee_entry(t, site, happened) AS f;
  END IF;
  allowed := reason IS NULL;
  IF allowed THEN
    SELECT * INTO became FROM admit_by_cloud(t, site, happened, 0, 'cloud', device, true);
    scan_type := became.entry_type;
    UPDATE vip_scan_logs g SET scanned_by = process_vip_scan_with_reentry.scanned_by, scanned_by_id = uuid_or_null(process_vip_scan_with_reentry.scanned_by)
    WHERE g.tenant_id = t.tenant_id AND g.gate = became.gate AND g.epoch = became.epoch AND g.seq = became.seq;
  ELSE
    scan_type := 'refused';
    SELECT * INTO became FROM refuse_by_cloud(t, site, happened, 0, 'cloud', device, reason, message);
    INSERT INTO vip_scan_logs (tenant_id, reservation_id, pass_id, event_id, ticket_id, scan_type, reason, scanned_at, previous_entry_at, scanned_by, scanned_by_id, gate, epoch, seq)
    VALUES (t.tenant_id, reservation_id, pass_id, event, t.ticket_id, 'refused', reason, happened, last_entry_at, scanned_by, uuid_or_null(scanned_by), became.gate, became.epoch, became.seq);
  END IF;
  SELECT u.entries INTO entries FROM ticket_usage u WHERE u.tenant_id = t.tenant_id AND u.event_id = event AND u.ticket_id = t.ticket_id;
  SELECT r.status, r.checked_in_guests, r.guest_count INTO reservation_status, checked_in_guests, guest_count FROM vip_reservations r WHERE r.tenant_id = t.tenant_id AND r.reservation_id = process_vip_scan_with_reentry.reservation_id;
END
$$;

-- For tests: a reservation as if nobody had come. The account's own way: every entry is settled as returned; the state, which goes back for nobody else,
-- is confirmed again, and the log is emptied.
CREATE FUNCTION reset_vip_test_state(reservation uuid) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  settled integer;
  site text;
  words jsonb;
BEGIN
  IF NOT is_test_database() THEN PERFORM refuse(403, 'FORBIDDEN', 'reset_vip_test_state is for tests: it needs stile.test_mode = on and a database whose name begins with test or stile_test'); END IF;
  SELECT e.site_id, jsonb_agg(jsonb_build_object('kind', 'settlement', 'of', jsonb_build_array(a.gate, a.epoch, a.seq), 'outcome', 'returned', 'actor', 'system', 'reason', 'reset for a test',
      'event_id', a.event_id, 'ticket_id', a.ticket_id, 'ticket_ref', encode(a.ticket_ref, 'hex'), 'direction', a.direction) ORDER BY a.at), count(*) INTO site, words, settled
  FROM admissions a JOIN events e ON e.tenant_id = a.tenant_id AND e.event_id = a.event_id
  WHERE a.tenant_id = current_tenant_id() AND a.granted AND a.units_used > 0 AND (a.event_id, a.ticket_id) IN (SELECT p.event_id, p.ticket_id FROM vip_guest_passes p WHERE p.tenant_id = a.tenant_id AND p.reservation_id = reservation) GROUP BY e.site_id;
  IF words IS NOT NULL THEN PERFORM append_cloud_rows(site, words); END IF;
  PERFORM set_config('app.vip_reset', 'on', true);
  UPDATE vip_reservations r SET status = 'confirmed' WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = reservation;
  PERFORM set_config('app.vip_reset', '', true);
  DELETE FROM vip_scan_logs g WHERE g.tenant_id = current_tenant_id() AND g.reservation_id = reservation;
  RETURN coalesce(settled, 0);
END
$$;
