-- Where truth is decided: sets of rows in, verdicts and counts out. The same rows in any order, any batches, any number of times
-- give the same tables. Every function is SECURITY INVOKER: the caller's row security holds inside.

-- One row as the readers of the wire hand it over: its key and hash, its JSON as text without the hash, and what could be read of it.
CREATE TYPE ledger_input AS (
  gate text, epoch bigint, seq bigint, hash text, kind text, readable boolean, entry text,
  ts timestamptz, boot_id text, boottime_ms double precision, offset_ms double precision, bound_ms double precision,
  event_id text, ticket_id text, ticket_ref text, direction text, units integer, manifest_version bigint,
  of_gate text, of_epoch bigint, of_seq bigint, unit integer, outcome text
);

CREATE TYPE count_delta AS (
  gate text, event_id text, grants bigint, winners bigint, reentries bigint, exits bigint, excess bigint, annulled bigint,
  entered bigint, exited bigint, uncertain bigint, free_passages bigint, forced_passages bigint, overrides bigint, refusals bigint
);

-- Unix milliseconds → time, kept within what a timestamptz and a reader can bear.
CREATE FUNCTION time_of_ms(ms double precision) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN to_timestamp(greatest(0, least(ms, 253402300799000)) / 1000.0);

-- Ranks of words. A settlement outranks every passage, and a later settlement an earlier one; odd: passed, even: returned.
CREATE FUNCTION word_of_passage(outcome text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE outcome WHEN 'unknown' THEN 1 WHEN 'stuck' THEN 2 WHEN 'returned' THEN 3 WHEN 'passed' THEN 4 END;
CREATE FUNCTION word_of_settlement(epoch bigint, seq bigint, outcome text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN (least(epoch, 4294967295) << 31) + (least(seq, 1073741823) << 1) + CASE outcome WHEN 'passed' THEN 1 ELSE 0 END;
CREATE FUNCTION outcome_of_word(word bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN word IS NULL OR word = 0 THEN 'open' WHEN word > 4 THEN CASE word & 1 WHEN 1 THEN 'passed' ELSE 'returned' END
    ELSE (ARRAY['unknown', 'stuck', 'returned', 'passed'])[word] END;

CREATE FUNCTION keep_word(words bigint[], unit integer, word bigint) RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  words[unit] := greatest(words[unit], word);
  RETURN words;
END
$$;
CREATE AGGREGATE strongest_words(unit integer, word bigint) (SFUNC = keep_word, STYPE = bigint[], INITCOND = '{}');
CREATE FUNCTION merge_words(a bigint[], b bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN a IS NULL OR a = '{}' THEN b WHEN b IS NULL OR b = '{}' THEN a ELSE
    (SELECT strongest_words(w.unit, w.word) FROM (
      SELECT i AS unit, a[i] AS word FROM generate_subscripts(a, 1) AS i WHERE a[i] IS NOT NULL
      UNION ALL SELECT i, b[i] FROM generate_subscripts(b, 1) AS i WHERE b[i] IS NOT NULL) AS w) END;

-- What a grant amounts to: units that count, units that may or may not have passed, and one word for all.
CREATE FUNCTION grant_state(units integer, word_1 bigint, words bigint[], word_all bigint, OUT used integer, OUT uncertain integer, OUT outcome text)
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT count(*) FILTER (WHERE o <> 'returned'), count(*) FILTER (WHERE o IN ('open', 'unknown', 'stuck')),
    CASE WHEN bool_and(o = 'returned') THEN 'returned' WHEN bool_or(o = 'open') THEN 'open' WHEN bool_or(o = 'unknown') THEN 'unknown' WHEN bool_or(o = 'stuck') THEN 'stuck' ELSE 'passed' END
  FROM (SELECT outcome_of_word(greatest(CASE u WHEN 1 THEN word_1 ELSE words[u] END, word_all)) AS o FROM generate_series(1, greatest(units, 1)) AS u) AS each_unit
$$;

CREATE FUNCTION counts_of(gate text, event_id text, sign integer, verdict text, direction text, used integer, uncertain integer) RETURNS count_delta
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN ROW(gate, event_id, sign, sign * (verdict = 'winner')::integer, sign * (verdict = 'reentry')::integer, sign * (verdict = 'exit')::integer,
    sign * (verdict = 'excess')::integer, sign * (verdict = 'annulled')::integer,
    sign * used * (direction = 'in')::integer, sign * used * (direction = 'out')::integer, sign * uncertain, 0, 0, 0, 0)::count_delta;

-- Adds sums, sorted: the last locks of a transaction.
CREATE FUNCTION add_counts(deltas count_delta[]) RETURNS void LANGUAGE sql AS $$
  INSERT INTO gate_counts AS c (tenant_id, gate, event_id, grants, winners, reentries, exits, excess, annulled, entered, exited, uncertain, free_passages, forced_passages, overrides, refusals)
  SELECT current_tenant_id(), d.gate, d.event_id, sum(d.grants), sum(d.winners), sum(d.reentries), sum(d.exits), sum(d.excess), sum(d.annulled), sum(d.entered), sum(d.exited), sum(d.uncertain),
    sum(d.free_passages), sum(d.forced_passages), sum(d.overrides), sum(d.refusals)
  FROM unnest(deltas) AS d GROUP BY d.gate, d.event_id
  HAVING (sum(d.grants), sum(d.winners), sum(d.reentries), sum(d.exits), sum(d.excess), sum(d.annulled), sum(d.entered), sum(d.exited), sum(d.uncertain), sum(d.free_passages), sum(d.forced_passages), sum(d.overrides), sum(d.refusals))
    <> (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  ORDER BY d.gate, d.event_id
  ON CONFLICT (tenant_id, gate, event_id) DO UPDATE SET
    grants = c.grants + excluded.grants, winners = c.winners + excluded.winners, reentries = c.reentries + excluded.reentries, exits = c.exits + excluded.exits, excess = c.excess + excluded.excess,
    annulled = c.annulled + excluded.annulled, entered = c.entered + excluded.entered, exited = c.exited + excluded.exited, uncertain = c.uncertain + excluded.uncertain,
    free_passages = c.free_passages + excluded.free_passages, forced_passages = c.forced_passages + excluded.forced_passages, overrides = c.overrides + excluded.overrides, refusals = c.refusals + excluded.refusals
$$;

-- What of an event's policies a grant is judged by, for a tier at a gate: event, then tier (vip before vip:balcony), then gate, key by key.
-- The same as effectivePolicy in rules/policy.ts, for the rules of entitlement. Policies that cannot be read count as absent.
CREATE FUNCTION entitlement_policy(policies jsonb, tier text, gate text,
    OUT total integer, OUT per_day integer, OUT per_gate integer, OUT days integer,
    OUT rule text, OUT min_gap_s double precision, OUT max_reentries integer, OUT until timestamptz, OUT counts_as_entry boolean,
    OUT passback text, OUT forget_after_s double precision, OUT duplicate_window_s double precision, OUT vip_always boolean)
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  layer jsonb;
  merged jsonb;
BEGIN
  FOR attempt IN 1 .. 2 LOOP
    BEGIN
      merged := '{"duplicate_window_s": 10, "vip_reentry": "always", "entries": {}, "reentry": {"rule": "none", "min_gap_s": 0, "counts_as_entry": true}, "passback": {"mode": "off"}}';
      IF attempt = 1 THEN
        FOR layer IN
          SELECT policies -> 'event'
          UNION ALL (SELECT policies -> 'tiers' -> array_to_string((string_to_array(tier, ':'))[1:n], ':') FROM generate_series(1, coalesce(array_length(string_to_array(tier, ':'), 1), 0)) AS n ORDER BY n)
          UNION ALL SELECT policies -> 'gates' -> gate
        LOOP
          CONTINUE WHEN layer IS NULL OR jsonb_typeof(layer) <> 'object';
          merged := merged || (layer - 'entries' - 'reentry' - 'passback') || jsonb_build_object(
            'entries', (merged -> 'entries') || coalesce(layer -> 'entries', '{}'), 'reentry', (merged -> 'reentry') || coalesce(layer -> 'reentry', '{}'), 'passback', (merged -> 'passback') || coalesce(layer -> 'passback', '{}'));
        END LOOP;
      END IF;
      total := merged -> 'entries' ->> 'total';
      per_day := merged -> 'entries' ->> 'per_day';
      per_gate := merged -> 'entries' ->> 'per_gate';
      days := merged -> 'entries' ->> 'days';
      rule := merged -> 'reentry' ->> 'rule';
      min_gap_s := merged -> 'reentry' ->> 'min_gap_s';
      max_reentries := merged -> 'reentry' ->> 'max';
      until := merged -> 'reentry' ->> 'until';
      counts_as_entry := merged -> 'reentry' ->> 'counts_as_entry';
      passback := merged -> 'passback' ->> 'mode';
      forget_after_s := merged -> 'passback' ->> 'forget_after_s';
      duplicate_window_s := merged ->> 'duplicate_window_s';
      vip_always := merged ->> 'vip_reentry' = 'always';
      RETURN;
    EXCEPTION WHEN OTHERS THEN
      -- Never raises because of what was written into a policy; the second attempt takes the defaults.
    END;
  END LOOP;
END
$$;

-- The day of the venue; UTC where its time zone is none.
CREATE FUNCTION venue_day(at timestamptz, time_zone text) RETURNS date LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN (at AT TIME ZONE time_zone)::date;
EXCEPTION WHEN OTHERS THEN
  RETURN (at AT TIME ZONE 'UTC')::date;
END
$$;

-- Copies what a ticket's admissions amount to onto the ticket, where there is one.
CREATE FUNCTION copy_usage_to_tickets(events text[], ticket_ids text[]) RETURNS void LANGUAGE sql AS $$
  UPDATE tickets t SET
    scan_count = u.entries, first_scanned_at = u.first_at, last_scanned_at = u.last_at,
    status = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN 'checked_in'
      WHEN u.entries = 0 AND t.status = 'checked_in' AND t.status_before_entry IS NOT NULL THEN t.status_before_entry ELSE t.status END,
    status_before_entry = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN t.status WHEN u.entries = 0 THEN NULL ELSE t.status_before_entry END
  FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)
  JOIN ticket_usage u ON u.tenant_id = current_tenant_id() AND u.event_id = k.event_id AND u.ticket_id = k.ticket_id
  WHERE t.tenant_id = u.tenant_id AND t.event_id = u.event_id AND t.ticket_id = u.ticket_id
    AND ((t.scan_count, t.first_scanned_at, t.last_scanned_at) IS DISTINCT FROM (u.entries, u.first_at, u.last_at)
      OR (u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred')) OR (u.entries = 0 AND t.status_before_entry IS NOT NULL))
$$;

-- Replays every grant of these tickets, in rank order, and writes verdicts, conflicts and usage where they changed. The caller holds the tickets'
-- rows of ticket_usage, and adds the sums that come back (add_counts) as its last step.
CREATE FUNCTION rank_tickets(events text[], ticket_ids text[]) RETURNS count_delta[] LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  ticket record;
  a record;
  p record;
  policies jsonb;
  policy_key text;
  -- The replay's state.
  party integer; visits integer; inside integer; expected integer; last_in timestamptz; visit_days date[]; visit_gates text[]; first_in timestamptz; entries integer; last_scan timestamptz;
  winner admissions; has_winner boolean; verdict text; cause text; allowance integer; gap_s double precision; forgotten boolean;
  -- What changes.
  changed admissions[] := '{}';
  clash conflicts[] := '{}';
  usage ticket_usage[] := '{}';
  deltas count_delta[] := '{}';
  row_now admissions;
BEGIN
  FOR ticket IN
    SELECT k.event_id, k.ticket_id, t.ticket_id IS NOT NULL AS known, t.tier, t.max_scans, t.units, coalesce(t.vip, false) AS vip, e.time_zone, e.policies AS policies_now
    FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)) AS k
    LEFT JOIN tickets t ON t.tenant_id = tenant AND t.event_id = k.event_id AND t.ticket_id = k.ticket_id
    LEFT JOIN events e ON e.tenant_id = tenant AND e.event_id = k.event_id
    ORDER BY k.event_id, k.ticket_id
  LOOP
    party := ticket.units; visits := 0; inside := 0; expected := 0; last_in := NULL; visit_days := '{}'; visit_gates := '{}'; first_in := NULL; entries := 0; last_scan := NULL; has_winner := false; winner := NULL; policy_key := NULL;
    FOR a IN
      SELECT adm AS row_was, s.used, s.uncertain, s.outcome,
        s.used > 0 AND (coalesce(max(adm.at_high) FILTER (WHERE s.used > 0) OVER before >= adm.at_low, false) OR coalesce(min(adm.at_low) FILTER (WHERE s.used > 0) OVER after <= adm.at_high, false)) AS overlapping
      FROM admissions adm CROSS JOIN LATERAL grant_state(adm.units, adm.word_1, adm.words, adm.word_all) AS s
      WHERE adm.tenant_id = tenant AND adm.event_id = ticket.event_id AND adm.ticket_id = ticket.ticket_id AND adm.granted
      WINDOW before AS (ORDER BY adm.at, adm.gate COLLATE "C", adm.epoch, adm.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
        after AS (ORDER BY adm.at, adm.gate COLLATE "C", adm.epoch, adm.seq ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
      ORDER BY adm.at, adm.gate COLLATE "C", adm.epoch, adm.seq
    LOOP
      row_now := a.row_was;
      cause := NULL;
      IF a.used = 0 THEN
        verdict := 'annulled';
      ELSE
        IF policy_key IS DISTINCT FROM row_now.manifest_version || ' ' || row_now.gate THEN
          policy_key := row_now.manifest_version || ' ' || row_now.gate;
          -- Of the version that the gate had, or the first one known.
          SELECT h.policies INTO policies FROM event_policies h WHERE h.tenant_id = tenant AND h.event_id = ticket.event_id AND h.version <= row_now.manifest_version ORDER BY h.version DESC LIMIT 1;
          IF NOT FOUND THEN
            SELECT h.policies INTO policies FROM event_policies h WHERE h.tenant_id = tenant AND h.event_id = ticket.event_id ORDER BY h.version LIMIT 1;
            IF NOT FOUND THEN policies := ticket.policies_now; END IF;
          END IF;
          SELECT * INTO p FROM entitlement_policy(coalesce(policies, '{}'), ticket.tier, row_now.gate);
        END IF;
        party := coalesce(party, row_now.units);
        forgotten := p.forget_after_s IS NOT NULL AND last_in IS NOT NULL AND extract(epoch FROM row_now.at - last_in) > p.forget_after_s;
        IF row_now.direction = 'out' THEN
          IF inside > 0 OR p.passback <> 'hard' THEN
            verdict := 'exit'; inside := greatest(0, inside - a.used); expected := 0;
          ELSE
            verdict := 'excess'; cause := 'passback';
          END IF;
        ELSE
          -- In the order of rules/entitlement.ts.
          IF visits > 0 AND expected = 0 AND NOT (ticket.vip AND p.vip_always) THEN
            allowance := coalesce(ticket.max_scans, p.total, CASE p.rule WHEN 'none' THEN 1 END);
            gap_s := greatest(p.duplicate_window_s, p.min_gap_s);
            cause := CASE
              WHEN allowance IS NOT NULL AND (p.rule = 'none' OR p.counts_as_entry) AND visits >= allowance THEN CASE allowance WHEN 1 THEN 'already_redeemed' ELSE 'max_entries' END
              WHEN p.rule = 'after_exit' AND inside >= party THEN 'already_inside'
              WHEN p.max_reentries IS NOT NULL AND visits - 1 >= p.max_reentries THEN CASE p.max_reentries WHEN 0 THEN 'already_redeemed' ELSE 'max_entries' END
              WHEN p.until IS NOT NULL AND row_now.at > p.until THEN 'already_redeemed'
              WHEN p.days IS NOT NULL AND NOT venue_day(row_now.at, ticket.time_zone) = ANY (visit_days) AND (SELECT count(DISTINCT d) FROM unnest(visit_days) AS d) >= p.days THEN 'max_entries'
              WHEN p.per_day IS NOT NULL AND (SELECT count(*) FROM unnest(visit_days) AS d WHERE d = venue_day(row_now.at, ticket.time_zone)) >= p.per_day THEN 'max_entries'
              WHEN p.per_gate IS NOT NULL AND (SELECT count(*) FROM unnest(visit_gates) AS g WHERE g = row_now.gate) >= p.per_gate THEN 'max_entries'
              WHEN p.passback = 'hard' AND inside >= party AND NOT forgotten THEN 'passback'
              WHEN extract(epoch FROM row_now.at - last_in) < gap_s THEN 'gap'
            END;
          END IF;
          IF cause IS NOT NULL THEN
            verdict := 'excess';
          ELSE
            verdict := CASE WHEN has_winner THEN 'reentry' ELSE 'winner' END;
            IF NOT has_winner THEN winner := row_now; has_winner := true; first_in := row_now.at; END IF;
            IF expected = 0 THEN
              visits := visits + 1; expected := party; visit_gates := visit_gates || row_now.gate;
              IF p.days IS NOT NULL OR p.per_day IS NOT NULL THEN visit_days := visit_days || venue_day(row_now.at, ticket.time_zone); END IF;
            END IF;
            expected := greatest(0, expected - a.used); inside := inside + a.used; last_in := row_now.at; entries := entries + 1; last_scan := row_now.at;
          END IF;
        END IF;
      END IF;
      IF verdict = 'excess' THEN
        clash := clash || ROW(tenant, ticket.event_id, ticket.ticket_id, row_now.gate, row_now.epoch, row_now.seq,
          winner.gate, winner.epoch, winner.seq, cause, row_now.at, winner.at, a.overlapping, now())::conflicts;
      END IF;
      IF (row_now.verdict, row_now.cause, row_now.overlapping, row_now.units_used, row_now.units_uncertain, row_now.outcome) IS DISTINCT FROM (verdict, cause, a.overlapping, a.used::smallint, a.uncertain::smallint, a.outcome) THEN
        IF row_now.verdict IS NOT NULL THEN deltas := deltas || counts_of(row_now.gate, row_now.event_id, -1, row_now.verdict, row_now.direction, row_now.units_used, row_now.units_uncertain); END IF;
        deltas := deltas || counts_of(row_now.gate, row_now.event_id, 1, verdict, row_now.direction, a.used, a.uncertain);
        row_now.verdict := verdict; row_now.cause := cause; row_now.overlapping := a.overlapping; row_now.units_used := a.used; row_now.units_uncertain := a.uncertain; row_now.outcome := a.outcome;
        changed := changed || row_now;
      END IF;
    END LOOP;
    usage := usage || ROW(tenant, ticket.event_id, ticket.ticket_id, entries, first_in, last_scan, ticket.known)::ticket_usage;
  END LOOP;

  -- Demote before promoting: in one UPDATE the unique index would break, depending on the order of rows.
  UPDATE admissions adm SET verdict = NULL FROM unnest(changed) AS c
  WHERE adm.tenant_id = tenant AND adm.gate = c.gate AND adm.epoch = c.epoch AND adm.seq = c.seq AND adm.verdict = 'winner' AND c.verdict <> 'winner';
  UPDATE admissions adm SET verdict = c.verdict, cause = c.cause, overlapping = c.overlapping, units_used = c.units_used, units_uncertain = c.units_uncertain, outcome = c.outcome FROM unnest(changed) AS c
  WHERE adm.tenant_id = tenant AND adm.gate = c.gate AND adm.epoch = c.epoch AND adm.seq = c.seq;

  DELETE FROM conflicts x USING unnest(events, ticket_ids) AS k (event_id, ticket_id)
  WHERE x.tenant_id = tenant AND x.event_id = k.event_id AND x.ticket_id = k.ticket_id
    AND NOT EXISTS (SELECT FROM unnest(clash) AS c WHERE c.event_id = x.event_id AND c.ticket_id = x.ticket_id AND (c.loser_gate, c.loser_epoch, c.loser_seq) = (x.loser_gate, x.loser_epoch, x.loser_seq));
  IF cardinality(clash) > 0 THEN
    INSERT INTO conflicts AS x SELECT c.* FROM unnest(clash) AS c
    ON CONFLICT (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq) DO UPDATE SET
      winner_gate = excluded.winner_gate, winner_epoch = excluded.winner_epoch, winner_seq = excluded.winner_seq, cause = excluded.cause, loser_at = excluded.loser_at, winner_at = excluded.winner_at, overlapping = excluded.overlapping
    WHERE (x.winner_gate, x.winner_epoch, x.winner_seq, x.cause, x.loser_at, x.winner_at, x.overlapping)
      IS DISTINCT FROM (excluded.winner_gate, excluded.winner_epoch, excluded.winner_seq, excluded.cause, excluded.loser_at, excluded.winner_at, excluded.overlapping);
  END IF;

  UPDATE ticket_usage u SET entries = n.entries, first_at = n.first_at, last_at = n.last_at, known = n.known FROM unnest(usage) AS n
  WHERE u.tenant_id = tenant AND u.event_id = n.event_id AND u.ticket_id = n.ticket_id AND (u.entries, u.first_at, u.last_at, u.known) IS DISTINCT FROM (n.entries, n.first_at, n.last_at, n.known);
  RETURN deltas;
END
$$;

-- Tickets that were granted before the cloud knew them, and have appeared: judged now by what they are. Locked ones are left for the next time.
CREATE FUNCTION settle_appeared_tickets(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  events text[];
  ticket_ids text[];
BEGIN
  SELECT array_agg(k.event_id), array_agg(k.ticket_id) INTO events, ticket_ids FROM (
    SELECT u.event_id, u.ticket_id FROM ticket_usage u
    WHERE u.tenant_id = current_tenant_id() AND NOT u.known AND EXISTS (SELECT FROM tickets t WHERE t.tenant_id = u.tenant_id AND t.event_id = u.event_id AND t.ticket_id = u.ticket_id)
    ORDER BY u.event_id, u.ticket_id LIMIT at_most FOR UPDATE SKIP LOCKED) AS k;
  IF events IS NULL THEN RETURN 0; END IF;
  PERFORM judge_tickets(events, ticket_ids);
  RETURN cardinality(events);
END
$$;

-- Judges these tickets anew and copies what they amount to: after a change of their rights (allowance, party, VIP). Locks them itself, sorted.
CREATE FUNCTION judge_tickets(events text[], ticket_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM ticket_usage u JOIN unnest(events, ticket_ids) AS k (event_id, ticket_id) USING (event_id, ticket_id)
  WHERE u.tenant_id = current_tenant_id() ORDER BY u.event_id, u.ticket_id FOR UPDATE OF u;
  DECLARE
    deltas count_delta[] := rank_tickets(events, ticket_ids);
  BEGIN
    PERFORM copy_usage_to_tickets(events, ticket_ids);
    PERFORM add_counts(deltas);
  END;
END
$$;

CREATE FUNCTION tickets_appeared() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  events text[];
  ticket_ids text[];
BEGIN
  SELECT array_agg(k.event_id), array_agg(k.ticket_id) INTO events, ticket_ids FROM (
    SELECT u.event_id, u.ticket_id FROM ticket_usage u JOIN appeared n ON n.tenant_id = u.tenant_id AND n.event_id = u.event_id AND n.ticket_id = u.ticket_id
    WHERE u.tenant_id = current_tenant_id() AND NOT u.known ORDER BY u.event_id, u.ticket_id FOR UPDATE OF u SKIP LOCKED) AS k;
  IF events IS NOT NULL THEN PERFORM judge_tickets(events, ticket_ids); END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER tickets_settle_what_came_before AFTER INSERT ON tickets REFERENCING NEW TABLE AS appeared FOR EACH STATEMENT EXECUTE FUNCTION tickets_appeared();
