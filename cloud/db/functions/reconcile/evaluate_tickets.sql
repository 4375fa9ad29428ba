-- As in 0510. What happened is judged as before (the account goes on taking the ticket for a VIP's); the entry that is only asked about (preview_entry) is not.
CREATE OR REPLACE FUNCTION evaluate_tickets(events text[], ticket_ids text[]) RETURNS SETOF replayed LANGUAGE plpgsql STABLE ROWS 1000 AS $$
DECLARE
  tenant uuid := current_tenant_id();
  a record;
  r replayed;
  party integer; visits integer; inside integer; expected integer; last_in timestamptz; visit_days date[]; visit_gates text[]; has_winner boolean;
  allowance integer; forgotten boolean; today date;
  -- Of the entry that preview_entry asks about.
  foreseen CONSTANT bigint := 9223372036854775807;
BEGIN
  FOR a IN
    WITH ticket AS MATERIALIZED (
      SELECT k.event_id, k.ticket_id, t.tier, t.max_scans, t.units AS party, coalesce(t.vip, false) AS vip, coalesce(t.vip_ended, false) AS vip_ended, e.time_zone, e.policies AS policies_now
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
        FROM admissions x CROSS JOIN LATERAL (SELECT outcome_of_rank(greatest(x.word_1, x.word_all)) AS outcome OFFSET 0) AS w
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
        IF visits > 0 AND expected = 0 AND NOT (a.vip AND a.vip_always AND NOT (a.vip_ended AND a.seq = foreseen)) THEN
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
