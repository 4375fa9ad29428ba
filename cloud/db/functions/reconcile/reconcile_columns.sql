-- Appends what is new and judges what it touches. One array a field, all of one length. Answers {stored, duplicates, clones: [[gate, epoch, seq]],
-- edges: [{gate, epoch, seq, previous, hash, entry}]}: edges are new rows whose predecessor was stored before, and stored rows whose predecessor is new, for the check of the chain.
CREATE OR REPLACE FUNCTION reconcile_columns(
  gates text[], epochs bigint[], seqs bigint[], hashes bytea[], kinds text[], readables boolean[], entries text[],
  times timestamptz[], boot_ids text[], boottimes double precision[], offsets double precision[], bounds double precision[],
  event_ids text[], ticket_ids text[], ticket_refs bytea[], directions text[], units integer[], manifest_versions bigint[],
  of_gates text[], of_epochs bigint[], of_seqs bigint[], of_units integer[], outcomes text[]
) RETURNS jsonb LANGUAGE plpgsql
  -- Nothing here joins large tables: what is looked up is looked up one by one (LATERAL), so one plan serves every length of the arrays. Loops over two arrays
  -- are what such a plan must never choose.
  SET plan_cache_mode = force_generic_plan SET enable_nestloop = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
  given integer := coalesce(cardinality(gates), 0);
  n integer := given;
  all_gates text[]; all_epochs bigint[]; all_seqs bigint[]; all_hashes bytea[]; all_entries text[];
  run_gates text[]; run_epochs bigint[]; run_lows bigint[]; run_highs bigint[];
  gate_list text[];
  overlap boolean; has_words boolean; upsert boolean;
  unplaced bigint[];
  moved bigint[];
  old_events text[]; old_tickets text[];
  slow_events text[] := '{}'; slow_tickets text[] := '{}';
  fast_events text[]; fast_tickets text[]; fast_ats timestamptz[];
  grants_in ledger_grant[];
  deltas count_delta[] := '{}';
  more_deltas count_delta[];
  copied record;
  alone jsonb; edges jsonb; clones jsonb := '[]';
BEGIN
  IF tenant IS NULL THEN RAISE EXCEPTION 'no tenant is set: rows belong to a tenant' USING ERRCODE = 'insufficient_privilege'; END IF;
  IF n = 0 THEN RETURN '{"stored": 0, "duplicates": 0, "clones": [], "edges": []}'; END IF;
  IF n = 1 AND readables[1] THEN
    alone := reconcile_ordinary_row(gates[1], epochs[1], seqs[1], hashes[1], kinds[1], entries[1], times[1], boot_ids[1], boottimes[1], offsets[1], bounds[1],
      event_ids[1], ticket_ids[1], ticket_refs[1], directions[1], units[1], manifest_versions[1], of_epochs[1], of_seqs[1], of_units[1], outcomes[1]);
    IF alone IS NOT NULL THEN RETURN alone; END IF;
  END IF;
  SELECT array_agg(r.gate), array_agg(r.epoch), array_agg(r.low), array_agg(r.high) INTO run_gates, run_epochs, run_lows, run_highs FROM consecutive_runs(gates, epochs, seqs) AS r;

  -- The gates.
  SELECT array_agg(g.gate) INTO gate_list FROM (SELECT DISTINCT r.gate FROM unnest(run_gates) AS r (gate) ORDER BY 1) AS g;
  INSERT INTO ledgers (tenant_id, gate, site_id) SELECT tenant, g, split_part(g, '/', 1) FROM unnest(gate_list) AS g ORDER BY g ON CONFLICT DO NOTHING;
  PERFORM 1 FROM ledgers WHERE tenant_id = tenant AND gate = ANY (gate_list) ORDER BY gate FOR UPDATE;
  INSERT INTO ledger_epochs (tenant_id, gate, epoch) SELECT DISTINCT tenant, r.gate, r.epoch FROM unnest(run_gates, run_epochs) AS r (gate, epoch) ON CONFLICT DO NOTHING;

  -- What is new. Only where something is not are rows picked out one by one.
  SELECT bool_or(e.stored && c.places OR c.times > (SELECT sum(upper(p) - lower(p)) FROM unnest(c.places) AS p)) INTO overlap FROM (
    SELECT r.gate, r.epoch, range_agg(int8range(r.low, r.high, '[]')) AS places, sum(r.high - r.low + 1) AS times FROM unnest(run_gates, run_epochs, run_lows, run_highs) AS r (gate, epoch, low, high) GROUP BY r.gate, r.epoch) AS c
  CROSS JOIN LATERAL (SELECT x.stored FROM ledger_epochs x WHERE x.tenant_id = tenant AND x.gate = c.gate AND x.epoch = c.epoch LIMIT 1) AS e;
  IF overlap THEN
    all_gates := gates; all_epochs := epochs; all_seqs := seqs; all_hashes := hashes; all_entries := entries;
    SELECT array_agg(f.gate), array_agg(f.epoch), array_agg(f.seq), array_agg(f.hash), array_agg(f.kind), array_agg(f.readable), array_agg(f.entry), array_agg(f.ts), array_agg(f.boot_id), array_agg(f.boottime_ms),
      array_agg(f.offset_ms), array_agg(f.bound_ms), array_agg(f.event_id), array_agg(f.ticket_id), array_agg(f.ticket_ref), array_agg(f.direction), array_agg(f.units), array_agg(f.manifest_version),
      array_agg(f.of_gate), array_agg(f.of_epoch), array_agg(f.of_seq), array_agg(f.unit), array_agg(f.outcome)
    INTO gates, epochs, seqs, hashes, kinds, readables, entries, times, boot_ids, boottimes, offsets, bounds, event_ids, ticket_ids, ticket_refs, directions, units, manifest_versions, of_gates, of_epochs, of_seqs, of_units, outcomes
    FROM (
      SELECT DISTINCT ON (i.gate, i.epoch, i.seq) i.* FROM unnest(gates, epochs, seqs, hashes, kinds, readables, entries, times, boot_ids, boottimes, offsets, bounds, event_ids, ticket_ids, ticket_refs, directions, units, manifest_versions, of_gates, of_epochs, of_seqs, of_units, outcomes)
        AS i (gate, epoch, seq, hash, kind, readable, entry, ts, boot_id, boottime_ms, offset_ms, bound_ms, event_id, ticket_id, ticket_ref, direction, units, manifest_version, of_gate, of_epoch, of_seq, unit, outcome)
      CROSS JOIN LATERAL (SELECT x.stored FROM ledger_epochs x WHERE x.tenant_id = tenant AND x.gate = i.gate AND x.epoch = i.epoch LIMIT 1) AS e
      WHERE NOT e.stored @> i.seq ORDER BY i.gate, i.epoch, i.seq, i.hash) AS f;
    n := coalesce(cardinality(gates), 0);
    IF n = 0 THEN
      clones := quarantine_clones(all_gates, all_epochs, all_seqs, all_hashes, all_entries);
      RETURN jsonb_build_object('stored', 0, 'duplicates', given - jsonb_array_length(clones), 'clones', clones, 'edges', '[]'::jsonb);
    END IF;
    SELECT array_agg(r.gate), array_agg(r.epoch), array_agg(r.low), array_agg(r.high) INTO run_gates, run_epochs, run_lows, run_highs FROM consecutive_runs(gates, epochs, seqs) AS r;
  END IF;
  unplaced := ARRAY(SELECT b.boot_no FROM boots b WHERE b.tenant_id = tenant AND b.gate = ANY (gate_list) AND b.offset_ms IS NULL);
  moved := record_boots(gate_list, gates, epochs, seqs, boot_ids, boottimes, offsets, bounds);
  -- Rows that came before anything measured their boot, or its neighbours.
  IF moved && unplaced THEN PERFORM place_rows(gate_list, ARRAY(SELECT m.no FROM unnest(moved) AS m (no) WHERE m.no = ANY (unplaced))); END IF;
  INSERT INTO ledger_rows (tenant_id, gate, epoch, seq, kind, readable, hash, entry, at, event_id, ticket_id)
  SELECT tenant, gates[i], epochs[i], seqs[i], kinds[i], readables[i], hashes[i], entries[i], coalesce(time_of_ms(offsets[i] + boottimes[i]), (SELECT middle_of(b, boottimes[i], times[i]) FROM boots b WHERE b.tenant_id = tenant AND b.gate = gates[i] AND b.boot_id = boot_ids[i]), times[i], now()), event_ids[i], ticket_ids[i] FROM generate_series(1, n) AS i;
  IF 'refusal' = ANY (kinds) THEN
    PERFORM vip_refusals_follow_ledger(gates, epochs, seqs, kinds, readables, entries, (SELECT array_agg(coalesce(time_of_ms(offsets[i] + boottimes[i]), (SELECT middle_of(b, boottimes[i], times[i]) FROM boots b WHERE b.tenant_id = tenant AND b.gate = gates[i] AND b.boot_id = boot_ids[i]), times[i], now()) ORDER BY i) FROM generate_series(1, n) AS i), event_ids, ticket_ids);
  END IF;
  IF n < given THEN clones := quarantine_clones(all_gates, all_epochs, all_seqs, all_hashes, all_entries); END IF;
  -- A run's first row, and the one after its last, where their predecessors, or they themselves, were stored before.
  SELECT coalesce(jsonb_agg(jsonb_build_object('gate', x.gate, 'epoch', x.epoch, 'seq', x.seq, 'previous', encode(p.hash, 'hex'), 'hash', encode(l.hash, 'hex'), 'entry', l.entry)), '[]') INTO edges
  FROM (
    SELECT r.gate, r.epoch, CASE s.step WHEN 0 THEN r.low ELSE r.high + 1 END AS seq FROM unnest(run_gates, run_epochs, run_lows, run_highs) AS r (gate, epoch, low, high) CROSS JOIN (VALUES (0), (1)) AS s (step)
    CROSS JOIN LATERAL (SELECT y.stored FROM ledger_epochs y WHERE y.tenant_id = tenant AND y.gate = r.gate AND y.epoch = r.epoch LIMIT 1) AS e
    WHERE e.stored @> CASE s.step WHEN 0 THEN r.low - 1 ELSE r.high + 1 END OFFSET 0
  ) AS x
  CROSS JOIN LATERAL (SELECT r.hash FROM ledger_rows r WHERE r.tenant_id = tenant AND r.gate = x.gate AND r.epoch = x.epoch AND r.seq = x.seq - 1 LIMIT 1) AS p
  CROSS JOIN LATERAL (SELECT r.hash, r.entry FROM ledger_rows r WHERE r.tenant_id = tenant AND r.gate = x.gate AND r.epoch = x.epoch AND r.seq = x.seq LIMIT 1) AS l;
  UPDATE ledger_epochs e SET stored = m.stored, upto_seq = CASE WHEN m.stored @> 1::bigint THEN (SELECT upper(r) - 1 FROM unnest(m.stored) AS r ORDER BY r LIMIT 1) ELSE 0 END, last_row_at = now()
  FROM (
    SELECT g.gate, g.epoch, s.stored + g.fresh AS stored FROM (SELECT r.gate, r.epoch, range_agg(int8range(r.low, r.high, '[]')) AS fresh FROM unnest(run_gates, run_epochs, run_lows, run_highs) AS r (gate, epoch, low, high) GROUP BY r.gate, r.epoch) AS g
    CROSS JOIN LATERAL (SELECT x.stored FROM ledger_epochs x WHERE x.tenant_id = tenant AND x.gate = g.gate AND x.epoch = g.epoch LIMIT 1) AS s OFFSET 0) AS m
  WHERE e.tenant_id = tenant AND e.gate = m.gate AND e.epoch = m.epoch AND e.gate = ANY (gate_list);

  -- Grants, and words on grants, folded to one row a grant.
  has_words := 'passage' = ANY (kinds) OR 'settlement' = ANY (kinds);
  WITH boot AS MATERIALIZED (
    SELECT d.gate, d.boot_id, b.boot_no, b.offset_ms, b.bound_ms, b.after_at, b.before_at FROM (SELECT DISTINCT gates[i] AS gate, boot_ids[i] AS boot_id FROM generate_series(1, n) AS i) AS d
    CROSS JOIN LATERAL (SELECT * FROM boots x WHERE x.tenant_id = tenant AND x.gate = d.gate AND x.boot_id = d.boot_id LIMIT 1) AS b
  ), word AS MATERIALIZED (
    SELECT w.gate, w.epoch, w.seq, min(w.event_id) AS event_id, min(w.ticket_id) AS ticket_id,
      max(w.word) FILTER (WHERE w.unit = 1) AS word_1, outcome_rank_strongest(w.unit, w.word) FILTER (WHERE w.unit > 1) AS words, max(w.word) FILTER (WHERE w.unit IS NULL) AS word_all
    FROM (
      SELECT CASE kinds[i] WHEN 'settlement' THEN of_gates[i] ELSE gates[i] END AS gate, of_epochs[i] AS epoch, of_seqs[i] AS seq, event_ids[i] AS event_id, ticket_ids[i] AS ticket_id, of_units[i] AS unit,
        CASE kinds[i] WHEN 'passage' THEN outcome_rank_of_passage(outcomes[i]) ELSE outcome_rank_of_settlement(epochs[i], seqs[i], outcomes[i]) END AS word
      FROM generate_series(1, n) AS i WHERE has_words AND readables[i] AND event_ids[i] IS NOT NULL AND ticket_ids[i] IS NOT NULL AND (
        (kinds[i] = 'passage' AND of_seqs[i] IS NOT NULL AND outcomes[i] IN ('passed', 'returned', 'stuck', 'unknown'))
        OR (kinds[i] = 'settlement' AND of_gates[i] IS NOT NULL AND gates[i] = split_part(of_gates[i], '/', 1) || '/cloud'))
    ) AS w GROUP BY w.gate, w.epoch, w.seq
  ), own AS (
    SELECT i, gates[i] AS gate, epochs[i] AS epoch, seqs[i] AS seq, boot_ids[i] AS boot_id, boottimes[i] AS boottime_ms FROM generate_series(1, n) AS i
    WHERE kinds[i] = 'grant' AND readables[i] AND event_ids[i] IS NOT NULL AND ticket_ids[i] IS NOT NULL
  )
  SELECT array_agg(k.g) INTO grants_in FROM (
    SELECT ROW(coalesce(o.gate, w.gate), coalesce(o.epoch, w.epoch), coalesce(o.seq, w.seq), coalesce(event_ids[o.i], w.event_id), coalesce(ticket_ids[o.i], w.ticket_id), o.i IS NOT NULL, ticket_refs[o.i], directions[o.i], units[o.i], manifest_versions[o.i],
      b.boot_no, o.boottime_ms, times[o.i],
      CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + o.boottime_ms - b.bound_ms) WHEN o.i IS NOT NULL THEN coalesce(b.after_at, '-infinity') END,
      CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + o.boottime_ms) WHEN b.after_at IS NOT NULL AND b.before_at IS NOT NULL THEN b.after_at + (b.before_at - b.after_at) / 2
        WHEN o.i IS NOT NULL THEN coalesce(greatest(least(CASE WHEN times[o.i] >= '2000-01-01Z' OR b.before_at IS NULL THEN times[o.i] END, b.before_at), b.after_at), now()) END,
      CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + o.boottime_ms + b.bound_ms) WHEN o.i IS NOT NULL THEN coalesce(b.before_at, 'infinity') END,
      CASE WHEN o.i IS NOT NULL THEN b.offset_ms IS NOT NULL END, w.word_1, nullif(w.words, '{}'), w.word_all)::ledger_grant AS g
    FROM own o FULL JOIN word w ON w.gate = o.gate AND w.epoch = o.epoch AND w.seq = o.seq LEFT JOIN boot b ON b.gate = o.gate AND b.boot_id = o.boot_id ORDER BY o.i) AS k;

  IF grants_in IS NOT NULL OR cardinality(moved) > 0 THEN
    -- Tickets whose earlier grants are touched: by a word, by a grant that comes after a word on it, or by a boot that moved.
    SELECT array_agg(a.event_id), array_agg(a.ticket_id) INTO old_events, old_tickets FROM unnest(run_gates, run_epochs, run_lows, run_highs) AS r (gate, epoch, low, high)
    CROSS JOIN LATERAL (SELECT x.event_id, x.ticket_id FROM admissions x WHERE x.tenant_id = tenant AND x.gate = r.gate AND x.epoch = r.epoch AND x.seq BETWEEN r.low AND r.high OFFSET 0) AS a;
    upsert := old_events IS NOT NULL OR has_words;
    IF upsert OR cardinality(moved) > 0 THEN
      SELECT coalesce(array_agg(s.event_id), '{}'), coalesce(array_agg(s.ticket_id), '{}') INTO slow_events, slow_tickets FROM (
        SELECT o.event_id, o.ticket_id FROM unnest(old_events, old_tickets) AS o (event_id, ticket_id)
        UNION SELECT g.event_id, g.ticket_id FROM unnest(grants_in) AS g WHERE NOT g.granted
        UNION SELECT a.event_id, a.ticket_id FROM unnest(grants_in) AS g CROSS JOIN LATERAL (SELECT x.event_id, x.ticket_id FROM admissions x WHERE NOT g.granted AND x.tenant_id = tenant AND x.gate = g.gate AND x.epoch = g.epoch AND x.seq = g.seq LIMIT 1) AS a
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
          INSERT INTO admissions AS a (tenant_id, gate, epoch, seq, event_id, ticket_id, granted, ticket_ref, direction, units, manifest_version, boot_no, boottime_ms, ts, at_low, at, at_high, placed, units_used, units_uncertain, outcome, verdict)
          SELECT tenant, g.gate, g.epoch, g.seq, g.event_id, g.ticket_id, true, g.ticket_ref, g.direction, g.units, g.manifest_version, g.boot_no, g.boottime_ms, g.ts, g.at_low, g.at, g.at_high, g.placed,
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
          word_1, words, word_all, units_used, units_uncertain, outcome, verdict)
        SELECT tenant, g.gate, g.epoch, g.seq, g.event_id, g.ticket_id, g.granted, g.ticket_ref, g.direction, g.units, g.manifest_version, g.boot_no, g.boottime_ms, g.ts, g.at_low, g.at, g.at_high, g.placed,
          g.word_1, g.words, g.word_all, (g.fast AND g.outcome <> 'returned')::integer, (g.fast AND g.outcome IN ('open', 'unknown', 'stuck'))::integer, CASE WHEN g.fast THEN g.outcome END, CASE WHEN g.fast THEN CASE g.outcome WHEN 'returned' THEN 'annulled' ELSE 'winner' END END
        FROM (SELECT x.*, (x.event_id, x.ticket_id) NOT IN (SELECT s.e, s.t FROM unnest(slow_events, slow_tickets) AS s (e, t)) AS fast, outcome_of_rank(greatest(x.word_1, x.word_all)) AS outcome FROM unnest(grants_in) AS x OFFSET 0) AS g
        ORDER BY g.gate, g.epoch, g.seq
        ON CONFLICT (gate, epoch, seq, tenant_id) DO UPDATE SET
          event_id = CASE WHEN excluded.granted THEN excluded.event_id ELSE a.event_id END, ticket_id = CASE WHEN excluded.granted THEN excluded.ticket_id ELSE a.ticket_id END,
          granted = a.granted OR excluded.granted, ticket_ref = coalesce(excluded.ticket_ref, a.ticket_ref), direction = coalesce(excluded.direction, a.direction), units = coalesce(excluded.units, a.units),
          manifest_version = coalesce(excluded.manifest_version, a.manifest_version), boot_no = coalesce(excluded.boot_no, a.boot_no), boottime_ms = coalesce(excluded.boottime_ms, a.boottime_ms), ts = coalesce(excluded.ts, a.ts),
          at_low = coalesce(excluded.at_low, a.at_low), at = coalesce(excluded.at, a.at), at_high = coalesce(excluded.at_high, a.at_high), placed = coalesce(excluded.placed, a.placed),
          word_1 = greatest(a.word_1, excluded.word_1), words = outcome_rank_merge(a.words, excluded.words), word_all = greatest(a.word_all, excluded.word_all)
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

  -- The sums, last.
  IF 'refusal' = ANY (kinds) OR has_words THEN
    SELECT array_agg(ROW(c.gate, c.event_id, 0, 0, 0, 0, 0, 0, 0, 0, 0, c.free, c.forced, c.overrides, c.refusals)::count_delta) INTO more_deltas FROM (
      SELECT gates[i] AS gate, coalesce(event_ids[i], '') AS event_id, count(*) FILTER (WHERE kinds[i] = 'refusal') AS refusals, count(*) FILTER (WHERE kinds[i] = 'passage' AND outcomes[i] = 'free') AS free,
        count(*) FILTER (WHERE kinds[i] = 'passage' AND outcomes[i] = 'forced') AS forced, count(*) FILTER (WHERE kinds[i] = 'passage' AND of_seqs[i] IS NOT NULL AND outcomes[i] NOT IN ('returned', 'free', 'forced')) AS overrides
      FROM generate_series(1, n) AS i WHERE readables[i] AND (kinds[i] = 'refusal' OR (kinds[i] = 'passage' AND ticket_ids[i] IS NULL)) GROUP BY 1, 2) AS c;
    deltas := deltas || more_deltas;
  END IF;
  IF cardinality(deltas) > 0 THEN PERFORM add_counts(deltas); END IF;
  -- Of the passages that are nobody's ticket, those outwards (0565): rows that add_counts has locked just now.
  IF has_words AND 'out' = ANY (directions) THEN
    INSERT INTO gate_counts AS c (tenant_id, gate, event_id, free_out, forced_out, overrides_out)
    SELECT tenant, o.gate, o.event_id, o.free, o.forced, o.overrides FROM (
      SELECT gates[i] AS gate, coalesce(event_ids[i], '') AS event_id, count(*) FILTER (WHERE outcomes[i] = 'free') AS free, count(*) FILTER (WHERE outcomes[i] = 'forced') AS forced,
        count(*) FILTER (WHERE of_seqs[i] IS NOT NULL AND outcomes[i] NOT IN ('returned', 'free', 'forced')) AS overrides
      FROM generate_series(1, n) AS i WHERE readables[i] AND kinds[i] = 'passage' AND ticket_ids[i] IS NULL AND directions[i] = 'out' GROUP BY 1, 2) AS o
    WHERE o.free + o.forced + o.overrides > 0 ORDER BY o.gate, o.event_id
    ON CONFLICT (tenant_id, gate, event_id) DO UPDATE SET free_out = c.free_out + excluded.free_out, forced_out = c.forced_out + excluded.forced_out, overrides_out = c.overrides_out + excluded.overrides_out;
  END IF;

  RETURN jsonb_build_object('stored', n, 'duplicates', given - n - jsonb_array_length(clones), 'clones', clones, 'edges', edges);
END
$$;
