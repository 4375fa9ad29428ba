-- Judges what these rows say of tickets: grants, and words on grants, become admissions, verdicts and usage. Of rows that are stored just now, or counted anew
-- after others left the account (recount_columns). Answers what gates' sums change by.
CREATE OR REPLACE FUNCTION judge_columns(
  gates text[], epochs bigint[], seqs bigint[], hashes bytea[], kinds text[], readables boolean[], times timestamptz[], boot_ids text[], boottimes double precision[],
  event_ids text[], ticket_ids text[], ticket_refs bytea[], directions text[], units integer[], manifest_versions bigint[],
  of_gates text[], of_epochs bigint[], of_seqs bigint[], of_units integer[], outcomes text[],
  again_gates text[], again_epochs bigint[], again_seqs bigint[], again_hashes bytea[], of_hashes bytea[], place_gates text[],
  run_gates text[], run_epochs bigint[], run_lows bigint[], run_highs bigint[], run_firsts integer[], gate_list text[], moved bigint[], tangled boolean
) RETURNS count_delta[] LANGUAGE plpgsql
  -- Nothing here joins large tables: what is looked up is looked up one by one (LATERAL), so one plan serves every length of the arrays. Loops over two arrays
  -- are what such a plan must never choose.
  SET plan_cache_mode = force_generic_plan SET enable_nestloop = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
  n integer := cardinality(gates);
  has_words boolean; upsert boolean; differs boolean;
  old_events text[]; old_tickets text[];
  word_events text[]; word_tickets text[];
  slow_events text[] := '{}'; slow_tickets text[] := '{}';
  fast_events text[]; fast_tickets text[]; fast_ats timestamptz[];
  grants_in ledger_grant[];
  deltas count_delta[] := '{}';
  more_deltas count_delta[];
  copied record;
BEGIN
  -- Grants, and words on grants, folded to one row a grant.
  has_words := 'passage' = ANY (kinds) OR 'settlement' = ANY (kinds);
  WITH boot AS MATERIALIZED (
    SELECT d.gate, d.boot_id, b.boot_no, b.offset_ms, b.bound_ms, b.after_at, b.before_at FROM (SELECT DISTINCT place_gates[i] AS gate, boot_ids[i] AS boot_id FROM generate_series(1, n) AS i) AS d
    CROSS JOIN LATERAL (SELECT * FROM boots x WHERE x.tenant_id = tenant AND x.gate = d.gate AND x.boot_id = d.boot_id LIMIT 1) AS b
  ), own AS MATERIALIZED (
    SELECT i, gates[i] AS gate, epochs[i] AS epoch, seqs[i] AS seq, boot_ids[i] AS boot_id, boottimes[i] AS boottime_ms, place_gates[i] AS place_gate, again_epochs[i] AS again_epoch, again_seqs[i] AS again_seq,
      coalesce(again_gates[i], gates[i]) AS o_gate, coalesce(again_epochs[i], epochs[i]) AS o_epoch, coalesce(again_seqs[i], seqs[i]) AS o_seq, hash8_of(coalesce(again_hashes[i], hashes[i])) AS hash8
    FROM generate_series(1, n) AS i
    WHERE kinds[i] = 'grant' AND readables[i] AND event_ids[i] IS NOT NULL AND ticket_ids[i] IS NOT NULL
  ), word AS MATERIALIZED (
    SELECT w.gate, w.epoch, w.seq, w.hash8, min(w.event_id) AS event_id, min(w.ticket_id) AS ticket_id,
      max(w.word) FILTER (WHERE w.unit = 1) AS word_1, outcome_rank_strongest(w.unit, w.word) FILTER (WHERE w.unit > 1) AS words, max(w.word) FILTER (WHERE w.unit IS NULL) AS word_all
    FROM (
      SELECT CASE kinds[i] WHEN 'settlement' THEN of_gates[i] ELSE place_gates[i] END AS gate, hash8_of(of_hashes[i]) AS hash8, of_epochs[i] AS epoch, of_seqs[i] AS seq, event_ids[i] AS event_id, ticket_ids[i] AS ticket_id, of_units[i] AS unit,
        CASE kinds[i] WHEN 'passage' THEN outcome_rank_of_passage(outcomes[i]) ELSE outcome_rank_of_settlement(epochs[i], seqs[i], outcomes[i]) END AS word
      FROM generate_series(1, n) AS i WHERE has_words AND readables[i] AND event_ids[i] IS NOT NULL AND ticket_ids[i] IS NOT NULL AND (
        (kinds[i] = 'passage' AND of_seqs[i] IS NOT NULL AND outcomes[i] IN ('passed', 'returned', 'stuck', 'unknown'))
        OR (kinds[i] = 'settlement' AND of_gates[i] IS NOT NULL AND gates[i] = split_part(of_gates[i], '/', 1) || '/cloud'))
    ) AS w GROUP BY w.gate, w.epoch, w.seq, w.hash8
  )
  SELECT array_agg(k.g) INTO grants_in FROM (
    SELECT ROW(coalesce(o.gate, w.gate), coalesce(o.epoch, w.epoch), coalesce(o.seq, w.seq), coalesce(event_ids[o.i], w.event_id), coalesce(ticket_ids[o.i], w.ticket_id), o.i IS NOT NULL, ticket_refs[o.i], directions[o.i], units[o.i], manifest_versions[o.i],
      b.boot_no, o.boottime_ms, times[o.i],
      CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + o.boottime_ms - b.bound_ms) WHEN o.i IS NOT NULL THEN coalesce(b.after_at, '-infinity') END,
      CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + o.boottime_ms) WHEN b.after_at IS NOT NULL AND b.before_at IS NOT NULL THEN b.after_at + (b.before_at - b.after_at) / 2
        WHEN o.i IS NOT NULL THEN coalesce(greatest(least(CASE WHEN times[o.i] >= '2000-01-01Z' OR b.before_at IS NULL THEN times[o.i] END, b.before_at), b.after_at), now()) END,
      CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + o.boottime_ms + b.bound_ms) WHEN o.i IS NOT NULL THEN coalesce(b.before_at, 'infinity') END,
      CASE WHEN o.i IS NOT NULL THEN b.offset_ms IS NOT NULL END, w.word_1, nullif(w.words, '{}'), w.word_all,
      coalesce(o.hash8, w.hash8, 0), CASE WHEN o.again_epoch IS NOT NULL THEN o.o_gate END, o.again_epoch, o.again_seq)::ledger_grant AS g
    FROM own o FULL JOIN (SELECT x.event_id, x.ticket_id, x.word_1, x.words, x.word_all, x.gate, x.epoch, x.seq, coalesce(x.hash8, same.hash8) AS hash8 FROM word x
        LEFT JOIN own same ON x.hash8 IS NULL AND same.again_epoch IS NULL AND same.gate = x.gate AND same.epoch = x.epoch AND same.seq = x.seq) AS w
      ON w.gate = o.o_gate AND w.epoch = o.o_epoch AND w.seq = o.o_seq AND w.hash8 = o.hash8
    LEFT JOIN boot b ON b.gate = o.place_gate AND b.boot_id = o.boot_id ORDER BY o.i) AS k;

  IF grants_in IS NOT NULL OR cardinality(moved) > 0 THEN
    -- Tickets whose earlier grants are touched: by a word, by a grant that comes after a word on it, or by a boot that moved.
    SELECT array_agg(a.event_id), array_agg(a.ticket_id), coalesce(bool_or(a.hash8 <> 0 AND a.hash8 <> hash8_of(hashes[r.first + (a.seq - r.low)::integer])), false) INTO old_events, old_tickets, differs
    FROM unnest(run_gates, run_epochs, run_lows, run_highs, run_firsts) AS r (gate, epoch, low, high, first)
    CROSS JOIN LATERAL (SELECT x.event_id, x.ticket_id, x.seq, x.hash8 FROM admissions x WHERE x.tenant_id = tenant AND x.gate = r.gate AND x.epoch = r.epoch AND x.seq BETWEEN r.low AND r.high OFFSET 0) AS a;
    tangled := tangled OR differs;
    upsert := old_events IS NOT NULL OR has_words;
    IF has_words THEN
      -- The grants that words speak of, as they stand.
      SELECT array_agg(a.event_id), array_agg(a.ticket_id), coalesce(bool_or(a.hash8 <> g.hash8 AND a.hash8 <> 0 AND g.hash8 <> 0), false) INTO word_events, word_tickets, differs FROM unnest(grants_in) AS g
      CROSS JOIN LATERAL (SELECT x.event_id, x.ticket_id, x.hash8 FROM admissions x WHERE NOT g.granted AND x.tenant_id = tenant AND x.gate = g.gate AND x.epoch = g.epoch AND x.seq = g.seq LIMIT 1) AS a;
      -- Two elements with one place: a word that names another hash than the row there.
      tangled := tangled OR differs OR (SELECT count(*) > count(DISTINCT (g.gate, g.epoch, g.seq)) FROM unnest(grants_in) AS g);
    END IF;
    IF tangled THEN
      deltas := judge_tangled(grants_in, moved, gate_list);
      RETURN deltas;
    END IF;
    IF upsert OR cardinality(moved) > 0 THEN
      SELECT coalesce(array_agg(s.event_id), '{}'), coalesce(array_agg(s.ticket_id), '{}') INTO slow_events, slow_tickets FROM (
        SELECT o.event_id, o.ticket_id FROM unnest(old_events, old_tickets) AS o (event_id, ticket_id)
        UNION SELECT g.event_id, g.ticket_id FROM unnest(grants_in) AS g WHERE NOT g.granted
        UNION SELECT o.event_id, o.ticket_id FROM unnest(word_events, word_tickets) AS o (event_id, ticket_id)
        UNION SELECT a.event_id, a.ticket_id FROM tickets_of_boots(gate_list, moved) AS a) AS s;
    END IF;

    -- Lock the tickets: rows that are made now are ours, sorted; then the others, sorted. A ticket that was never granted before, with one entry of one
    -- guest, needs no replay: it is made with its result (fast); all others are replayed (slow). Taken for known until its ticket is not found.
    WITH mine AS MATERIALIZED (
      SELECT g.event_id, g.ticket_id, count(*) = 1 AND bool_and(g.granted AND g.direction = 'in' AND g.units = 1) AND (g.event_id, g.ticket_id) NOT IN (SELECT s.e, s.t FROM unnest(slow_events, slow_tickets) AS s (e, t)) AS simple,
        min(g.at) FILTER (WHERE outcome_of_rank(greatest(g.word_1, g.word_all)) <> 'returned') AS at
      FROM unnest(grants_in) AS g GROUP BY g.event_id, g.ticket_id
    ), made AS (
      INSERT INTO ticket_usage (tenant_id, event_id, ticket_id, entries, first_at, last_at, known)
      SELECT tenant, m.event_id, m.ticket_id, (m.simple AND m.at IS NOT NULL)::integer, CASE WHEN m.simple THEN m.at END, CASE WHEN m.simple THEN m.at END, true
      FROM mine m ORDER BY m.event_id, m.ticket_id ON CONFLICT DO NOTHING RETURNING event_id, ticket_id
    )
    SELECT coalesce(array_agg(m.event_id) FILTER (WHERE m.simple AND d.ticket_id IS NOT NULL), '{}'), coalesce(array_agg(m.ticket_id) FILTER (WHERE m.simple AND d.ticket_id IS NOT NULL), '{}'), coalesce(array_agg(m.at) FILTER (WHERE m.simple AND d.ticket_id IS NOT NULL), '{}'),
      slow_events || coalesce(array_agg(m.event_id) FILTER (WHERE NOT m.simple OR d.ticket_id IS NULL), '{}'), slow_tickets || coalesce(array_agg(m.ticket_id) FILTER (WHERE NOT m.simple OR d.ticket_id IS NULL), '{}')
    INTO fast_events, fast_tickets, fast_ats, slow_events, slow_tickets
    FROM mine m LEFT JOIN made d ON d.event_id = m.event_id AND d.ticket_id = m.ticket_id;
    IF cardinality(slow_events) > 0 THEN PERFORM lock_ticket_usage(slow_events, slow_tickets); END IF;
    IF cardinality(moved) > 0 THEN PERFORM reposition_boots(gate_list, moved); END IF;

    -- Their admissions. A gate's rows are its lock's, but a settlement is the cloud's word on another gate's row: where it came in between, the row is there.
    IF NOT upsert THEN
      BEGIN
        WITH added AS (
          INSERT INTO admissions AS a (tenant_id, gate, epoch, seq, event_id, ticket_id, granted, ticket_ref, direction, units, manifest_version, boot_no, boottime_ms, ts, at_low, at, at_high, placed, hash8, units_used, units_uncertain, outcome, verdict)
          SELECT tenant, g.gate, g.epoch, g.seq, g.event_id, g.ticket_id, true, g.ticket_ref, g.direction, g.units, g.manifest_version, g.boot_no, g.boottime_ms, g.ts, g.at_low, g.at, g.at_high, g.placed, g.hash8,
            g.fast::integer, g.fast::integer, CASE WHEN g.fast THEN 'open' END, CASE WHEN g.fast THEN 'winner' END
          FROM (SELECT x.*, (x.event_id, x.ticket_id) NOT IN (SELECT s.e, s.t FROM unnest(slow_events, slow_tickets) AS s (e, t)) AS fast FROM unnest(grants_in) AS x OFFSET 0) AS g
          RETURNING a.gate, a.event_id, a.verdict
        )
        SELECT array_agg(ROW(c.gate, c.event_id, c.grants, c.grants, 0, 0, 0, 0, c.grants, 0, c.grants, 0, 0, 0, 0)::count_delta) INTO more_deltas FROM (SELECT a.gate, a.event_id, count(*) AS grants FROM added a WHERE a.verdict IS NOT NULL GROUP BY a.gate, a.event_id) AS c;
      EXCEPTION WHEN unique_violation THEN
        upsert := true;
        SELECT array_agg(s.event_id), array_agg(s.ticket_id) INTO old_events, old_tickets FROM (
          SELECT g.event_id, g.ticket_id, a.event_id AS other_event, a.ticket_id AS other_ticket FROM unnest(grants_in) AS g
          CROSS JOIN LATERAL (SELECT x.event_id, x.ticket_id FROM admissions x WHERE x.tenant_id = tenant AND x.gate = g.gate AND x.epoch = g.epoch AND x.seq = g.seq LIMIT 1) AS a) AS both_sides
          CROSS JOIN LATERAL (VALUES (both_sides.event_id, both_sides.ticket_id), (both_sides.other_event, both_sides.other_ticket)) AS s (event_id, ticket_id);
        -- What came in between speaks of another row than the one that has its place here.
        IF EXISTS (SELECT FROM unnest(grants_in) AS g CROSS JOIN LATERAL (SELECT x.hash8 FROM admissions x WHERE x.tenant_id = tenant AND x.gate = g.gate AND x.epoch = g.epoch AND x.seq = g.seq LIMIT 1) AS a WHERE a.hash8 <> g.hash8 AND a.hash8 <> 0 AND g.hash8 <> 0) THEN
          RETURN judge_tangled(grants_in, moved, gate_list);
        END IF;
        slow_events := slow_events || old_events;
        slow_tickets := slow_tickets || old_tickets;
        SELECT coalesce(array_agg(f.event_id), '{}'), coalesce(array_agg(f.ticket_id), '{}'), coalesce(array_agg(f.at), '{}') INTO fast_events, fast_tickets, fast_ats FROM unnest(fast_events, fast_tickets, fast_ats) AS f (event_id, ticket_id, at)
        WHERE (f.event_id, f.ticket_id) NOT IN (SELECT s.e, s.t FROM unnest(slow_events, slow_tickets) AS s (e, t));
        PERFORM lock_ticket_usage(slow_events, slow_tickets);
      END;
    END IF;
    IF upsert THEN
      WITH added AS (
        INSERT INTO admissions AS a (tenant_id, gate, epoch, seq, event_id, ticket_id, granted, ticket_ref, direction, units, manifest_version, boot_no, boottime_ms, ts, at_low, at, at_high, placed,
          hash8, word_1, words, word_all, units_used, units_uncertain, outcome, verdict)
        SELECT tenant, g.gate, g.epoch, g.seq, g.event_id, g.ticket_id, g.granted, g.ticket_ref, g.direction, g.units, g.manifest_version, g.boot_no, g.boottime_ms, g.ts, g.at_low, g.at, g.at_high, g.placed,
          g.hash8, g.word_1, g.words, g.word_all, (g.fast AND g.outcome <> 'returned')::integer, (g.fast AND g.outcome IN ('open', 'unknown', 'stuck'))::integer, CASE WHEN g.fast THEN g.outcome END, CASE WHEN g.fast THEN CASE g.outcome WHEN 'returned' THEN 'annulled' ELSE 'winner' END END
        FROM (SELECT x.*, (x.event_id, x.ticket_id) NOT IN (SELECT s.e, s.t FROM unnest(slow_events, slow_tickets) AS s (e, t)) AS fast, outcome_of_rank(greatest(x.word_1, x.word_all)) AS outcome FROM unnest(grants_in) AS x OFFSET 0) AS g
        ORDER BY g.gate, g.epoch, g.seq
        ON CONFLICT (gate, epoch, seq, tenant_id) DO UPDATE SET
          event_id = CASE WHEN excluded.granted THEN excluded.event_id ELSE a.event_id END, ticket_id = CASE WHEN excluded.granted THEN excluded.ticket_id ELSE a.ticket_id END,
          granted = a.granted OR excluded.granted, ticket_ref = coalesce(excluded.ticket_ref, a.ticket_ref), direction = coalesce(excluded.direction, a.direction), units = coalesce(excluded.units, a.units),
          manifest_version = coalesce(excluded.manifest_version, a.manifest_version), boot_no = coalesce(excluded.boot_no, a.boot_no), boottime_ms = coalesce(excluded.boottime_ms, a.boottime_ms), ts = coalesce(excluded.ts, a.ts),
          at_low = coalesce(excluded.at_low, a.at_low), at = coalesce(excluded.at, a.at), at_high = coalesce(excluded.at_high, a.at_high), placed = coalesce(excluded.placed, a.placed),
          hash8 = CASE WHEN excluded.hash8 <> 0 THEN excluded.hash8 ELSE a.hash8 END, word_1 = greatest(a.word_1, excluded.word_1), words = outcome_rank_merge(a.words, excluded.words), word_all = greatest(a.word_all, excluded.word_all)
        RETURNING a.gate, a.event_id, a.ticket_id, a.verdict, a.units_uncertain
      )
      SELECT array_agg(ROW(c.gate, c.event_id, c.grants, c.grants - c.annulled, 0, 0, 0, c.annulled, c.grants - c.annulled, 0, c.uncertain, 0, 0, 0, 0)::count_delta) INTO more_deltas FROM (
        SELECT a.gate, a.event_id, count(*) AS grants, count(*) FILTER (WHERE a.verdict = 'annulled') AS annulled, sum(a.units_uncertain) AS uncertain
        FROM added a WHERE a.verdict IS NOT NULL AND (a.event_id, a.ticket_id) NOT IN (SELECT s.e, s.t FROM unnest(slow_events, slow_tickets) AS s (e, t)) GROUP BY a.gate, a.event_id) AS c;
    END IF;
    deltas := more_deltas;

    IF cardinality(slow_events) > 0 THEN deltas := deltas || store_verdicts(slow_events, slow_tickets); END IF;
    IF cardinality(fast_events) + cardinality(slow_events) > 0 THEN
      SELECT * INTO copied FROM copy_usage_to_tickets(slow_events, slow_tickets, fast_events, fast_tickets, fast_ats);
      IF copied.unknown_tickets IS NOT NULL THEN PERFORM record_unknown_tickets(copied.unknown_events, copied.unknown_tickets); END IF;
      -- A first entry of a ticket that had lost its right: an entry, and a conflict.
      IF copied.lost_tickets IS NOT NULL THEN deltas := deltas || store_verdicts(copied.lost_events, copied.lost_tickets); END IF;
    END IF;
  END IF;
  RETURN deltas;
END
$$;
