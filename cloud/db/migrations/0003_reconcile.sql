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

-- Unix milliseconds → time, kept within what a timestamptz and a reader can bear. NULL of NULL: least() and greatest() pass over it, and would name a bound instead.
CREATE FUNCTION time_of_ms(ms double precision) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN ms IS NOT NULL THEN to_timestamp(greatest(0, least(ms, 253402300799000)) / 1000.0) END;

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

-- What a grant of several guests amounts to: units that count, units that may or may not have passed, and one word for all.
CREATE TYPE grant_sum AS (used integer, uncertain integer, outcome text);
CREATE FUNCTION grant_state(units integer, word_1 bigint, words bigint[], word_all bigint) RETURNS grant_sum LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  total grant_sum := ROW(0, 0, 'passed');
  o text;
BEGIN
  FOR u IN 1 .. units LOOP
    o := outcome_of_word(greatest(CASE u WHEN 1 THEN word_1 ELSE words[u] END, word_all));
    CONTINUE WHEN o = 'returned';
    total.used := total.used + 1;
    CONTINUE WHEN o = 'passed';
    total.uncertain := total.uncertain + 1;
    IF o = 'open' OR total.outcome = 'passed' OR (o = 'unknown' AND total.outcome = 'stuck') THEN total.outcome := o; END IF;
  END LOOP;
  IF total.used = 0 THEN total.outcome := 'returned'; END IF;
  RETURN total;
END
$$;

CREATE FUNCTION counts_of(gate text, event_id text, sign integer, verdict text, direction text, used integer, uncertain integer) RETURNS count_delta
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT ROW(gate, event_id, sign, sign * (verdict = 'winner')::integer, sign * (verdict = 'reentry')::integer, sign * (verdict = 'exit')::integer,
    sign * (verdict = 'excess')::integer, sign * (verdict = 'annulled')::integer,
    sign * used * (direction = 'in')::integer, sign * used * (direction = 'out')::integer, sign * uncertain, 0, 0, 0, 0)::count_delta $$;

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

-- One grant of a replay: where it stands, what was written of it, and what is to be.
CREATE TYPE replayed AS (
  event_id text, ticket_id text, gate text, epoch bigint, seq bigint, at timestamptz, direction text,
  was_verdict text, was_used integer, was_uncertain integer, changed boolean,
  verdict text, cause text, overlapping boolean, used integer, uncertain integer, outcome text
);

-- Every grant of these tickets, in rank order, judged in that order by the policies that its gate had (rules/entitlement.ts says the same for a gate).
-- A grant that is beyond its right does not change what later ones may: at an all-knowing gate it would not have happened.
CREATE FUNCTION replay_tickets(events text[], ticket_ids text[]) RETURNS SETOF replayed LANGUAGE plpgsql STABLE ROWS 1000 AS $$
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
      SELECT k.*, adm.gate, adm.epoch, adm.seq, adm.at, adm.at_low, adm.at_high, adm.direction, adm.units, adm.manifest_version,
        adm.verdict AS was_verdict, adm.cause AS was_cause, adm.overlapping AS was_overlapping, adm.units_used::integer AS was_used, adm.units_uncertain::integer AS was_uncertain, adm.outcome AS was_outcome,
        (adm.sum).outcome AS outcome, (adm.sum).used AS used, (adm.sum).uncertain AS uncertain
      FROM ticket k
      CROSS JOIN LATERAL (
        SELECT x.*, CASE WHEN x.units > 1 THEN grant_state(x.units, x.word_1, x.words, x.word_all)
          ELSE ROW((w.outcome <> 'returned')::integer, (w.outcome IN ('open', 'unknown', 'stuck'))::integer, w.outcome)::grant_sum END AS sum
        FROM admissions x CROSS JOIN LATERAL (SELECT outcome_of_word(greatest(x.word_1, x.word_all)) AS outcome OFFSET 0) AS w
        WHERE x.tenant_id = tenant AND x.event_id = k.event_id AND x.ticket_id = k.ticket_id AND x.granted OFFSET 0) AS adm
    ), policy AS MATERIALIZED (
      SELECT d.event_id AS e, d.manifest_version AS v, d.gate AS g, d.tier AS t, p.*
      FROM (SELECT DISTINCT event_id, manifest_version, gate, tier, policies_now FROM counted) AS d
      -- Of the version that the gate had, or the first one known.
      LEFT JOIN LATERAL (SELECT h.policies FROM event_policies h WHERE h.tenant_id = tenant AND h.event_id = d.event_id ORDER BY h.version > d.manifest_version, CASE WHEN h.version <= d.manifest_version THEN -h.version ELSE h.version END LIMIT 1) AS h ON true
      CROSS JOIN LATERAL entitlement_policy(coalesce(h.policies, d.policies_now, '{}'), d.tier, d.gate) AS p
    )
    SELECT c.*, p.*,
      c.used > 0 AND (coalesce(max(c.at_high) FILTER (WHERE c.used > 0) OVER before >= c.at_low, false) OR coalesce(min(c.at_low) FILTER (WHERE c.used > 0) OVER after <= c.at_high, false)) AS overlaps,
      row_number() OVER before = 1 AS begins
    FROM counted c JOIN policy p ON p.e = c.event_id AND p.v = c.manifest_version AND p.g = c.gate AND p.t IS NOT DISTINCT FROM c.tier
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
          forgotten := a.forget_after_s IS NOT NULL AND last_in IS NOT NULL AND extract(epoch FROM a.at - last_in) > a.forget_after_s;
          r.cause := CASE
            WHEN allowance IS NOT NULL AND (a.rule = 'none' OR a.counts_as_entry) AND visits >= allowance THEN CASE allowance WHEN 1 THEN 'already_redeemed' ELSE 'max_entries' END
            WHEN a.rule = 'after_exit' AND inside >= party THEN 'already_inside'
            WHEN a.max_reentries IS NOT NULL AND visits - 1 >= a.max_reentries THEN CASE a.max_reentries WHEN 0 THEN 'already_redeemed' ELSE 'max_entries' END
            WHEN a.until IS NOT NULL AND a.at > a.until THEN 'already_redeemed'
            WHEN a.days IS NOT NULL AND NOT today = ANY (visit_days) AND (SELECT count(DISTINCT d) FROM unnest(visit_days) AS d) >= a.days THEN 'max_entries'
            WHEN a.per_day IS NOT NULL AND (SELECT count(*) FROM unnest(visit_days) AS d WHERE d = today) >= a.per_day THEN 'max_entries'
            WHEN a.per_gate IS NOT NULL AND (SELECT count(*) FROM unnest(visit_gates) AS g WHERE g = a.gate) >= a.per_gate THEN 'max_entries'
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
            IF a.per_gate IS NOT NULL THEN visit_gates := visit_gates || a.gate::text; END IF;
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

-- Replays these tickets and writes verdicts, conflicts and usage where they changed. The caller holds the tickets' rows of ticket_usage, and adds
-- the sums that come back (add_counts) as its last step.
CREATE FUNCTION rank_tickets(events text[], ticket_ids text[]) RETURNS count_delta[] LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  grants replayed[];
  changed replayed[];
  deltas count_delta[];
BEGIN
  SELECT array_agg(r), array_agg(r) FILTER (WHERE r.changed) INTO grants, changed FROM replay_tickets(events, ticket_ids) AS r;
  IF changed IS NOT NULL THEN
    -- Demote before promoting: in one UPDATE the unique index would break, depending on the order of rows.
    IF EXISTS (SELECT FROM unnest(changed) AS c WHERE c.was_verdict = 'winner' AND c.verdict <> 'winner') THEN
      UPDATE admissions adm SET verdict = NULL FROM unnest(changed) AS c
      WHERE adm.tenant_id = tenant AND adm.gate = c.gate AND adm.epoch = c.epoch AND adm.seq = c.seq AND c.was_verdict = 'winner' AND c.verdict <> 'winner';
    END IF;
    UPDATE admissions adm SET verdict = c.verdict, cause = c.cause, overlapping = c.overlapping, units_used = c.used, units_uncertain = c.uncertain, outcome = c.outcome FROM unnest(changed) AS c
    WHERE adm.tenant_id = tenant AND adm.gate = c.gate AND adm.epoch = c.epoch AND adm.seq = c.seq;
    SELECT array_agg(d) INTO deltas FROM (
      SELECT counts_of(c.gate, c.event_id, 1, c.verdict, c.direction, c.used, c.uncertain) AS d FROM unnest(changed) AS c
      UNION ALL SELECT counts_of(c.gate, c.event_id, -1, c.was_verdict, c.direction, c.was_used, c.was_uncertain) FROM unnest(changed) AS c WHERE c.was_verdict IS NOT NULL) AS both_ways;
  END IF;

  DELETE FROM conflicts x USING (
    SELECT k.event_id, k.ticket_id, y.loser_gate, y.loser_epoch, y.loser_seq FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)) AS k
    CROSS JOIN LATERAL (SELECT * FROM conflicts z WHERE z.tenant_id = tenant AND z.event_id = k.event_id AND z.ticket_id = k.ticket_id OFFSET 0) AS y
    EXCEPT SELECT g.event_id, g.ticket_id, g.gate, g.epoch, g.seq FROM unnest(grants) AS g WHERE g.verdict = 'excess') AS gone
  WHERE x.tenant_id = tenant AND x.event_id = gone.event_id AND x.ticket_id = gone.ticket_id AND x.loser_gate = gone.loser_gate AND x.loser_epoch = gone.loser_epoch AND x.loser_seq = gone.loser_seq;
  INSERT INTO conflicts AS x (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq, winner_gate, winner_epoch, winner_seq, cause, loser_at, winner_at, overlapping)
  SELECT tenant, g.event_id, g.ticket_id, g.gate, g.epoch, g.seq, w.gate, w.epoch, w.seq, g.cause, g.at, w.at, g.overlapping
  FROM unnest(grants) AS g LEFT JOIN unnest(grants) AS w ON w.event_id = g.event_id AND w.ticket_id = g.ticket_id AND w.verdict = 'winner' WHERE g.verdict = 'excess'
  ON CONFLICT (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq) DO UPDATE SET
    winner_gate = excluded.winner_gate, winner_epoch = excluded.winner_epoch, winner_seq = excluded.winner_seq, cause = excluded.cause, loser_at = excluded.loser_at, winner_at = excluded.winner_at, overlapping = excluded.overlapping
  WHERE (x.winner_gate, x.winner_epoch, x.winner_seq, x.cause, x.loser_at, x.winner_at, x.overlapping)
    IS DISTINCT FROM (excluded.winner_gate, excluded.winner_epoch, excluded.winner_seq, excluded.cause, excluded.loser_at, excluded.winner_at, excluded.overlapping);

  UPDATE ticket_usage u SET entries = n.entries, first_at = n.first_at, last_at = n.last_at, known = n.known
  FROM (
    SELECT k.event_id, k.ticket_id, count(g.gate)::integer AS entries, min(g.at) AS first_at, max(g.at) AS last_at,
      EXISTS (SELECT FROM tickets t WHERE t.tenant_id = tenant AND t.event_id = k.event_id AND t.ticket_id = k.ticket_id) AS known
    FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)) AS k
    LEFT JOIN unnest(grants) AS g ON g.event_id = k.event_id AND g.ticket_id = k.ticket_id AND g.verdict IN ('winner', 'reentry') GROUP BY k.event_id, k.ticket_id) AS n
  WHERE u.tenant_id = tenant AND u.event_id = n.event_id AND u.ticket_id = n.ticket_id AND (u.entries, u.first_at, u.last_at, u.known) IS DISTINCT FROM (n.entries, n.first_at, n.last_at, n.known);
  RETURN coalesce(deltas, '{}');
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
