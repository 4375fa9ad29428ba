-- Scans that come to the cloud itself: doors to the one account, not accounts of their own. A door writes rows of the cloud's ledger (<site>/cloud) and
-- reconciles them; who was first is decided there. ticket_scans keeps who asked, where and when, beside the row that it became.
--
-- Order of locks as everywhere: the cloud's ledger, the ticket's usage, the ticket, what follows from it. A door never waits for a ticket before it has the ledger.

-- RFC 8785 for what the cloud writes: ASCII names, texts, whole numbers. The same bytes as contract/hash-chain.ts gives.
CREATE FUNCTION canonical_json(value jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  number numeric;
BEGIN
  CASE jsonb_typeof(value)
    WHEN 'object' THEN RETURN '{' || coalesce((SELECT string_agg(to_json(e.key)::text || ':' || canonical_json(e.value), ',' ORDER BY e.key COLLATE "C") FROM jsonb_each(value) AS e), '') || '}';
    WHEN 'array' THEN RETURN '[' || coalesce((SELECT string_agg(canonical_json(e.value), ',' ORDER BY e.place) FROM jsonb_array_elements(value) WITH ORDINALITY AS e (value, place)), '') || ']';
    WHEN 'number' THEN
      number := trim_scale((value #>> '{}')::numeric);
      IF scale(number) > 0 OR abs(number) > 9007199254740991 THEN RAISE EXCEPTION 'a row of the cloud holds whole numbers only, not %', number; END IF;
      RETURN number::text;
    ELSE RETURN value::text;
  END CASE;
END
$$;

-- Takes the cloud's ledger of a site for this transaction, making it where there is none.
CREATE FUNCTION lock_cloud_ledger(site text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO ledgers (tenant_id, gate, site_id) VALUES (current_tenant_id(), site || '/cloud', site) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM ledgers WHERE tenant_id = current_tenant_id() AND gate = site || '/cloud' FOR UPDATE;
END
$$;

-- Appends rows to <site>/cloud and judges them: what appendCloudRows in cloud/reconcile/cloud-ledger.ts does, for callers in SQL. entries: objects as
-- contract/ledger.ts says, without what the ledger adds (seq, hash, times); of_previous: this row speaks of the one before it. clock: whose time that
-- was (rows of one clock share one bound, the smallest).
CREATE FUNCTION append_cloud_rows(site text, entries jsonb, at timestamptz DEFAULT clock_timestamp(), bound_ms integer DEFAULT 0, clock text DEFAULT 'cloud', OUT ledger text, OUT epoch bigint, OUT first_seq bigint) LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  at_ms bigint := greatest(0, floor(extract(epoch FROM at) * 1000));
  tail record;
  previous text;
  number bigint;
  entry jsonb;
  body text;
  input ledger_input[] := '{}';
  stored bigint;
BEGIN
  IF tenant IS NULL THEN RAISE EXCEPTION 'no tenant is set: rows belong to a tenant' USING ERRCODE = 'insufficient_privilege'; END IF;
  PERFORM lock_cloud_ledger(site);
  ledger := site || '/cloud';
  SELECT e.epoch, e.upto_seq, (SELECT encode(r.hash, 'hex') FROM ledger_rows r WHERE r.tenant_id = tenant AND r.gate = e.gate AND r.epoch = e.epoch AND r.seq = e.upto_seq) AS hash
    INTO tail FROM ledger_epochs e WHERE e.tenant_id = tenant AND e.gate = ledger ORDER BY e.epoch DESC LIMIT 1;
  -- A first epoch is named after the clock; one whose last row was detached with its partition cannot be gone on with.
  IF tail IS NULL OR (tail.upto_seq > 0 AND tail.hash IS NULL) THEN
    epoch := greatest(coalesce(tail.epoch, 0) + 1, floor(extract(epoch FROM clock_timestamp())));
    number := 0;
  ELSE
    epoch := tail.epoch;
    number := tail.upto_seq;
    previous := tail.hash;
  END IF;
  previous := coalesce(previous, encode(sha256(convert_to(format('%s/%s', ledger, epoch), 'UTF8')), 'hex'));
  first_seq := number + 1;
  FOR entry IN SELECT e.value FROM jsonb_array_elements(entries) WITH ORDINALITY AS e (value, place) ORDER BY e.place LOOP
    number := number + 1;
    IF entry ? 'of_previous' THEN entry := (entry - 'of_previous') || jsonb_build_object('of', jsonb_build_array(epoch, number - 1)); END IF;
    entry := entry || jsonb_build_object('seq', number, 'ts', to_char(to_timestamp(at_ms / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'boot_id', clock, 'boottime_ms', at_ms, 'clock_offset_ms', 0, 'clock_bound_ms', bound_ms);
    body := canonical_json(entry);
    previous := encode(sha256(convert_to(previous || body, 'UTF8')), 'hex');
    input := input || jsonb_populate_record(NULL::ledger_input, entry || jsonb_build_object('gate', ledger, 'epoch', epoch, 'hash', previous, 'readable', true, 'entry', body, 'offset_ms', 0, 'bound_ms', bound_ms)
      || CASE entry ->> 'kind' WHEN 'passage' THEN jsonb_build_object('of_epoch', entry -> 'of' -> 0, 'of_seq', entry -> 'of' -> 1)
        WHEN 'settlement' THEN jsonb_build_object('of_gate', entry -> 'of' -> 0, 'of_epoch', entry -> 'of' -> 1, 'of_seq', entry -> 'of' -> 2) ELSE '{}' END);
  END LOOP;
  stored := reconcile_rows(input) ->> 'stored';
  IF stored <> cardinality(input) THEN RAISE EXCEPTION '% of % rows of % are new: its epoch was written by somebody else', stored, cardinality(input), ledger; END IF;
END
$$;

-- What was asked at a door, and the answer. gate, epoch, seq: the row of the ledger that it became; none: an attempt that was only noted.
CREATE TABLE ticket_scans (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text,
  ticket_id text NOT NULL,
  result text NOT NULL CHECK (result IN ('ALLOW', 'DENY')),
  entry_type text CHECK (entry_type IN ('first_entry', 'reentry', 'exit')),
  reason text,
  source text NOT NULL CHECK (source IN ('online', 'offline', 'attempt')),
  device text,
  -- As the scanner says; kept as uuid too where it is one.
  scanned_by text,
  scanned_by_id uuid,
  scanned_at timestamptz NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  gate text, epoch bigint, seq bigint,
  PRIMARY KEY (tenant_id, id),
  CHECK ((gate IS NULL) = (seq IS NULL))
);
CREATE INDEX ticket_scans_by_ticket ON ticket_scans (tenant_id, ticket_id, scanned_at DESC);
-- A row of the ledger lets in once. That of a ticket's entries only one is the first: admissions_one_winner (0002).
CREATE UNIQUE INDEX unique_successful_scan ON ticket_scans (tenant_id, gate, epoch, seq) WHERE result = 'ALLOW';
SELECT isolate_by_tenant('ticket_scans');

CREATE FUNCTION uuid_or_null(text text) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN text ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' THEN text::uuid END;

-- Notes an attempt that a scanner decided by itself, and says nothing to the account. The ticket need not be known.
CREATE FUNCTION record_scan_attempt(ticket text, result text, reason text DEFAULT NULL, device text DEFAULT NULL, scanned_by text DEFAULT NULL, scanned_at timestamptz DEFAULT now(), event text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  line bigint;
BEGIN
  IF result NOT IN ('ALLOW', 'DENY') OR result IS NULL THEN PERFORM refuse(400, 'BAD_REQUEST', format('a result is ALLOW or DENY, not %s', coalesce(result, 'nothing'))); END IF;
  INSERT INTO ticket_scans (tenant_id, event_id, ticket_id, result, reason, source, device, scanned_by, scanned_by_id, scanned_at)
  VALUES (current_tenant_id(), event, ticket, result, reason, 'attempt', device, scanned_by, uuid_or_null(scanned_by), scanned_at) RETURNING id INTO line;
  RETURN line;
END
$$;

-- Was it admitted within the last seconds, at any gate or door? scan_count: entries that hold.
CREATE FUNCTION check_duplicate_scan(ticket text, window_seconds integer DEFAULT 10, event text DEFAULT NULL, at timestamptz DEFAULT now(), OUT is_duplicate boolean, OUT last_scan_at timestamptz, OUT scan_count integer) LANGUAGE plpgsql STABLE AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
BEGIN
  SELECT greatest(
      (SELECT max(a.at) FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id AND a.granted AND a.direction = 'in' AND a.units_used > 0),
      (SELECT max(s.scanned_at) FROM ticket_scans s WHERE s.tenant_id = t.tenant_id AND s.ticket_id = t.ticket_id AND (s.event_id IS NULL OR s.event_id = t.event_id) AND s.result = 'ALLOW' AND s.source = 'attempt')),
    coalesce((SELECT u.entries FROM ticket_usage u WHERE u.tenant_id = t.tenant_id AND u.event_id = t.event_id AND u.ticket_id = t.ticket_id), 0)
  INTO last_scan_at, scan_count;
  is_duplicate := coalesce(at - last_scan_at < make_interval(secs => window_seconds), false);
END
$$;

-- The site whose ledger a scan belongs to: the device's, else the event's.
CREATE FUNCTION site_of_scan(event text, device text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
  site text;
BEGIN
  IF device IS NOT NULL THEN
    SELECT d.site_id INTO site FROM devices d WHERE d.tenant_id = current_tenant_id() AND d.name = device AND d.revoked_at IS NULL;
    IF site IS NULL THEN PERFORM refuse(404, 'NO_SUCH_DEVICE', 'Device not found'); END IF;
    RETURN site;
  END IF;
  SELECT e.site_id INTO site FROM events e WHERE e.tenant_id = current_tenant_id() AND e.event_id = event;
  IF site IS NULL THEN PERFORM refuse(409, 'NO_SITE', format('event %s has no site: name the device that scans', event)); END IF;
  RETURN site;
END
$$;

-- Takes a ticket and its usage, in this order, after the ledger. impatient: instead of waiting for whoever has them, 55P03.
CREATE FUNCTION lock_ticket_for_scan(event text, ticket text, impatient boolean) RETURNS tickets LANGUAGE plpgsql AS $$
DECLARE
  t tickets;
BEGIN
  -- What scanners brought in before the ticket was known, and still waits (0571).
  PERFORM settle_pending_scans(ARRAY[ticket]);
  -- Made here, so that nobody else makes it between our lock on the ticket and our first entry.
  INSERT INTO ticket_usage (tenant_id, event_id, ticket_id, known) VALUES (current_tenant_id(), event, ticket, true) ON CONFLICT DO NOTHING;
  IF impatient THEN
    PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = current_tenant_id() AND u.event_id = event AND u.ticket_id = ticket FOR UPDATE NOWAIT;
    SELECT * INTO t FROM tickets x WHERE x.tenant_id = current_tenant_id() AND x.event_id = event AND x.ticket_id = ticket FOR UPDATE NOWAIT;
  ELSE
    PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = current_tenant_id() AND u.event_id = event AND u.ticket_id = ticket FOR UPDATE;
    SELECT * INTO t FROM tickets x WHERE x.tenant_id = current_tenant_id() AND x.event_id = event AND x.ticket_id = ticket FOR UPDATE;
  END IF;
  RETURN t;
END
$$;

-- Lets a ticket in by the cloud's ledger and says what the account makes of it. A scanner has no sensor: its word counts as the passage.
CREATE FUNCTION admit_by_cloud(t tickets, site text, at timestamptz, bound_ms integer, clock text, device text, is_online boolean,
    OUT verdict text, OUT cause text, OUT entry_type text, OUT previous_entry_at timestamptz, OUT gate text, OUT epoch bigint, OUT seq bigint) LANGUAGE plpgsql AS $$
DECLARE
  began timestamptz := clock_timestamp();
  who jsonb;
BEGIN
  SELECT max(a.at) INTO previous_entry_at FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id AND a.verdict IN ('winner', 'reentry') AND a.at < admit_by_cloud.at;
  who := jsonb_build_object('event_id', t.event_id, 'ticket_id', t.ticket_id, 'ticket_ref', encode(t.ticket_ref, 'hex'), 'direction', 'in');
  SELECT r.ledger, r.epoch, r.first_seq INTO gate, epoch, seq FROM append_cloud_rows(site, jsonb_build_array(
    who || jsonb_build_object('kind', 'grant', 'type', CASE WHEN previous_entry_at IS NULL THEN 'first_entry' ELSE 'reentry' END, 'units', t.units, 'medium', 'opaque',
      'manifest_version', (SELECT e.version FROM events e WHERE e.tenant_id = t.tenant_id AND e.event_id = t.event_id), 'online', is_online, 'latency_us', greatest(0, floor(extract(epoch FROM clock_timestamp() - began) * 1000000))::bigint, 'seen', '{}'::jsonb)
      || CASE WHEN device IS NULL THEN '{}' ELSE jsonb_build_object('device', device) END,
    who || jsonb_build_object('kind', 'passage', 'of_previous', true, 'outcome', 'passed')), at, bound_ms, clock) AS r;
  SELECT a.verdict, a.cause INTO verdict, cause FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.gate = admit_by_cloud.gate AND a.epoch = admit_by_cloud.epoch AND a.seq = admit_by_cloud.seq;
  entry_type := CASE verdict WHEN 'winner' THEN 'first_entry' WHEN 'reentry' THEN 'reentry' END;
END
$$;

CREATE FUNCTION refuse_by_cloud(t tickets, site text, at timestamptz, bound_ms integer, clock text, device text, reason text, message text, OUT gate text, OUT epoch bigint, OUT seq bigint) LANGUAGE sql AS $$
  SELECT r.ledger, r.epoch, r.first_seq FROM append_cloud_rows(site, jsonb_build_array(jsonb_build_object('kind', 'refusal', 'reason', reason, 'explanation', left(message, 200), 'event_id', t.event_id, 'ticket_id', t.ticket_id,
    'ticket_ref', encode(t.ticket_ref, 'hex'), 'direction', 'in') || CASE WHEN device IS NULL THEN '{}' ELSE jsonb_build_object('device', device) END), at, bound_ms, clock) AS r
$$;

CREATE FUNCTION words_of_cause(cause text, last_entry_at timestamptz) RETURNS text LANGUAGE sql STABLE
  RETURN CASE cause WHEN 'already_redeemed' THEN 'already used' WHEN 'already_inside' THEN 'already inside' WHEN 'max_entries' THEN 'no entries left' WHEN 'gap' THEN 'scanned again too soon' WHEN 'passback' THEN 'already inside' ELSE cause END
    || coalesce(', last entry ' || to_char(last_entry_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), '');

-- What the account would make of an entry now, by its own replay: the entry is put in, judged, and taken out again. Needs the ticket's lock.
CREATE FUNCTION foresee_entry(t tickets, site text, at timestamptz, OUT verdict text, OUT cause text)
  -- Always one ticket: its plan need not be made anew.
  LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  foreseen CONSTANT bigint := 9223372036854775807;
BEGIN
  INSERT INTO admissions (tenant_id, gate, epoch, seq, event_id, ticket_id, granted, ticket_ref, direction, units, manifest_version, at_low, at, at_high, placed)
  SELECT t.tenant_id, site || '/cloud', foreseen, foreseen, t.event_id, t.ticket_id, true, t.ticket_ref, 'in', t.units, e.version, foresee_entry.at, foresee_entry.at, foresee_entry.at, true FROM events e WHERE e.tenant_id = t.tenant_id AND e.event_id = t.event_id;
  SELECT r.verdict, r.cause INTO verdict, cause FROM replay_tickets(ARRAY[t.event_id], ARRAY[t.ticket_id]) AS r WHERE r.seq = foreseen;
  DELETE FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.gate = site || '/cloud' AND a.epoch = foreseen AND a.seq = foreseen;
END
$$;

-- The online scan of one ticket: admitted, or refused with its reason, at once and for good. While another scan of the same ticket runs, or reconciliation
-- has the ticket, nothing is decided and nobody waits: busy, reason `busy`; scan again. State and entitlement are judged here; windows, zones and venue
-- rules are the caller's (rules/). last_entry_at: the entry before this scan.
CREATE FUNCTION scan_ticket_atomic(ticket text, scanned_by text DEFAULT NULL, device text DEFAULT NULL, event text DEFAULT NULL, at timestamptz DEFAULT NULL,
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
          SELECT f.cause, words_of_cause(f.cause, last_entry_at) INTO reason, message FROM foresee_entry(t, site, happened) AS f;
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

-- A scan that a device made while it was away: it happened, so it counts; of several the first by time wins, whoever comes later. The same scan again
-- (scan_id, else ticket, time and result of the device) is a DUPLICATE, also of one that came over HTTP: both keep their keys in device_scans (0300).
-- Answers ERROR instead of failing, so that one scan undoes no other. bound_ms: how wrong the device's clock may be.
CREATE FUNCTION sync_offline_scan(ticket text, scanned_at timestamptz, device text, result text DEFAULT 'ALLOW', reason text DEFAULT NULL, scan_id text DEFAULT NULL, event text DEFAULT NULL, bound_ms integer DEFAULT 5000, scanned_by text DEFAULT NULL,
    OUT status text, OUT message text, OUT verdict text, OUT gate text, OUT epoch bigint, OUT seq bigint) LANGUAGE plpgsql AS $$
DECLARE
  t tickets;
  site text;
  -- No clock of ours is behind the scan: what is said to be in the future happened by now.
  happened timestamptz := least(scanned_at, clock_timestamp());
  key text := coalesce('id ' || scan_id, format('at %s %s %s', ticket, floor(extract(epoch FROM scanned_at) * 1000), result));
  before record;
  entry text; cause text; last_at timestamptz;
BEGIN
  status := 'ERROR';
  IF scanned_at IS NULL OR result IS NULL OR result NOT IN ('ALLOW', 'DENY') THEN message := 'a scan needs its time, and ALLOW or DENY'; RETURN; END IF;
  IF length(key) > 160 THEN message := 'the scan''s id is too long'; RETURN; END IF;
  IF device IS NULL THEN message := 'Device not found'; RETURN; END IF;
  BEGIN
    site := site_of_scan(event, device);
    t := find_ticket(ticket, event);
  EXCEPTION WHEN SQLSTATE 'ST404' OR SQLSTATE 'ST409' THEN message := SQLERRM; RETURN;
  END;
  PERFORM lock_cloud_ledger(site);
  SELECT d.ticket_id, d.result INTO before FROM device_scans d WHERE d.tenant_id = t.tenant_id AND d.device = sync_offline_scan.device AND d.scan_key = key;
  IF FOUND THEN
    IF (before.ticket_id, before.result) = (ticket, result) THEN status := 'DUPLICATE'; message := 'known already'; ELSE message := 'this scan_id was used for another scan'; END IF;
    RETURN;
  END IF;
  IF result = 'DENY' THEN
    SELECT r.gate, r.epoch, r.seq INTO gate, epoch, seq FROM refuse_by_cloud(t, site, happened, bound_ms, device, device, CASE WHEN reason IN ('invalid', 'unreadable', 'unpaid', 'blocked', 'invalid_time', 'canceled', 'already_redeemed', 'already_inside',
      'product', 'zone', 'rules', 'ambiguous', 'revoked', 'unapproved', 'gap', 'max_entries', 'passback', 'capacity', 'gate_locked', 'busy', 'manifest_stale', 'usage_lost', 'clock_untrusted') THEN reason ELSE 'error' END, coalesce(reason, 'refused by the device')) AS r;
    status := 'SUCCESS'; message := 'refused by the device';
  ELSE
    t := lock_ticket_for_scan(t.event_id, t.ticket_id, false);
    SELECT r.entry_type, r.cause, r.previous_entry_at, r.verdict, r.gate, r.epoch, r.seq INTO entry, cause, last_at, verdict, gate, epoch, seq FROM admit_by_cloud(t, site, happened, bound_ms, device, device, false) AS r;
    status := CASE WHEN entry IS NULL THEN 'CONFLICT' ELSE 'SUCCESS' END;
    message := coalesce(entry, words_of_cause(coalesce(cause, 'error'), last_at));
  END IF;
  INSERT INTO device_scans (tenant_id, device, scan_key, online, gate, epoch, seq, event_id, ticket_id, result, scanned_at) VALUES (t.tenant_id, device, key, false, gate, epoch, seq, t.event_id, t.ticket_id, result, scanned_at);
  INSERT INTO ticket_scans (tenant_id, event_id, ticket_id, result, entry_type, reason, source, device, scanned_by, scanned_by_id, scanned_at, gate, epoch, seq)
  VALUES (t.tenant_id, t.event_id, t.ticket_id, result, entry, reason, 'offline', device, scanned_by, uuid_or_null(scanned_by), scanned_at, gate, epoch, seq) ON CONFLICT DO NOTHING;
END
$$;
