-- Reconciliation by columns: the same account as before (0400, 0511), at a fraction of the work.
--
-- Rows come in as one array for each field instead of JSON, and are looked at by their number (gates[i], epochs[i] …): inside PL/pgSQL such an array is kept taken
-- apart, so that no statement copies or parses a batch again. What belongs to a ledger is asked once a run (rows that follow each other), not once a row.
-- The statements keep their plans (they join nothing large, and look tickets up one by one), where each batch made some twenty plans anew.

-- Unique by (gate, epoch, seq) are rows by the ranges in ledger_epochs, under the gate's lock; the key, which had to hold the time of arrival, guarded nothing.
ALTER TABLE ledger_rows DROP CONSTRAINT ledger_rows_pkey;
CREATE INDEX ledger_rows_by_place ON ledger_rows (gate, epoch, seq);
-- A ticket's grants are found by its admissions.
DROP INDEX ledger_rows_by_ticket;
CREATE INDEX ledger_rows_by_ticket ON ledger_rows (ticket_id, tenant_id) WHERE ticket_id IS NOT NULL AND kind <> 'grant';
-- One index for both questions: which admissions has a ticket, and is there one winner? (What is NULL is never the same as another.)
DROP INDEX admissions_by_ticket, admissions_one_winner;
CREATE UNIQUE INDEX admissions_one_winner ON admissions (ticket_id, event_id, tenant_id, (CASE WHEN verdict = 'winner' THEN true END));

-- Rows of one ledger that follow each other, in the order in which they are given. Rows that are there twice are in two runs.
CREATE FUNCTION runs_of(gates text[], epochs bigint[], seqs bigint[]) RETURNS TABLE (gate text, epoch bigint, low bigint, high bigint) LANGUAGE sql STABLE AS $$
  SELECT gates[b.first], epochs[b.first], seqs[b.first], seqs[b.last] FROM (
    SELECT i AS first, lead(i, 1, cardinality(seqs) + 1) OVER (ORDER BY i) - 1 AS last FROM generate_series(1, cardinality(seqs)) AS i
    WHERE i = 1 OR gates[i] <> gates[i - 1] OR epochs[i] <> epochs[i - 1] OR seqs[i] <> seqs[i - 1] + 1) AS b
$$;

-- Boots of the rows that are new; answers the boots whose place in time changed for rows that were stored before. Under the gates' locks.
DROP FUNCTION note_boots(text[], ledger_input[]);
CREATE FUNCTION note_boots(gate_list text[], gates text[], epochs bigint[], seqs bigint[], boot_ids text[], boottimes double precision[], offsets double precision[], bounds double precision[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  moved bigint[];
  more bigint[];
BEGIN
  WITH alike AS (
    SELECT r.gate, r.boot_id, r.epoch, r.offset_ms, r.bound_ms, min(r.seq) AS low, max(r.seq) AS high, min(r.boottime_ms) AS min_ms, max(r.boottime_ms) AS max_ms
    FROM (SELECT gates[i] AS gate, boot_ids[i] AS boot_id, epochs[i] AS epoch, seqs[i] AS seq, boottimes[i] AS boottime_ms, offsets[i] AS offset_ms, bounds[i] AS bound_ms FROM generate_series(1, cardinality(gates)) AS i) AS r
    WHERE r.boot_id IS NOT NULL AND r.boottime_ms IS NOT NULL GROUP BY r.gate, r.boot_id, r.epoch, r.offset_ms, r.bound_ms
  ), seen AS (
    SELECT f.gate, f.boot_id, min(ARRAY[f.epoch, f.low]) AS first, max(ARRAY[f.epoch, f.high]) AS last, min(f.min_ms) AS min_ms, max(f.max_ms) AS max_ms,
      (array_agg(ROW(f.offset_ms, f.bound_ms, f.epoch, f.low)::boot_offset ORDER BY f.bound_ms, f.epoch, f.low) FILTER (WHERE f.offset_ms IS NOT NULL AND f.bound_ms IS NOT NULL))[1] AS best
    FROM alike AS f GROUP BY f.gate, f.boot_id
  ), kept AS (
    INSERT INTO boots AS b (tenant_id, gate, boot_id, first_epoch, first_seq, last_epoch, last_seq, min_boottime_ms, max_boottime_ms, offset_ms, bound_ms, offset_epoch, offset_seq)
    SELECT tenant, s.gate, s.boot_id, s.first[1], s.first[2], s.last[1], s.last[2], s.min_ms, s.max_ms, (s.best).offset_ms, (s.best).bound_ms, (s.best).epoch, (s.best).seq FROM seen s ORDER BY s.gate, s.boot_id
    ON CONFLICT (tenant_id, gate, boot_id) DO UPDATE SET
      first_epoch = CASE WHEN (excluded.first_epoch, excluded.first_seq) < (b.first_epoch, b.first_seq) THEN excluded.first_epoch ELSE b.first_epoch END,
      first_seq = CASE WHEN (excluded.first_epoch, excluded.first_seq) < (b.first_epoch, b.first_seq) THEN excluded.first_seq ELSE b.first_seq END,
      last_epoch = CASE WHEN (excluded.last_epoch, excluded.last_seq) > (b.last_epoch, b.last_seq) THEN excluded.last_epoch ELSE b.last_epoch END,
      last_seq = CASE WHEN (excluded.last_epoch, excluded.last_seq) > (b.last_epoch, b.last_seq) THEN excluded.last_seq ELSE b.last_seq END,
      min_boottime_ms = least(b.min_boottime_ms, excluded.min_boottime_ms), max_boottime_ms = greatest(b.max_boottime_ms, excluded.max_boottime_ms),
      offset_ms = CASE WHEN excluded.bound_ms IS NOT NULL AND (b.bound_ms IS NULL OR (excluded.bound_ms, excluded.offset_epoch, excluded.offset_seq) < (b.bound_ms, b.offset_epoch, b.offset_seq)) THEN excluded.offset_ms ELSE b.offset_ms END,
      bound_ms = CASE WHEN excluded.bound_ms IS NOT NULL AND (b.bound_ms IS NULL OR (excluded.bound_ms, excluded.offset_epoch, excluded.offset_seq) < (b.bound_ms, b.offset_epoch, b.offset_seq)) THEN excluded.bound_ms ELSE b.bound_ms END,
      offset_epoch = CASE WHEN excluded.bound_ms IS NOT NULL AND (b.bound_ms IS NULL OR (excluded.bound_ms, excluded.offset_epoch, excluded.offset_seq) < (b.bound_ms, b.offset_epoch, b.offset_seq)) THEN excluded.offset_epoch ELSE b.offset_epoch END,
      offset_seq = CASE WHEN excluded.bound_ms IS NOT NULL AND (b.bound_ms IS NULL OR (excluded.bound_ms, excluded.offset_epoch, excluded.offset_seq) < (b.bound_ms, b.offset_epoch, b.offset_seq)) THEN excluded.offset_seq ELSE b.offset_seq END
    RETURNING b.gate, b.boot_id, b.boot_no, b.offset_epoch, b.offset_seq, (b.xmax::text <> '0') AS known
  )
  SELECT coalesce(array_agg(k.boot_no), '{}') INTO moved FROM kept k JOIN seen s ON s.gate = k.gate AND s.boot_id = k.boot_id
  WHERE k.known AND (k.offset_epoch, k.offset_seq) = ((s.best).epoch, (s.best).seq);

  -- A boot without any offset lies between its nearest neighbours in the chain that have one.
  IF NOT EXISTS (SELECT FROM boots b WHERE b.tenant_id = tenant AND b.gate = ANY (gate_list) AND b.offset_ms IS NULL) THEN RETURN moved; END IF;
  WITH placed AS (
    SELECT b.boot_no,
      (SELECT time_of_ms(n.offset_ms + n.max_boottime_ms - n.bound_ms) FROM boots n WHERE n.tenant_id = tenant AND n.gate = b.gate AND n.offset_ms IS NOT NULL AND (n.last_epoch, n.last_seq) < (b.first_epoch, b.first_seq) ORDER BY n.last_epoch DESC, n.last_seq DESC LIMIT 1) AS after_at,
      (SELECT time_of_ms(n.offset_ms + n.min_boottime_ms + n.bound_ms) FROM boots n WHERE n.tenant_id = tenant AND n.gate = b.gate AND n.offset_ms IS NOT NULL AND (n.first_epoch, n.first_seq) > (b.last_epoch, b.last_seq) ORDER BY n.first_epoch, n.first_seq LIMIT 1) AS before_at
    FROM boots b WHERE b.tenant_id = tenant AND b.offset_ms IS NULL AND b.gate = ANY (gate_list)
  ), changed AS (
    UPDATE boots b SET after_at = p.after_at, before_at = CASE WHEN p.before_at IS NULL THEN NULL ELSE greatest(p.before_at, p.after_at) END FROM placed p
    WHERE b.tenant_id = tenant AND b.boot_no = p.boot_no AND b.gate = ANY (gate_list) AND (b.after_at, b.before_at) IS DISTINCT FROM (p.after_at, CASE WHEN p.before_at IS NULL THEN NULL ELSE greatest(p.before_at, p.after_at) END)
    RETURNING b.boot_no
  )
  SELECT coalesce(array_agg(boot_no), '{}') INTO more FROM changed;
  RETURN moved || more;
END
$$;

-- Rows whose key is stored with another hash: quarantined, never acknowledged, and an alert. Answers them as [gate, epoch, seq].
DROP FUNCTION quarantine_clones(ledger_input[]);
CREATE FUNCTION quarantine_clones(gates text[], epochs bigint[], seqs bigint[], hashes bytea[], entries text[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  clones jsonb;
BEGIN
  WITH clone AS (
    SELECT DISTINCT ON (i.gate, i.epoch, i.seq, i.hash) i.* FROM unnest(gates, epochs, seqs, hashes, entries) AS i (gate, epoch, seq, hash, entry)
    CROSS JOIN LATERAL (SELECT r.hash FROM ledger_rows r WHERE r.tenant_id = current_tenant_id() AND r.gate = i.gate AND r.epoch = i.epoch AND r.seq = i.seq LIMIT 1) AS l
    WHERE l.hash <> i.hash ORDER BY i.gate, i.epoch, i.seq, i.hash
  ), kept AS (
    INSERT INTO quarantine AS q (tenant_id, topic, reason, detail, payload_sha256, payload_bytes, payload)
    SELECT current_tenant_id(), c.gate || '/ledger', 'clone', format('row [%s, %s] came again with another hash', c.epoch, c.seq), sha256(convert_to(c.epoch || '/' || c.seq || '/' || encode(c.hash, 'hex'), 'UTF8')), octet_length(c.entry),
      substring(convert_to(c.entry, 'UTF8') FOR 65536) FROM clone c
    ON CONFLICT (tenant_id, topic, reason, payload_sha256) DO UPDATE SET times = q.times + 1, last_at = now()
  ), alert AS (
    INSERT INTO device_alerts (tenant_id, device, alert_id, by_cloud, alert)
    SELECT DISTINCT current_tenant_id(), c.gate, 'clone', true, jsonb_build_object('schema', 1, 'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'severity', 'critical',
      'message', 'rows came under keys that are stored with other contents: two machines may be writing as this gate') FROM clone c JOIN devices d ON d.tenant_id = current_tenant_id() AND d.name = c.gate
    ON CONFLICT (tenant_id, device, alert_id) DO NOTHING
  )
  SELECT coalesce(jsonb_agg(jsonb_build_array(c.gate, c.epoch, c.seq)), '[]') INTO clones FROM clone c;
  RETURN clones;
END
$$;

-- What is to be copied, in the order of tickets. Said to be one row: whatever the tables' sizes and statistics, tickets are then looked up one by one,
-- where a plan made for a small event read the whole of it for each of these rows.
CREATE FUNCTION usage_to_copy(other_events text[], other_tickets text[], first_events text[], first_tickets text[], first_ats timestamptz[])
  RETURNS TABLE (event_id text, ticket_id text, entries integer, first_at timestamptz, last_at timestamptz, first boolean) LANGUAGE sql VOLATILE ROWS 1 AS $$
  SELECT f.event_id, f.ticket_id, (f.at IS NOT NULL)::integer AS entries, f.at AS first_at, f.at AS last_at, true AS first FROM unnest(first_events, first_tickets, first_ats) AS f (event_id, ticket_id, at)
  UNION ALL
  SELECT k.event_id, k.ticket_id, x.entries, x.first_at, x.last_at, false FROM (SELECT DISTINCT * FROM unnest(other_events, other_tickets)) AS k (event_id, ticket_id)
  CROSS JOIN LATERAL (SELECT * FROM ticket_usage y WHERE y.tenant_id = current_tenant_id() AND y.event_id = k.event_id AND y.ticket_id = k.ticket_id LIMIT 1) AS x
  ORDER BY 1, 2
$$;
-- The wide tickets, all in one order. first_*: tickets whose only entry is the one that was just written (first_ats; NULL: given back already); others: those whose usage
-- is to be read. Answers the first ones that nobody sold yet, and those that had lost their right before.
DROP FUNCTION copy_usage_to_tickets(text[], text[]);
CREATE FUNCTION copy_usage_to_tickets(other_events text[], other_tickets text[], first_events text[] DEFAULT '{}', first_tickets text[] DEFAULT '{}', first_ats timestamptz[] DEFAULT '{}',
    OUT unknown_events text[], OUT unknown_tickets text[], OUT lost_events text[], OUT lost_tickets text[]) LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
  actor text := context_of('current_user_id');
  why text := context_of('status_change_reason');
  written bigint;
BEGIN
  WITH done AS (
    UPDATE tickets t SET
      scan_count = u.entries, first_scanned_at = u.first_at, last_scanned_at = u.last_at,
      status = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN 'checked_in'
        WHEN u.entries = 0 AND t.status = 'checked_in' AND t.status_before_entry IS NOT NULL THEN t.status_before_entry ELSE t.status END,
      status_before_entry = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN t.status WHEN u.entries = 0 THEN NULL ELSE t.status_before_entry END,
      status_changed_at = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN now() ELSE t.status_changed_at END,
      status_changed_by = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN actor ELSE t.status_changed_by END,
      status_reason = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN why ELSE t.status_reason END
    FROM usage_to_copy(other_events, other_tickets, first_events, first_tickets, first_ats) AS u
    WHERE t.tenant_id = tenant AND t.event_id = u.event_id AND t.ticket_id = u.ticket_id
      AND ((t.scan_count, t.first_scanned_at, t.last_scanned_at) IS DISTINCT FROM (u.entries, u.first_at, u.last_at)
        OR (u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred')) OR (u.entries = 0 AND t.status_before_entry IS NOT NULL))
    RETURNING u.first, t.event_id, t.ticket_id, t.rights_lost_at
  )
  SELECT count(*), array_agg(d.event_id) FILTER (WHERE d.rights_lost_at IS NOT NULL), array_agg(d.ticket_id) FILTER (WHERE d.rights_lost_at IS NOT NULL) INTO written, lost_events, lost_tickets FROM done d WHERE d.first;
  IF written < cardinality(first_tickets) THEN
    SELECT array_agg(f.event_id), array_agg(f.ticket_id) INTO unknown_events, unknown_tickets FROM unnest(first_events, first_tickets) AS f (event_id, ticket_id)
    LEFT JOIN LATERAL (SELECT true AS there FROM tickets t WHERE t.tenant_id = tenant AND t.event_id = f.event_id AND t.ticket_id = f.ticket_id LIMIT 1) AS k ON true WHERE k.there IS NULL;
  END IF;
END
$$;

-- Tickets with a grant of these boots.
CREATE FUNCTION tickets_of_boots(gate_list text[], boot_nos bigint[]) RETURNS TABLE (event_id text, ticket_id text) LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF cardinality(boot_nos) = 0 THEN RETURN; END IF;
  RETURN QUERY SELECT DISTINCT a.event_id, a.ticket_id FROM boots b
    JOIN admissions a ON a.tenant_id = b.tenant_id AND a.gate = b.gate AND (a.epoch, a.seq) BETWEEN (b.first_epoch, b.first_seq) AND (b.last_epoch, b.last_seq) AND a.boot_no = b.boot_no
    WHERE b.tenant_id = current_tenant_id() AND b.gate = ANY (gate_list) AND b.boot_no = ANY (boot_nos);
END
$$;
-- Places the grants of these boots in time anew. Under their tickets' locks.
CREATE FUNCTION move_boots(gate_list text[], boot_nos bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE admissions a SET at_low = m.at_low, at = m.at, at_high = m.at_high, placed = m.placed FROM (
    SELECT x.tenant_id, x.gate, x.epoch, x.seq, earliest_of(b, x.boottime_ms) AS at_low, middle_of(b, x.boottime_ms, x.ts) AS at, latest_of(b, x.boottime_ms) AS at_high, b.offset_ms IS NOT NULL AS placed FROM boots b
    JOIN admissions x ON x.tenant_id = b.tenant_id AND x.gate = b.gate AND (x.epoch, x.seq) BETWEEN (b.first_epoch, b.first_seq) AND (b.last_epoch, b.last_seq) AND x.boot_no = b.boot_no
    WHERE b.tenant_id = current_tenant_id() AND b.gate = ANY (gate_list) AND b.boot_no = ANY (boot_nos)) AS m
  WHERE a.tenant_id = m.tenant_id AND a.gate = m.gate AND a.epoch = m.epoch AND a.seq = m.seq;
END
$$;
-- The same for what is shown of their other rows (ledger_rows.at), where nothing placed the boot before. A row's own boot and boot time stand in its text.
CREATE FUNCTION place_rows(gate_list text[], boot_nos bigint[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on SET enable_seqscan = on SET enable_bitmapscan = on AS $$
BEGIN
  UPDATE ledger_rows r SET at = m.at FROM (
    SELECT x.tenant_id, x.gate, x.epoch, x.seq, x.received_at, middle_of(b, substring(x.entry FROM '"boottime_ms":([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)')::double precision, x.at) AS at FROM boots b
    JOIN ledger_rows x ON x.tenant_id = b.tenant_id AND x.gate = b.gate AND (x.epoch, x.seq) BETWEEN (b.first_epoch, b.first_seq) AND (b.last_epoch, b.last_seq)
    WHERE b.tenant_id = current_tenant_id() AND b.gate = ANY (gate_list) AND b.boot_no = ANY (boot_nos) AND x.readable AND strpos(x.entry, '"boot_id":' || to_json(b.boot_id)::text) > 0) AS m
  WHERE r.tenant_id = m.tenant_id AND r.gate = m.gate AND r.epoch = m.epoch AND r.seq = m.seq AND r.received_at = m.received_at AND m.at IS NOT NULL AND r.at <> m.at;
END
$$;
CREATE FUNCTION note_unknown_tickets(events text[], ticket_ids text[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off SET jit = off AS $$
BEGIN
  UPDATE ticket_usage u SET known = false FROM unnest(events, ticket_ids) AS k (event_id, ticket_id) WHERE u.tenant_id = current_tenant_id() AND u.event_id = k.event_id AND u.ticket_id = k.ticket_id;
END
$$;
ALTER FUNCTION tickets_of_boots(text[], bigint[]) SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION tickets_of_boots(text[], bigint[]) SET enable_nestloop = on;
ALTER FUNCTION tickets_of_boots(text[], bigint[]) SET enable_seqscan = on;
ALTER FUNCTION tickets_of_boots(text[], bigint[]) SET enable_bitmapscan = on;
ALTER FUNCTION move_boots(text[], bigint[]) SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION move_boots(text[], bigint[]) SET enable_nestloop = on;
ALTER FUNCTION move_boots(text[], bigint[]) SET enable_seqscan = on;
ALTER FUNCTION move_boots(text[], bigint[]) SET enable_bitmapscan = on;

-- A refusal of a VIP's ticket, wherever it was given (0530): called where a batch has refusals at all, for a trigger kept a copy of every row of every batch.
-- The reason is read from the text: jsonb cannot hold every text that a row may.
DROP TRIGGER ledger_rows_vip_refusals ON ledger_rows;
DROP FUNCTION vip_refusals_follow_ledger();
CREATE FUNCTION vip_refusals_follow_ledger(gates text[], epochs bigint[], seqs bigint[], kinds text[], readables boolean[], entries text[], ats timestamptz[], event_ids text[], ticket_ids text[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on AS $$
BEGIN
  INSERT INTO vip_scan_logs (tenant_id, reservation_id, pass_id, event_id, ticket_id, scan_type, reason, scanned_at, previous_entry_at, gate, epoch, seq)
  SELECT t.tenant_id, coalesce(p.reservation_id, l.reservation_id), p.pass_id, t.event_id, t.ticket_id, 'refused', substring(r.entry FROM '"reason":"([a-z_]{1,32})"'), r.at, t.last_scanned_at, r.gate, r.epoch, r.seq
  FROM unnest(gates, epochs, seqs, kinds, readables, entries, ats, event_ids, ticket_ids) AS r (gate, epoch, seq, kind, readable, entry, at, event_id, ticket_id)
  CROSS JOIN LATERAL (SELECT * FROM tickets x WHERE x.tenant_id = current_tenant_id() AND x.event_id = r.event_id AND x.ticket_id = r.ticket_id LIMIT 1) AS t
  LEFT JOIN LATERAL (SELECT * FROM vip_guest_passes x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id LIMIT 1) AS p ON true
  LEFT JOIN LATERAL (SELECT * FROM vip_linked_tickets x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id LIMIT 1) AS l ON true
  WHERE r.kind = 'refusal' AND r.readable AND t.vip
  ORDER BY r.gate, r.epoch, r.seq
  ON CONFLICT DO NOTHING;
END
$$;

-- Appends what is new and judges what it touches. One array a field, all of one length. Answers {stored, duplicates, clones: [[gate, epoch, seq]],
-- edges: [{gate, epoch, seq, previous, hash, entry}]}: edges are new rows whose predecessor was stored before, and stored rows whose predecessor is new, for the check of the chain.
CREATE FUNCTION reconcile_columns(
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
  edges jsonb; clones jsonb := '[]';
BEGIN
  IF tenant IS NULL THEN RAISE EXCEPTION 'no tenant is set: rows belong to a tenant' USING ERRCODE = 'insufficient_privilege'; END IF;
  IF n = 0 THEN RETURN '{"stored": 0, "duplicates": 0, "clones": [], "edges": []}'; END IF;
  SELECT array_agg(r.gate), array_agg(r.epoch), array_agg(r.low), array_agg(r.high) INTO run_gates, run_epochs, run_lows, run_highs FROM runs_of(gates, epochs, seqs) AS r;

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
    SELECT array_agg(r.gate), array_agg(r.epoch), array_agg(r.low), array_agg(r.high) INTO run_gates, run_epochs, run_lows, run_highs FROM runs_of(gates, epochs, seqs) AS r;
  END IF;
  unplaced := ARRAY(SELECT b.boot_no FROM boots b WHERE b.tenant_id = tenant AND b.gate = ANY (gate_list) AND b.offset_ms IS NULL);
  moved := note_boots(gate_list, gates, epochs, seqs, boot_ids, boottimes, offsets, bounds);
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
      max(w.word) FILTER (WHERE w.unit = 1) AS word_1, strongest_words(w.unit, w.word) FILTER (WHERE w.unit > 1) AS words, max(w.word) FILTER (WHERE w.unit IS NULL) AS word_all
    FROM (
      SELECT CASE kinds[i] WHEN 'settlement' THEN of_gates[i] ELSE gates[i] END AS gate, of_epochs[i] AS epoch, of_seqs[i] AS seq, event_ids[i] AS event_id, ticket_ids[i] AS ticket_id, of_units[i] AS unit,
        CASE kinds[i] WHEN 'passage' THEN word_of_passage(outcomes[i]) ELSE word_of_settlement(epochs[i], seqs[i], outcomes[i]) END AS word
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
        min(g.at) FILTER (WHERE outcome_of_word(greatest(g.word_1, g.word_all)) <> 'returned') AS at
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
    IF cardinality(moved) > 0 THEN PERFORM move_boots(gate_list, moved); END IF;

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
        FROM (SELECT x.*, (x.event_id, x.ticket_id) NOT IN (SELECT s.e, s.t FROM unnest(slow_events, slow_tickets) AS s (e, t)) AS fast, outcome_of_word(greatest(x.word_1, x.word_all)) AS outcome FROM unnest(grants_in) AS x OFFSET 0) AS g
        ORDER BY g.gate, g.epoch, g.seq
        ON CONFLICT (gate, epoch, seq, tenant_id) DO UPDATE SET
          event_id = CASE WHEN excluded.granted THEN excluded.event_id ELSE a.event_id END, ticket_id = CASE WHEN excluded.granted THEN excluded.ticket_id ELSE a.ticket_id END,
          granted = a.granted OR excluded.granted, ticket_ref = coalesce(excluded.ticket_ref, a.ticket_ref), direction = coalesce(excluded.direction, a.direction), units = coalesce(excluded.units, a.units),
          manifest_version = coalesce(excluded.manifest_version, a.manifest_version), boot_no = coalesce(excluded.boot_no, a.boot_no), boottime_ms = coalesce(excluded.boottime_ms, a.boottime_ms), ts = coalesce(excluded.ts, a.ts),
          at_low = coalesce(excluded.at_low, a.at_low), at = coalesce(excluded.at, a.at), at_high = coalesce(excluded.at_high, a.at_high), placed = coalesce(excluded.placed, a.placed),
          word_1 = greatest(a.word_1, excluded.word_1), words = merge_words(a.words, excluded.words), word_all = greatest(a.word_all, excluded.word_all)
        RETURNING a.gate, a.event_id, a.ticket_id, a.verdict, a.units_uncertain
      )
      SELECT array_agg(ROW(c.gate, c.event_id, c.grants, c.grants - c.annulled, 0, 0, 0, c.annulled, c.grants - c.annulled, 0, c.uncertain, 0, 0, 0, 0)::count_delta) INTO more_deltas FROM (
        SELECT a.gate, a.event_id, count(*) AS grants, count(*) FILTER (WHERE a.verdict = 'annulled') AS annulled, sum(a.units_uncertain) AS uncertain
        FROM added a WHERE a.verdict IS NOT NULL AND (a.event_id, a.ticket_id) NOT IN (SELECT s.e, s.t FROM unnest(slow_events, slow_tickets) AS s (e, t)) GROUP BY a.gate, a.event_id) AS c;
    END IF;
    deltas := more_deltas;

    IF cardinality(slow_events) > 0 THEN deltas := deltas || rank_tickets(slow_events, slow_tickets); END IF;
    IF cardinality(fast_events) + cardinality(slow_events) > 0 THEN
      SELECT * INTO copied FROM copy_usage_to_tickets(slow_events, slow_tickets, fast_events, fast_tickets, fast_ats);
      IF copied.unknown_tickets IS NOT NULL THEN PERFORM note_unknown_tickets(copied.unknown_events, copied.unknown_tickets); END IF;
      -- A first entry of a ticket that had lost its right: an entry, and a conflict.
      IF copied.lost_tickets IS NOT NULL THEN deltas := deltas || rank_tickets(copied.lost_events, copied.lost_tickets); END IF;
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

-- What is called from there has its own mind back.
ALTER FUNCTION rank_tickets(text[], text[]) SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION rank_tickets(text[], text[]) SET enable_nestloop = on;
ALTER FUNCTION rank_tickets(text[], text[]) SET enable_seqscan = on;
ALTER FUNCTION rank_tickets(text[], text[]) SET enable_bitmapscan = on;
ALTER FUNCTION lock_ticket_usage(text[], text[]) SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION lock_ticket_usage(text[], text[]) SET enable_nestloop = on;

-- The same, for rows as records, and from JSON: an array of objects with the fields of ledger_input.
CREATE OR REPLACE FUNCTION reconcile_rows(input ledger_input[]) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT reconcile_columns(array_agg(i.gate), array_agg(i.epoch), array_agg(i.seq), array_agg(decode(i.hash, 'hex')), array_agg(i.kind), array_agg(i.readable), array_agg(i.entry), array_agg(i.ts), array_agg(i.boot_id), array_agg(i.boottime_ms),
    array_agg(i.offset_ms), array_agg(i.bound_ms), array_agg(i.event_id), array_agg(i.ticket_id), array_agg(decode(i.ticket_ref, 'hex')), array_agg(i.direction), array_agg(i.units), array_agg(i.manifest_version),
    array_agg(i.of_gate), array_agg(i.of_epoch), array_agg(i.of_seq), array_agg(i.unit), array_agg(i.outcome)) FROM unnest(input) AS i);
END
$$;
ALTER FUNCTION reconcile_rows(ledger_input[]) RESET ALL;

-- Whose rows are seen and written is asked once a statement, not once a row: the tables that every row of a ledger touches.
DO $$
DECLARE
  tab text;
BEGIN
  FOREACH tab IN ARRAY ARRAY['ledgers', 'ledger_epochs', 'ledger_rows', 'boots', 'ticket_usage', 'admissions', 'conflicts', 'gate_counts', 'tickets', 'ticket_state_history'] LOOP
    EXECUTE format('ALTER POLICY tenant_isolation ON %I USING (tenant_id = (SELECT current_tenant_id())) WITH CHECK (tenant_id = (SELECT current_tenant_id()))', tab);
  END LOOP;
END
$$;
-- Room for a first entry beside its ticket: without it, one in eight changed four indexes.
ALTER TABLE tickets SET (fillfactor = 70);
