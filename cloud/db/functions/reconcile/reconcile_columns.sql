-- Stores rows that follow what is stored, and judges what they touch. One array a field, all of one length, sorted by ledger, epoch and seq, no key twice.
-- chained: whether a row's hash is that of the row before it in the arrays (of seq 1: of the ledger's root); NULL where the one before is not there.
-- A row that does not follow, and every row behind it in its run, is kept as a fork; with accept_broken it is stored, and the break flagged.
-- Answers {stored, duplicates, forked: [[gate, epoch, seq]], breaks: [[gate, epoch, seq]], apart: [{gate, epoch, seq, hash, entry}]}: apart are rows
-- that were stored and do not follow one which came now: they left the ledger, and the caller takes off what they counted (forget_columns).
CREATE OR REPLACE FUNCTION reconcile_columns(
  gates text[], epochs bigint[], seqs bigint[], hashes bytea[], kinds text[], readables boolean[], entries text[],
  times timestamptz[], boot_ids text[], boottimes double precision[], offsets double precision[], bounds double precision[],
  event_ids text[], ticket_ids text[], ticket_refs bytea[], directions text[], units integer[], manifest_versions bigint[],
  of_gates text[], of_epochs bigint[], of_seqs bigint[], of_units integer[], outcomes text[],
  again_gates text[], again_epochs bigint[], again_seqs bigint[], again_hashes bytea[], of_hashes bytea[], chained boolean[], accept_broken boolean DEFAULT false
) RETURNS jsonb LANGUAGE plpgsql
  -- Nothing here joins large tables: what is looked up is looked up one by one (LATERAL), so one plan serves every length of the arrays. Loops over two arrays
  -- are what such a plan must never choose.
  SET plan_cache_mode = force_generic_plan SET enable_nestloop = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
  given integer := coalesce(cardinality(gates), 0);
  n integer := given;
  run_gates text[]; run_epochs bigint[]; run_lows bigint[]; run_highs bigint[]; run_firsts integer[]; run_lasts integer[];
  gate_list text[]; place_gates text[]; place_epochs bigint[]; place_seqs bigint[];
  overlap boolean; repeats boolean; repeated boolean; has_forks boolean; over_gone boolean;
  counted boolean[];
  bad_firsts integer[]; bad integer[]; forks integer[]; kept integer[];
  unplaced bigint[];
  moved bigint[];
  deltas count_delta[];
  forked jsonb := '[]'; breaks jsonb := '[]'; apart jsonb := '[]';
  fork_count integer := 0; known_count integer := 0;
  r record;
  message_firsts integer[];
  alone jsonb;
BEGIN
  IF tenant IS NULL THEN RAISE EXCEPTION 'no tenant is set: rows belong to a tenant' USING ERRCODE = 'insufficient_privilege'; END IF;
  IF n = 0 THEN RETURN '{"stored": 0, "duplicates": 0, "forked": [], "breaks": [], "apart": []}'; END IF;
  IF n = 1 AND readables[1] AND again_gates[1] IS NULL THEN
    alone := reconcile_ordinary_row(gates[1], epochs[1], seqs[1], hashes[1], kinds[1], entries[1], times[1], boot_ids[1], boottimes[1], offsets[1], bounds[1],
      event_ids[1], ticket_ids[1], ticket_refs[1], directions[1], units[1], manifest_versions[1], of_epochs[1], of_seqs[1], of_hashes[1], of_units[1], outcomes[1]);
    IF alone IS NOT NULL THEN RETURN alone; END IF;
  END IF;
  SELECT array_agg(c.gate), array_agg(c.epoch), array_agg(c.low), array_agg(c.high), array_agg(c.first), array_agg(c.last) INTO run_gates, run_epochs, run_lows, run_highs, run_firsts, run_lasts FROM consecutive_runs(gates, epochs, seqs) AS c;

  -- The ledgers, and those whose rows are repeated here.
  SELECT array_agg(g.gate) INTO gate_list FROM (SELECT DISTINCT c.gate FROM unnest(run_gates) AS c (gate) UNION SELECT a FROM unnest(again_gates) AS a WHERE a IS NOT NULL ORDER BY 1) AS g;
  repeats := EXISTS (SELECT FROM unnest(again_gates) AS a WHERE a IS NOT NULL);
  INSERT INTO ledgers (tenant_id, gate, site_id) SELECT tenant, g, split_part(g, '/', 1) FROM unnest(gate_list) AS g ORDER BY g ON CONFLICT DO NOTHING;
  SELECT bool_or(l.has_again), bool_or(l.forks > 0) INTO repeated, has_forks FROM (SELECT x.has_again, x.forks FROM ledgers x WHERE x.tenant_id = tenant AND x.gate = ANY (gate_list) ORDER BY x.gate FOR UPDATE) AS l;
  INSERT INTO ledger_epochs (tenant_id, gate, epoch) SELECT DISTINCT tenant, c.gate, c.epoch FROM unnest(run_gates, run_epochs) AS c (gate, epoch) ON CONFLICT DO NOTHING;

  -- What is new. Only where something is not are rows picked out one by one.
  SELECT bool_or(e.stored && int8range(c.low, c.high, '[]')), bool_or(e.gone && int8range(c.low, c.high, '[]')) INTO overlap, over_gone FROM unnest(run_gates, run_epochs, run_lows, run_highs) AS c (gate, epoch, low, high)
  CROSS JOIN LATERAL (SELECT x.stored, x.gone FROM ledger_epochs x WHERE x.tenant_id = tenant AND x.gate = c.gate AND x.epoch = c.epoch LIMIT 1) AS e;
  IF overlap THEN
    -- A stored key with another hash is a fork; with the same hash the row is known.
    SELECT array_agg(i.n) FILTER (WHERE NOT i.known), array_agg(i.n) FILTER (WHERE i.known AND i.hash IS DISTINCT FROM i.stored_hash AND i.stored_hash IS NOT NULL) INTO kept, forks FROM (
      SELECT k AS n, hashes[k] AS hash, e.stored @> seqs[k] AS known, CASE WHEN e.stored @> seqs[k] THEN stored_hash(gates[k], epochs[k], seqs[k]) END AS stored_hash FROM generate_series(1, n) AS k
      CROSS JOIN LATERAL (SELECT x.stored FROM ledger_epochs x WHERE x.tenant_id = tenant AND x.gate = gates[k] AND x.epoch = epochs[k] LIMIT 1) AS e) AS i;
  END IF;
  IF NOT overlap OR kept IS NOT NULL THEN
    IF kept IS NOT NULL THEN
      -- Runs of what is new. A row whose predecessor is stored is judged by that one, and not by what came before it here.
      SELECT array_agg(c.gate), array_agg(c.epoch), array_agg(c.low), array_agg(c.high), array_agg(kept[c.first]), array_agg(kept[c.last]) INTO run_gates, run_epochs, run_lows, run_highs, run_firsts, run_lasts
      FROM consecutive_runs(ARRAY(SELECT gates[k] FROM unnest(kept) WITH ORDINALITY AS o (k, p) ORDER BY p), ARRAY(SELECT epochs[k] FROM unnest(kept) WITH ORDINALITY AS o (k, p) ORDER BY p), ARRAY(SELECT seqs[k] FROM unnest(kept) WITH ORDINALITY AS o (k, p) ORDER BY p)) AS c;
    END IF;
    SELECT array_agg(x.first) INTO bad_firsts FROM (
      SELECT c.first, CASE WHEN c.low = 1 THEN chained[c.first] IS FALSE
        ELSE NOT coalesce(row_follows(CASE WHEN c.low - 1 = e.upto_seq THEN e.upto_hash WHEN e.stored @> (c.low - 1) OR e.gone @> (c.low - 1) THEN stored_hash(c.gate, c.epoch, c.low - 1) END, entries[c.first], hashes[c.first]), true) END AS wrong
      FROM unnest(run_gates, run_epochs, run_lows, run_firsts) AS c (gate, epoch, low, first)
      CROSS JOIN LATERAL (SELECT y.stored, y.gone, y.upto_seq, y.upto_hash FROM ledger_epochs y WHERE y.tenant_id = tenant AND y.gate = c.gate AND y.epoch = c.epoch LIMIT 1) AS e OFFSET 0) AS x WHERE x.wrong;
    IF bad_firsts IS NOT NULL OR over_gone OR false = ANY (chained) THEN
      SELECT array_agg(x.k) FILTER (WHERE x.wrong), array_agg(x.k) FILTER (WHERE x.behind), array_agg(x.k ORDER BY x.k) FILTER (WHERE NOT x.behind) INTO bad, bad_firsts, kept FROM (
        SELECT w.*, bool_or(w.wrong) OVER (PARTITION BY gates[w.k], epochs[w.k], seqs[w.k] - w.k ORDER BY w.k) AS behind FROM (
          SELECT k, coalesce(k = ANY (bad_firsts), false) OR (chained[k] IS FALSE AND NOT k = ANY (run_firsts))
            OR (over_gone AND EXISTS (SELECT FROM ledger_gone g WHERE g.tenant_id = tenant AND g.gate = gates[k] AND g.epoch = epochs[k] AND g.seq = seqs[k] AND g.hash <> hashes[k])) AS wrong
          FROM generate_series(1, n) AS k WHERE kept IS NULL OR k = ANY (kept)) AS w) AS x;
      IF bad IS NOT NULL AND accept_broken THEN
        -- Stored as they are; the breaks are flagged.
        breaks := (SELECT coalesce(jsonb_agg(jsonb_build_array(gates[k], epochs[k], seqs[k])), '[]') FROM unnest(bad) AS k);
        kept := kept || bad_firsts;
        kept := ARRAY(SELECT k FROM unnest(kept) AS k ORDER BY k);
      ELSE
        forks := forks || bad_firsts;
      END IF;
    END IF;
  END IF;
  fork_count := coalesce(cardinality(forks), 0);
  IF fork_count > 0 THEN
    PERFORM keep_forked_rows(ARRAY(SELECT gates[k] FROM unnest(forks) AS k), ARRAY(SELECT epochs[k] FROM unnest(forks) AS k), ARRAY(SELECT seqs[k] FROM unnest(forks) AS k), ARRAY(SELECT hashes[k] FROM unnest(forks) AS k), ARRAY(SELECT kinds[k] FROM unnest(forks) AS k), ARRAY(SELECT entries[k] FROM unnest(forks) AS k),
      ARRAY(SELECT again_gates[k] FROM unnest(forks) AS k), ARRAY(SELECT again_epochs[k] FROM unnest(forks) AS k), ARRAY(SELECT again_seqs[k] FROM unnest(forks) AS k), ARRAY(SELECT again_hashes[k] FROM unnest(forks) AS k));
    forked := (SELECT jsonb_agg(jsonb_build_array(gates[k], epochs[k], seqs[k]) ORDER BY k) FROM unnest(forks) AS k);
  END IF;
  IF overlap OR fork_count > 0 THEN
    IF kept IS NULL THEN RETURN jsonb_build_object('stored', 0, 'duplicates', given - fork_count, 'forked', forked, 'breaks', '[]'::jsonb, 'apart', '[]'::jsonb); END IF;
    SELECT array_agg(gates[k] ORDER BY p), array_agg(epochs[k] ORDER BY p), array_agg(seqs[k] ORDER BY p), array_agg(hashes[k] ORDER BY p), array_agg(kinds[k] ORDER BY p), array_agg(readables[k] ORDER BY p), array_agg(entries[k] ORDER BY p), array_agg(times[k] ORDER BY p), array_agg(boot_ids[k] ORDER BY p), array_agg(boottimes[k] ORDER BY p),
      array_agg(offsets[k] ORDER BY p), array_agg(bounds[k] ORDER BY p), array_agg(event_ids[k] ORDER BY p), array_agg(ticket_ids[k] ORDER BY p), array_agg(ticket_refs[k] ORDER BY p), array_agg(directions[k] ORDER BY p), array_agg(units[k] ORDER BY p), array_agg(manifest_versions[k] ORDER BY p),
      array_agg(of_gates[k] ORDER BY p), array_agg(of_epochs[k] ORDER BY p), array_agg(of_seqs[k] ORDER BY p), array_agg(of_units[k] ORDER BY p), array_agg(outcomes[k] ORDER BY p), array_agg(again_gates[k] ORDER BY p), array_agg(again_epochs[k] ORDER BY p), array_agg(again_seqs[k] ORDER BY p), array_agg(again_hashes[k] ORDER BY p), array_agg(of_hashes[k] ORDER BY p)
    INTO gates, epochs, seqs, hashes, kinds, readables, entries, times, boot_ids, boottimes, offsets, bounds, event_ids, ticket_ids, ticket_refs, directions, units, manifest_versions, of_gates, of_epochs, of_seqs, of_units, outcomes, again_gates, again_epochs, again_seqs, again_hashes, of_hashes
    FROM unnest(kept) WITH ORDINALITY AS o (k, p);
    n := cardinality(gates);
    SELECT array_agg(c.gate), array_agg(c.epoch), array_agg(c.low), array_agg(c.high), array_agg(c.first), array_agg(c.last) INTO run_gates, run_epochs, run_lows, run_highs, run_firsts, run_lasts FROM consecutive_runs(gates, epochs, seqs) AS c;
  END IF;

  -- Stored rows that do not follow one which is new leave the account, with all behind them up to the next gap.
  FOR r IN
    SELECT c.gate, c.epoch, c.high, e.stored FROM unnest(run_gates, run_epochs, run_highs, run_lasts) AS c (gate, epoch, high, last)
    CROSS JOIN LATERAL (SELECT y.stored FROM ledger_epochs y WHERE y.tenant_id = tenant AND y.gate = c.gate AND y.epoch = c.epoch LIMIT 1) AS e
    WHERE e.stored @> (c.high + 1) AND NOT stored_row_follows(c.gate, c.epoch, c.high + 1, hashes[c.last])
  LOOP
    IF accept_broken THEN
      breaks := breaks || jsonb_build_array(jsonb_build_array(r.gate, r.epoch, r.high + 1));
    ELSE
      apart := apart || (SELECT set_rows_apart(r.gate, r.epoch, lower(p), upper(p) - 1) FROM unnest(r.stored * int8multirange(int8range(r.high + 1, NULL))) AS p ORDER BY p LIMIT 1);
      UPDATE ledger_epochs e SET stored = e.stored - (SELECT int8multirange(p) FROM unnest(r.stored * int8multirange(int8range(r.high + 1, NULL))) AS p ORDER BY p LIMIT 1) WHERE e.tenant_id = tenant AND e.gate = r.gate AND e.epoch = r.epoch;
    END IF;
  END LOOP;

  -- For boots, a row that repeats an original stands at its place. Of the rows of one original one counts.
  place_gates := gates; place_epochs := epochs; place_seqs := seqs;
  IF repeats OR repeated THEN
    place_gates := ARRAY(SELECT coalesce(again_gates[i], gates[i]) FROM generate_series(1, n) AS i);
    place_epochs := ARRAY(SELECT coalesce(again_epochs[i], epochs[i]) FROM generate_series(1, n) AS i);
    place_seqs := ARRAY(SELECT coalesce(again_seqs[i], seqs[i]) FROM generate_series(1, n) AS i);
    counted := ARRAY(SELECT NOT h FROM unnest(identities_held(gates, epochs, seqs, hashes, again_gates, again_epochs, again_seqs, again_hashes)) WITH ORDINALITY AS o (h, p) ORDER BY p);
  END IF;
  unplaced := ARRAY(SELECT b.boot_no FROM boots b WHERE b.tenant_id = tenant AND b.gate = ANY (gate_list) AND b.offset_ms IS NULL);
  moved := record_boots(gate_list, place_gates, place_epochs, place_seqs, boot_ids, boottimes, offsets, bounds);
  -- Rows that came before anything measured their boot, or its neighbours.
  IF moved && unplaced THEN PERFORM place_rows(gate_list, ARRAY(SELECT m.no FROM unnest(moved) AS m (no) WHERE m.no = ANY (unplaced))); END IF;
  -- Rows that follow each other are kept as messages of at most a hundred, compressed as a whole; fewer than four stay in their lines.
  message_firsts := ARRAY(SELECT CASE WHEN least(s.first + 99, c.last) - s.first >= 3 THEN s.first END FROM unnest(run_firsts, run_lasts) AS c (first, last) CROSS JOIN LATERAL generate_series(c.first, c.last) AS i
    CROSS JOIN LATERAL (SELECT c.first + (i - c.first) / 100 * 100 AS first) AS s ORDER BY i);
  IF n > 3 THEN
    INSERT INTO ledger_messages (tenant_id, gate, epoch, from_seq, predecessor, last_hash, entries)
    SELECT tenant, c.gate, c.epoch, seqs[s], CASE WHEN s > c.first THEN hashes[s - 1] WHEN c.low = 1 THEN sha256(convert_to(c.gate || '/' || c.epoch, 'UTF8')) ELSE stored_hash(c.gate, c.epoch, c.low - 1) END,
      hashes[least(s + 99, c.last)], entries[s : least(s + 99, c.last)]
    FROM unnest(run_gates, run_epochs, run_lows, run_firsts, run_lasts) AS c (gate, epoch, low, first, last) CROSS JOIN LATERAL generate_series(c.first, c.last, 100) AS s WHERE least(s + 99, c.last) - s >= 3;
  END IF;
  INSERT INTO ledger_lines (tenant_id, gate, epoch, seq, kind, readable, hash, entry, from_seq, at, event_id, ticket_id)
  SELECT tenant, gates[i], epochs[i], seqs[i], kinds[i], readables[i], hashes[i], CASE WHEN message_firsts[i] IS NULL THEN entries[i] END, seqs[message_firsts[i]], coalesce(time_of_ms(offsets[i] + boottimes[i]), (SELECT middle_of(b, boottimes[i], times[i]) FROM boots b WHERE b.tenant_id = tenant AND b.gate = place_gates[i] AND b.boot_id = boot_ids[i]), times[i], now()), event_ids[i], ticket_ids[i] FROM generate_series(1, n) AS i;
  IF 'refusal' = ANY (kinds) THEN
    PERFORM vip_refusals_follow_ledger(gates, epochs, seqs, kinds, readables, entries, (SELECT array_agg(coalesce(time_of_ms(offsets[i] + boottimes[i]), (SELECT middle_of(b, boottimes[i], times[i]) FROM boots b WHERE b.tenant_id = tenant AND b.gate = place_gates[i] AND b.boot_id = boot_ids[i]), times[i], now()) ORDER BY i) FROM generate_series(1, n) AS i), event_ids, ticket_ids);
  END IF;
  IF repeats THEN
    INSERT INTO ledger_agains (tenant_id, of_gate, of_epoch, of_seq, of_hash, gate, epoch, seq) SELECT tenant, again_gates[i], again_epochs[i], again_seqs[i], again_hashes[i], gates[i], epochs[i], seqs[i] FROM generate_series(1, n) AS i WHERE again_gates[i] IS NOT NULL ON CONFLICT DO NOTHING;
    UPDATE ledgers l SET has_again = true WHERE l.tenant_id = tenant AND l.gate = ANY (again_gates) AND NOT l.has_again;
  END IF;
  PERFORM extend_epochs(run_gates, run_epochs, run_lows, run_highs, ARRAY(SELECT hashes[l] FROM unnest(run_lasts) WITH ORDINALITY AS o (l, p) ORDER BY p));
  IF breaks <> '[]' THEN breaks := (SELECT coalesce(jsonb_agg(jsonb_build_array(b.gate, b.epoch, b.seq)), '[]') FROM flag_chain_breaks(ARRAY(SELECT k ->> 0 FROM jsonb_array_elements(breaks) AS k), ARRAY(SELECT (k ->> 1)::bigint FROM jsonb_array_elements(breaks) AS k), ARRAY(SELECT (k ->> 2)::bigint FROM jsonb_array_elements(breaks) AS k)) AS b); END IF;
  IF has_forks OR fork_count > 0 OR repeats THEN
    PERFORM close_forked_rows(place_gates, place_epochs, place_seqs, ARRAY(SELECT coalesce(again_hashes[i], hashes[i]) FROM generate_series(1, n) AS i));
  END IF;

  deltas := judge_columns(gates, epochs, seqs, hashes, kinds, readables, times, boot_ids, boottimes, event_ids, ticket_ids, ticket_refs, directions, units, manifest_versions, of_gates, of_epochs, of_seqs, of_units, outcomes,
    again_gates, again_epochs, again_seqs, again_hashes, of_hashes, place_gates, run_gates, run_epochs, run_lows, run_highs, run_firsts, gate_list, moved, repeats OR repeated);

  -- The sums, last.
  IF 'refusal' = ANY (kinds) OR 'passage' = ANY (kinds) THEN deltas := deltas || sum_columns(1, place_gates, kinds, readables, event_ids, ticket_ids, directions, of_seqs, outcomes, counted); END IF;
  IF cardinality(deltas) > 0 THEN PERFORM add_counts(deltas); END IF;
  IF 'passage' = ANY (kinds) AND 'out' = ANY (directions) THEN PERFORM sum_outward_columns(1, place_gates, kinds, readables, event_ids, ticket_ids, directions, of_seqs, outcomes, counted); END IF;
  RETURN jsonb_build_object('stored', n, 'duplicates', given - n - fork_count, 'forked', forked, 'breaks', breaks, 'apart', apart);
END
$$;
