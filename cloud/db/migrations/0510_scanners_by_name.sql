-- Entries that scanners made over HTTP are judged in the scanner's own name. Their rows stand in <site>/cloud, and were judged as if all of them had come
-- through one gate of that name: a policy for one scanner was not seen, and a limit for each gate counted all scanners together. The rows say who scanned.

-- Who scanned; NULL: the gate whose row it is. Kept here because admissions outlive the rows.
ALTER TABLE admissions ADD COLUMN scanner text;

-- Names are plain, and in canonical JSON a quote within a text is escaped: what stands so is the row's own field.
CREATE FUNCTION scanner_of(entry text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN substring(entry FROM '[{,]"device":"([a-z0-9-]+/[a-z0-9-]+)"');

-- The cloud appends and judges in one transaction, so its row is there, and came now.
CREATE FUNCTION note_scanner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT scanner_of(r.entry) INTO NEW.scanner FROM ledger_rows r WHERE r.tenant_id = NEW.tenant_id AND r.gate = NEW.gate AND r.epoch = NEW.epoch AND r.seq = NEW.seq AND r.received_at = now();
  RETURN NEW;
END
$$;
CREATE TRIGGER admissions_note_scanner BEFORE INSERT ON admissions FOR EACH ROW WHEN (NEW.granted AND NEW.scanner IS NULL AND NEW.gate LIKE '%/cloud') EXECUTE FUNCTION note_scanner();

-- What is there already: named, and judged again where it was.
ALTER TABLE admissions NO FORCE ROW LEVEL SECURITY;
ALTER TABLE ledger_rows NO FORCE ROW LEVEL SECURITY;
ALTER TABLE judgements_due NO FORCE ROW LEVEL SECURITY;
UPDATE admissions a SET scanner = scanner_of(r.entry) FROM ledger_rows r
WHERE a.granted AND a.gate LIKE '%/cloud' AND r.tenant_id = a.tenant_id AND r.gate = a.gate AND r.epoch = a.epoch AND r.seq = a.seq;
INSERT INTO judgements_due (tenant_id, event_id, ticket_id) SELECT DISTINCT a.tenant_id, a.event_id, a.ticket_id FROM admissions a WHERE a.scanner IS NOT NULL;
ALTER TABLE admissions FORCE ROW LEVEL SECURITY;
ALTER TABLE ledger_rows FORCE ROW LEVEL SECURITY;
ALTER TABLE judgements_due FORCE ROW LEVEL SECURITY;

-- As in 0402, with `place`: where the guest stood.
CREATE OR REPLACE FUNCTION replay_tickets(events text[], ticket_ids text[]) RETURNS SETOF replayed LANGUAGE plpgsql STABLE ROWS 1000 AS $$
DECLARE
  tenant uuid := current_tenant_id();
  a record;
  r replayed;
  party integer; visits integer; inside integer; expected integer; last_in timestamptz; visit_days date[]; visit_gates text[]; has_winner boolean;
  allowance integer; forgotten boolean; today date;
BEGIN
  FOR a IN
    WITH ticket AS MATERIALIZED (
      SELECT k.event_id, k.ticket_id, t.tier, t.max_scans, t.units AS party, coalesce(t.vip, false) AS vip, e.time_zone, e.policies AS policies_now
      FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)) AS k
      LEFT JOIN LATERAL (SELECT * FROM tickets x WHERE x.tenant_id = tenant AND x.event_id = k.event_id AND x.ticket_id = k.ticket_id LIMIT 1) AS t ON true
      LEFT JOIN LATERAL (SELECT * FROM events x WHERE x.tenant_id = tenant AND x.event_id = k.event_id LIMIT 1) AS e ON true
    ), counted AS MATERIALIZED (
      SELECT k.*, adm.gate, coalesce(adm.scanner, adm.gate) AS place, adm.epoch, adm.seq, adm.at, adm.at_low, adm.at_high, adm.direction, adm.units, adm.manifest_version,
        adm.verdict AS was_verdict, adm.cause AS was_cause, adm.overlapping AS was_overlapping, adm.units_used::integer AS was_used, adm.units_uncertain::integer AS was_uncertain, adm.outcome AS was_outcome,
        (adm.sum).outcome AS outcome, (adm.sum).used AS used, (adm.sum).uncertain AS uncertain
      FROM ticket k
      CROSS JOIN LATERAL (
        SELECT x.*, CASE WHEN x.units > 1 THEN grant_state(x.units, x.word_1, x.words, x.word_all)
          ELSE ROW((w.outcome <> 'returned')::integer, (w.outcome IN ('open', 'unknown', 'stuck'))::integer, w.outcome)::grant_sum END AS sum
        FROM admissions x CROSS JOIN LATERAL (SELECT outcome_of_word(greatest(x.word_1, x.word_all)) AS outcome OFFSET 0) AS w
        WHERE x.tenant_id = tenant AND x.event_id = k.event_id AND x.ticket_id = k.ticket_id AND x.granted OFFSET 0) AS adm
    ), policy AS MATERIALIZED (
      SELECT d.event_id AS e, d.manifest_version AS v, d.place AS g, d.tier AS t, p.*
      FROM (SELECT DISTINCT event_id, manifest_version, place, tier, policies_now FROM counted) AS d
      -- Of the version that the gate had, or the first one known.
      LEFT JOIN LATERAL (SELECT h.policies FROM event_policies h WHERE h.tenant_id = tenant AND h.event_id = d.event_id ORDER BY h.version > d.manifest_version, CASE WHEN h.version <= d.manifest_version THEN -h.version ELSE h.version END LIMIT 1) AS h ON true
      CROSS JOIN LATERAL entitlement_policy(coalesce(h.policies, d.policies_now, '{}'), d.tier, d.place) AS p
    )
    SELECT c.*, p.*,
      c.used > 0 AND (coalesce(max(c.at_high) FILTER (WHERE c.used > 0) OVER before >= c.at_low, false) OR coalesce(min(c.at_low) FILTER (WHERE c.used > 0) OVER after <= c.at_high, false)) AS overlaps,
      row_number() OVER before = 1 AS begins
    FROM counted c JOIN policy p ON p.e = c.event_id AND p.v = c.manifest_version AND p.g = c.place AND p.t IS NOT DISTINCT FROM c.tier
    WINDOW before AS (PARTITION BY c.event_id, c.ticket_id ORDER BY c.at, c.gate COLLATE "C", c.epoch, c.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
      after AS (PARTITION BY c.event_id, c.ticket_id ORDER BY c.at, c.gate COLLATE "C", c.epoch, c.seq ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
    ORDER BY c.event_id, c.ticket_id, c.at, c.gate COLLATE "C", c.epoch, c.seq
  LOOP
    IF a.begins THEN
      party := a.party; visits := 0; inside := 0; expected := 0; last_in := NULL; visit_days := '{}'; visit_gates := '{}'; has_winner := false;
    END IF;
    r.cause := NULL;
    IF a.used = 0 THEN
      r.verdict := 'annulled';
    ELSE
      party := coalesce(party, a.units);
      IF a.direction = 'out' THEN
        IF inside > 0 OR a.passback <> 'hard' THEN
          r.verdict := 'exit'; inside := greatest(0, inside - a.used); expected := 0;
        ELSE
          r.verdict := 'excess'; r.cause := 'passback';
        END IF;
      ELSE
        IF a.days IS NOT NULL OR a.per_day IS NOT NULL THEN today := venue_day(a.at, a.time_zone); END IF;
        -- In the order of rules/entitlement.ts. The first visit, the rest of its party, and VIP need no leave.
        IF visits > 0 AND expected = 0 AND NOT (a.vip AND a.vip_always) THEN
          allowance := coalesce(a.max_scans, a.total, CASE a.rule WHEN 'none' THEN 1 END);
          forgotten := a.forget_after_s IS NOT NULL AND last_in IS NOT NULL AND extract(epoch FROM a.at - last_in) >= a.forget_after_s;
          r.cause := CASE
            WHEN allowance IS NOT NULL AND (a.rule = 'none' OR a.counts_as_entry) AND visits >= allowance THEN CASE allowance WHEN 1 THEN 'already_redeemed' ELSE 'max_entries' END
            WHEN a.rule = 'after_exit' AND inside >= party THEN 'already_inside'
            WHEN a.max_reentries IS NOT NULL AND visits - 1 >= a.max_reentries THEN CASE a.max_reentries WHEN 0 THEN 'already_redeemed' ELSE 'max_entries' END
            WHEN a.until IS NOT NULL AND a.at > a.until THEN 'already_redeemed'
            WHEN a.days IS NOT NULL AND NOT today = ANY (visit_days) AND (SELECT count(DISTINCT d) FROM unnest(visit_days) AS d) >= a.days THEN 'max_entries'
            WHEN a.per_day IS NOT NULL AND (SELECT count(*) FROM unnest(visit_days) AS d WHERE d = today) >= a.per_day THEN 'max_entries'
            WHEN a.per_gate IS NOT NULL AND (SELECT count(*) FROM unnest(visit_gates) AS g WHERE g = a.place) >= a.per_gate THEN 'max_entries'
            WHEN a.passback = 'hard' AND inside >= party AND NOT forgotten THEN 'passback'
            WHEN extract(epoch FROM a.at - last_in) < greatest(a.duplicate_window_s, a.min_gap_s) THEN 'gap'
          END;
        END IF;
        IF r.cause IS NOT NULL THEN
          r.verdict := 'excess';
        ELSE
          r.verdict := CASE WHEN has_winner THEN 'reentry' ELSE 'winner' END;
          has_winner := true;
          IF expected = 0 THEN
            visits := visits + 1; expected := party;
            IF a.per_gate IS NOT NULL THEN visit_gates := visit_gates || a.place::text; END IF;
            IF today IS NOT NULL THEN visit_days := visit_days || today; END IF;
          END IF;
          expected := greatest(0, expected - a.used); inside := inside + a.used; last_in := a.at;
        END IF;
      END IF;
    END IF;
    r.event_id := a.event_id; r.ticket_id := a.ticket_id; r.gate := a.gate; r.epoch := a.epoch; r.seq := a.seq; r.at := a.at; r.direction := a.direction;
    r.was_verdict := a.was_verdict; r.was_used := a.was_used; r.was_uncertain := a.was_uncertain;
    r.overlapping := a.overlaps; r.used := a.used; r.uncertain := a.uncertain; r.outcome := a.outcome;
    r.changed := (a.was_verdict, a.was_cause, a.was_overlapping, a.was_used, a.was_uncertain, a.was_outcome) IS DISTINCT FROM (r.verdict, r.cause, a.overlaps, a.used, a.uncertain, a.outcome);
    RETURN NEXT r;
  END LOOP;
END
$$;

DROP FUNCTION foresee_entry(tickets, text, timestamptz);
-- What the account would make of an entry now, by its own replay: the entry is put in, judged, and taken out again. Needs the ticket's lock.
CREATE FUNCTION foresee_entry(t tickets, site text, at timestamptz, device text, OUT verdict text, OUT cause text)
  -- Always one ticket: its plan need not be made anew.
  LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  foreseen CONSTANT bigint := 9223372036854775807;
BEGIN
  INSERT INTO admissions (tenant_id, gate, epoch, seq, event_id, ticket_id, granted, ticket_ref, direction, units, manifest_version, at_low, at, at_high, placed, scanner)
  SELECT t.tenant_id, site || '/cloud', foreseen, foreseen, t.event_id, t.ticket_id, true, t.ticket_ref, 'in', t.units, e.version, foresee_entry.at, foresee_entry.at, foresee_entry.at, true, device FROM events e WHERE e.tenant_id = t.tenant_id AND e.event_id = t.event_id;
  SELECT r.verdict, r.cause INTO verdict, cause FROM replay_tickets(ARRAY[t.event_id], ARRAY[t.ticket_id]) AS r WHERE r.seq = foreseen;
  DELETE FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.gate = site || '/cloud' AND a.epoch = foreseen AND a.seq = foreseen;
END
$$;

CREATE OR REPLACE FUNCTION scan_ticket_atomic(ticket text, scanned_by text DEFAULT NULL, device text DEFAULT NULL, event text DEFAULT NULL, at timestamptz DEFAULT NULL,
    OUT allowed boolean, OUT busy boolean, OUT reason text, OUT message text, OUT entry_type text, OUT last_entry_at timestamptz, OUT scan_count integer, OUT event_id text, OUT gate text, OUT epoch bigint, OUT seq bigint)
  LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
  site text := site_of_scan(t.event_id, device);
  happened timestamptz := coalesce(at, clock_timestamp());
BEGIN
  event_id := t.event_id;
  allowed := false;
  busy := NOT pg_try_advisory_xact_lock(hashtextextended(format('%s/%s/%s', t.tenant_id, t.event_id, t.ticket_id), 5));
  IF NOT busy THEN
    BEGIN
      PERFORM lock_cloud_ledger(site);
      BEGIN
        t := lock_ticket_for_scan(t.event_id, t.ticket_id, true);
        SELECT r.reason, r.message INTO reason, message FROM refusal_of_ticket(t, happened) AS r;
        SELECT max(a.at) INTO last_entry_at FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id AND a.verdict IN ('winner', 'reentry');
        IF reason IS NULL AND EXISTS (SELECT FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id) THEN
          SELECT f.cause, words_of_cause(f.cause, last_entry_at) INTO reason, message FROM foresee_entry(t, site, happened, device) AS f;
        END IF;
        -- Gives back the ticket that a refusal needs no more, as if nobody had taken it.
        IF reason IS NOT NULL THEN RAISE EXCEPTION USING ERRCODE = 'STX00'; END IF;
        SELECT r.entry_type, r.gate, r.epoch, r.seq INTO entry_type, gate, epoch, seq FROM admit_by_cloud(t, site, happened, 0, 'cloud', device, true) AS r;
        IF entry_type IS NULL THEN RAISE EXCEPTION 'ticket % was judged otherwise than foreseen', t.ticket_id; END IF;
        allowed := true;
      EXCEPTION WHEN SQLSTATE 'STX00' THEN NULL;
      END;
      IF NOT allowed THEN SELECT r.gate, r.epoch, r.seq INTO gate, epoch, seq FROM refuse_by_cloud(t, site, happened, 0, 'cloud', device, reason, message) AS r; END IF;
    EXCEPTION WHEN lock_not_available THEN busy := true;
    END;
  END IF;
  IF busy THEN
    allowed := false; reason := 'busy'; message := 'this ticket is being scanned at this moment: scan it again';
    entry_type := NULL; gate := NULL; epoch := NULL; seq := NULL;
  END IF;
  SELECT coalesce(max(u.entries), 0) INTO scan_count FROM ticket_usage u WHERE u.tenant_id = t.tenant_id AND u.event_id = t.event_id AND u.ticket_id = t.ticket_id;
  INSERT INTO ticket_scans (tenant_id, event_id, ticket_id, result, entry_type, reason, source, device, scanned_by, scanned_by_id, scanned_at, gate, epoch, seq)
  VALUES (t.tenant_id, t.event_id, t.ticket_id, CASE WHEN allowed THEN 'ALLOW' ELSE 'DENY' END, entry_type, reason, 'online', device, scanned_by, uuid_or_null(scanned_by), happened, gate, epoch, seq);
END
$$;

CREATE OR REPLACE FUNCTION process_vip_scan_with_reentry(event text, pass_ref bytea, scanned_by text DEFAULT NULL, device text DEFAULT NULL, at timestamptz DEFAULT NULL,
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
    SELECT f.cause, words_of_cause(f.cause, t.last_scanned_at) INTO reason, message FROM foresee_entry(t, site, happened, device) AS f;
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
