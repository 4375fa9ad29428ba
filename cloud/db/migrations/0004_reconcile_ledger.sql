-- The door: rows of any gates of one tenant, appended and judged in one transaction.

CREATE TYPE boot_offset AS (offset_ms double precision, bound_ms double precision, epoch bigint, seq bigint);

CREATE TYPE ledger_grant AS (
  gate text, epoch bigint, seq bigint, event_id text, ticket_id text, granted boolean, ticket_ref bytea, direction text, units integer, manifest_version bigint,
  boot_no bigint, boottime_ms double precision, ts timestamptz, at_low timestamptz, at timestamptz, at_high timestamptz, placed boolean, word_1 bigint, words bigint[], word_all bigint
);

-- Boots of the rows that are new; answers the boots whose place in time changed for rows that were stored before. Under the gates' locks.
CREATE FUNCTION note_boots(gates text[], fresh ledger_input[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  moved bigint[];
  more bigint[];
BEGIN
  WITH seen AS (
    SELECT f.gate, f.boot_id, min(ARRAY[f.epoch, f.seq]) AS first, max(ARRAY[f.epoch, f.seq]) AS last, min(f.boottime_ms) AS min_ms, max(f.boottime_ms) AS max_ms,
      (array_agg(ROW(f.offset_ms, f.bound_ms, f.epoch, f.seq)::boot_offset ORDER BY f.bound_ms, f.epoch, f.seq) FILTER (WHERE f.offset_ms IS NOT NULL AND f.bound_ms IS NOT NULL))[1] AS best
    FROM unnest(fresh) AS f WHERE f.boot_id IS NOT NULL AND f.boottime_ms IS NOT NULL GROUP BY f.gate, f.boot_id
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
  IF NOT EXISTS (SELECT FROM boots b WHERE b.tenant_id = tenant AND b.gate = ANY (gates) AND b.offset_ms IS NULL) THEN RETURN moved; END IF;
  WITH placed AS (
    SELECT b.boot_no,
      (SELECT time_of_ms(n.offset_ms + n.max_boottime_ms - n.bound_ms) FROM boots n WHERE n.tenant_id = tenant AND n.gate = b.gate AND n.offset_ms IS NOT NULL AND (n.last_epoch, n.last_seq) < (b.first_epoch, b.first_seq) ORDER BY n.last_epoch DESC, n.last_seq DESC LIMIT 1) AS after_at,
      (SELECT time_of_ms(n.offset_ms + n.min_boottime_ms + n.bound_ms) FROM boots n WHERE n.tenant_id = tenant AND n.gate = b.gate AND n.offset_ms IS NOT NULL AND (n.first_epoch, n.first_seq) > (b.last_epoch, b.last_seq) ORDER BY n.first_epoch, n.first_seq LIMIT 1) AS before_at
    FROM boots b WHERE b.tenant_id = tenant AND b.offset_ms IS NULL AND b.gate = ANY (gates)
  ), changed AS (
    UPDATE boots b SET after_at = p.after_at, before_at = greatest(p.before_at, p.after_at) FROM placed p
    WHERE b.tenant_id = tenant AND b.boot_no = p.boot_no AND b.gate = ANY (gates) AND (b.after_at, b.before_at) IS DISTINCT FROM (p.after_at, greatest(p.before_at, p.after_at))
    RETURNING b.boot_no
  )
  SELECT coalesce(array_agg(boot_no), '{}') INTO more FROM changed;
  RETURN moved || more;
END
$$;

-- Where a row lies in time: by its boot's offset; else between the boot's neighbours; else by its wall clock where that was ever set, kept within the neighbour that is known.
-- Three functions of one expression each, so that they are inlined.
CREATE FUNCTION earliest_of(b boots, boottime_ms double precision) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + boottime_ms - b.bound_ms) ELSE coalesce(b.after_at, '-infinity') END $$;
CREATE FUNCTION latest_of(b boots, boottime_ms double precision) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + boottime_ms + b.bound_ms) ELSE coalesce(b.before_at, 'infinity') END $$;
CREATE FUNCTION middle_of(b boots, boottime_ms double precision, ts timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT CASE WHEN b.offset_ms IS NOT NULL THEN time_of_ms(b.offset_ms + boottime_ms)
    WHEN b.after_at IS NOT NULL AND b.before_at IS NOT NULL THEN b.after_at + (b.before_at - b.after_at) / 2
    ELSE greatest(least(CASE WHEN ts >= '2000-01-01Z' OR b.before_at IS NULL THEN ts END, b.before_at), b.after_at) END $$;

-- Rows whose key is stored with another hash: quarantined, never acknowledged, and an alert. Answers them as [gate, epoch, seq].
CREATE FUNCTION quarantine_clones(input ledger_input[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  clones jsonb;
BEGIN
  WITH clone AS (
    SELECT DISTINCT ON (i.gate, i.epoch, i.seq, i.hash) i.* FROM unnest(input) AS i
    CROSS JOIN LATERAL (SELECT r.hash FROM ledger_rows r WHERE r.tenant_id = current_tenant_id() AND r.gate = i.gate AND r.epoch = i.epoch AND r.seq = i.seq LIMIT 1) AS l
    WHERE l.hash <> decode(i.hash, 'hex') ORDER BY i.gate, i.epoch, i.seq, i.hash
  ), kept AS (
    INSERT INTO quarantine AS q (tenant_id, topic, reason, detail, payload_sha256, payload_bytes, payload)
    SELECT current_tenant_id(), c.gate || '/ledger', 'clone', format('row [%s, %s] came again with another hash', c.epoch, c.seq), sha256(convert_to(c.epoch || '/' || c.seq || '/' || c.hash, 'UTF8')), octet_length(c.entry),
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

-- Appends what is new and judges what it touches. Answers {stored, duplicates, clones: [[gate, epoch, seq]], edges: [{gate, epoch, seq, previous}]}:
-- edges are new rows whose predecessor was stored before, or whose successor was (then the successor), with the predecessor's hash, for the check of the chain.
CREATE FUNCTION reconcile_rows(input ledger_input[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  gates text[];
  fresh ledger_input[];
  moved bigint[];
  slow_events text[] := '{}'; slow_tickets text[] := '{}';
  fast_events text[]; fast_tickets text[];
  more_events text[]; more_tickets text[];
  grants_in ledger_grant[];
  deltas count_delta[] := '{}';
  more_deltas count_delta[];
  edges jsonb; clones jsonb := '[]';
BEGIN
  IF tenant IS NULL THEN RAISE EXCEPTION 'no tenant is set: rows belong to a tenant' USING ERRCODE = 'insufficient_privilege'; END IF;

  -- The gates.
  SELECT array_agg(g ORDER BY g) INTO gates FROM (SELECT DISTINCT i.gate AS g FROM unnest(input) AS i) AS each_gate;
  IF gates IS NULL THEN RETURN '{"stored": 0, "duplicates": 0, "clones": [], "edges": []}'; END IF;
  INSERT INTO ledgers (tenant_id, gate, site_id) SELECT tenant, g, split_part(g, '/', 1) FROM unnest(gates) AS g ORDER BY g ON CONFLICT DO NOTHING;
  PERFORM 1 FROM ledgers WHERE tenant_id = tenant AND gate = ANY (gates) ORDER BY gate FOR UPDATE;
  INSERT INTO ledger_epochs (tenant_id, gate, epoch) SELECT DISTINCT tenant, i.gate, i.epoch FROM unnest(input) AS i ON CONFLICT DO NOTHING;

  -- What is new.
  SELECT array_agg(n.row_in ORDER BY (n.row_in).gate, (n.row_in).epoch, (n.row_in).seq) INTO fresh FROM (
    SELECT DISTINCT ON (i.gate, i.epoch, i.seq) i AS row_in FROM unnest(input) AS i
    JOIN ledger_epochs e ON e.tenant_id = tenant AND e.gate = i.gate AND e.epoch = i.epoch
    WHERE NOT e.stored @> i.seq ORDER BY i.gate, i.epoch, i.seq, i.hash) AS n;
  IF fresh IS NULL THEN
    clones := quarantine_clones(input);
    RETURN jsonb_build_object('stored', 0, 'duplicates', cardinality(input) - jsonb_array_length(clones), 'clones', clones, 'edges', '[]'::jsonb);
  END IF;
  moved := note_boots(gates, fresh);
  INSERT INTO ledger_rows (tenant_id, gate, epoch, seq, kind, readable, hash, entry, at, event_id, ticket_id)
  SELECT tenant, f.gate, f.epoch, f.seq, f.kind, f.readable, decode(f.hash, 'hex'), f.entry, coalesce(time_of_ms(f.offset_ms + f.boottime_ms), f.ts, now()), f.event_id, f.ticket_id FROM unnest(fresh) AS f;
  IF cardinality(fresh) < cardinality(input) THEN clones := quarantine_clones(input); END IF;
  -- Rows of this batch that stand beside one that was stored before.
  SELECT coalesce(jsonb_agg(jsonb_build_object('gate', x.gate, 'epoch', x.epoch, 'seq', x.seq, 'previous', encode(p.hash, 'hex'), 'hash', encode(l.hash, 'hex'), 'entry', l.entry)), '[]') INTO edges
  FROM (
    SELECT f.gate, f.epoch, f.seq + s.step AS seq FROM unnest(fresh) AS f CROSS JOIN (VALUES (0), (1)) AS s (step)
    JOIN ledger_epochs e ON e.tenant_id = tenant AND e.gate = f.gate AND e.epoch = f.epoch
    WHERE e.stored @> (f.seq - 1 + 2 * s.step) OFFSET 0
  ) AS x
  CROSS JOIN LATERAL (SELECT r.hash FROM ledger_rows r WHERE r.tenant_id = tenant AND r.gate = x.gate AND r.epoch = x.epoch AND r.seq = x.seq - 1 LIMIT 1) AS p
  CROSS JOIN LATERAL (SELECT r.hash, r.entry FROM ledger_rows r WHERE r.tenant_id = tenant AND r.gate = x.gate AND r.epoch = x.epoch AND r.seq = x.seq LIMIT 1) AS l;
  UPDATE ledger_epochs e SET stored = n.stored, upto_seq = CASE WHEN n.stored @> 1::bigint THEN (SELECT upper(r) - 1 FROM unnest(n.stored) AS r ORDER BY r LIMIT 1) ELSE 0 END, last_row_at = now()
  FROM (
    SELECT f.gate, f.epoch, (SELECT s.stored FROM ledger_epochs s WHERE s.tenant_id = tenant AND s.gate = f.gate AND s.epoch = f.epoch) + range_agg(int8range(f.seq, f.seq, '[]')) AS stored
    FROM unnest(fresh) AS f GROUP BY f.gate, f.epoch) AS n
  WHERE e.tenant_id = tenant AND e.gate = n.gate AND e.epoch = n.epoch;

  -- Grants, and words on grants, each folded to one row a grant. g: the grant itself, where it is in this batch.
  SELECT array_agg(ROW(k.gate, k.epoch, k.seq, coalesce((k.g).event_id, k.event_id), coalesce((k.g).ticket_id, k.ticket_id), k.granted, decode((k.g).ticket_ref, 'hex'), (k.g).direction, (k.g).units, (k.g).manifest_version, b.boot_no, (k.g).boottime_ms, (k.g).ts,
      CASE WHEN k.granted THEN earliest_of(b, (k.g).boottime_ms) END, CASE WHEN k.granted THEN middle_of(b, (k.g).boottime_ms, (k.g).ts) END, CASE WHEN k.granted THEN latest_of(b, (k.g).boottime_ms) END,
      CASE WHEN k.granted THEN b.offset_ms IS NOT NULL END, k.word_1, nullif(k.words, '{}'), k.word_all)::ledger_grant ORDER BY k.gate, k.epoch, k.seq) INTO grants_in
  FROM (
    SELECT w.gate, w.epoch, w.seq, min(w.event_id) AS event_id, min(w.ticket_id) AS ticket_id, bool_or(w.granted) AS granted, (array_agg(w.row_in) FILTER (WHERE w.granted))[1] AS g,
      max(w.word) FILTER (WHERE w.unit = 1) AS word_1, strongest_words(w.unit, w.word) FILTER (WHERE w.unit > 1) AS words, max(w.word) FILTER (WHERE w.unit IS NULL) AS word_all
    FROM (
      SELECT x.row_in, (x.row_in).event_id, (x.row_in).ticket_id, (x.row_in).kind = 'grant' AS granted,
        CASE (x.row_in).kind WHEN 'settlement' THEN (x.row_in).of_gate ELSE (x.row_in).gate END AS gate, CASE (x.row_in).kind WHEN 'grant' THEN (x.row_in).epoch ELSE (x.row_in).of_epoch END AS epoch,
        CASE (x.row_in).kind WHEN 'grant' THEN (x.row_in).seq ELSE (x.row_in).of_seq END AS seq, CASE (x.row_in).kind WHEN 'grant' THEN 0 ELSE (x.row_in).unit END AS unit,
        CASE (x.row_in).kind WHEN 'passage' THEN word_of_passage((x.row_in).outcome) WHEN 'settlement' THEN word_of_settlement((x.row_in).epoch, (x.row_in).seq, (x.row_in).outcome) END AS word
      FROM (SELECT f AS row_in FROM unnest(fresh) AS f WHERE f.readable AND f.event_id IS NOT NULL AND f.ticket_id IS NOT NULL AND (
        f.kind = 'grant' OR (f.kind = 'passage' AND f.of_seq IS NOT NULL AND f.outcome IN ('passed', 'returned', 'stuck', 'unknown'))
        OR (f.kind = 'settlement' AND f.of_gate IS NOT NULL AND f.gate = split_part(f.of_gate, '/', 1) || '/cloud')) OFFSET 0) AS x
    ) AS w GROUP BY w.gate, w.epoch, w.seq
  ) AS k
  LEFT JOIN boots b ON b.tenant_id = tenant AND b.gate = (k.g).gate AND b.boot_id = (k.g).boot_id;

  -- Tickets whose earlier grants are touched: by a word, or by a boot that moved.
  SELECT coalesce(array_agg(s.event_id), '{}'), coalesce(array_agg(s.ticket_id), '{}') INTO slow_events, slow_tickets FROM (
    SELECT a.event_id, a.ticket_id FROM unnest(grants_in) AS g JOIN admissions a ON a.tenant_id = tenant AND a.gate = g.gate AND a.epoch = g.epoch AND a.seq = g.seq
    UNION SELECT g.event_id, g.ticket_id FROM unnest(grants_in) AS g WHERE NOT g.granted
    UNION SELECT a.event_id, a.ticket_id FROM boots b JOIN admissions a ON a.tenant_id = tenant AND a.gate = b.gate AND (a.epoch, a.seq) BETWEEN (b.first_epoch, b.first_seq) AND (b.last_epoch, b.last_seq) AND a.boot_no = b.boot_no
      WHERE cardinality(moved) > 0 AND b.tenant_id = tenant AND b.gate = ANY (gates) AND b.boot_no = ANY (moved)) AS s;

  -- Lock the tickets: rows that are made now are ours, sorted; then the others, sorted. A ticket that was never granted before, with one entry of one
  -- guest, needs no replay: it is made with its result (fast); all others are replayed (slow).
  WITH mine AS (
    SELECT g.event_id, g.ticket_id, count(*) FILTER (WHERE g.granted) = 1 AND count(*) = 1 AND bool_and(g.direction = 'in' AND g.units = 1)
        AND NOT EXISTS (SELECT FROM unnest(slow_events, slow_tickets) AS s (e, t) WHERE s.e = g.event_id AND s.t = g.ticket_id) AS simple,
      min(g.at) AS at, bool_and(outcome_of_word(greatest(g.word_1, g.word_all)) = 'returned') AS annulled
    FROM unnest(grants_in) AS g GROUP BY g.event_id, g.ticket_id
  ), made AS (
    INSERT INTO ticket_usage (tenant_id, event_id, ticket_id, entries, first_at, last_at, known)
    SELECT tenant, m.event_id, m.ticket_id, (m.simple AND NOT m.annulled)::integer, CASE WHEN m.simple AND NOT m.annulled THEN m.at END, CASE WHEN m.simple AND NOT m.annulled THEN m.at END,
      EXISTS (SELECT FROM tickets t WHERE t.tenant_id = tenant AND t.event_id = m.event_id AND t.ticket_id = m.ticket_id)
    FROM mine m ORDER BY m.event_id, m.ticket_id ON CONFLICT DO NOTHING RETURNING event_id, ticket_id
  )
  SELECT coalesce(array_agg(m.event_id) FILTER (WHERE m.simple AND d.ticket_id IS NOT NULL), '{}'), coalesce(array_agg(m.ticket_id) FILTER (WHERE m.simple AND d.ticket_id IS NOT NULL), '{}'),
    slow_events || coalesce(array_agg(m.event_id) FILTER (WHERE NOT m.simple OR d.ticket_id IS NULL), '{}'), slow_tickets || coalesce(array_agg(m.ticket_id) FILTER (WHERE NOT m.simple OR d.ticket_id IS NULL), '{}')
  INTO fast_events, fast_tickets, slow_events, slow_tickets
  FROM mine m LEFT JOIN made d ON d.event_id = m.event_id AND d.ticket_id = m.ticket_id;
  IF cardinality(slow_events) > 0 THEN
    PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = tenant AND (u.event_id, u.ticket_id) IN (SELECT * FROM unnest(slow_events, slow_tickets)) ORDER BY u.event_id, u.ticket_id FOR UPDATE;
    IF cardinality(moved) > 0 THEN
      UPDATE admissions a SET at_low = n.at_low, at = n.at, at_high = n.at_high, placed = n.placed FROM (
        SELECT x.gate, x.epoch, x.seq, earliest_of(b, x.boottime_ms) AS at_low, middle_of(b, x.boottime_ms, x.ts) AS at, latest_of(b, x.boottime_ms) AS at_high, b.offset_ms IS NOT NULL AS placed FROM boots b
        JOIN admissions x ON x.tenant_id = tenant AND x.gate = b.gate AND (x.epoch, x.seq) BETWEEN (b.first_epoch, b.first_seq) AND (b.last_epoch, b.last_seq) AND x.boot_no = b.boot_no
        WHERE b.tenant_id = tenant AND b.gate = ANY (gates) AND b.boot_no = ANY (moved)) AS n
      WHERE a.tenant_id = tenant AND a.gate = n.gate AND a.epoch = n.epoch AND a.seq = n.seq;
    END IF;
  END IF;

  INSERT INTO admissions AS a (tenant_id, gate, epoch, seq, event_id, ticket_id, granted, ticket_ref, direction, units, manifest_version, boot_no, boottime_ms, ts, at_low, at, at_high, placed,
    word_1, words, word_all, units_used, units_uncertain, outcome, verdict)
  SELECT tenant, g.gate, g.epoch, g.seq, g.event_id, g.ticket_id, g.granted, g.ticket_ref, g.direction, g.units, g.manifest_version, g.boot_no, g.boottime_ms, g.ts, g.at_low, g.at, g.at_high, g.placed,
    g.word_1, g.words, g.word_all, CASE WHEN f.t IS NULL OR o.outcome = 'returned' THEN 0 ELSE 1 END, CASE WHEN f.t IS NOT NULL AND o.outcome IN ('open', 'unknown', 'stuck') THEN 1 ELSE 0 END,
    CASE WHEN f.t IS NOT NULL THEN o.outcome END, CASE WHEN f.t IS NOT NULL THEN CASE o.outcome WHEN 'returned' THEN 'annulled' ELSE 'winner' END END
  FROM unnest(grants_in) AS g LEFT JOIN unnest(fast_events, fast_tickets) AS f (e, t) ON f.e = g.event_id AND f.t = g.ticket_id
  CROSS JOIN LATERAL (SELECT outcome_of_word(greatest(g.word_1, g.word_all)) AS outcome) AS o
  ORDER BY g.gate, g.epoch, g.seq
  ON CONFLICT (tenant_id, gate, epoch, seq) DO UPDATE SET
    event_id = CASE WHEN excluded.granted THEN excluded.event_id ELSE a.event_id END, ticket_id = CASE WHEN excluded.granted THEN excluded.ticket_id ELSE a.ticket_id END,
    granted = a.granted OR excluded.granted, ticket_ref = coalesce(excluded.ticket_ref, a.ticket_ref), direction = coalesce(excluded.direction, a.direction), units = coalesce(excluded.units, a.units),
    manifest_version = coalesce(excluded.manifest_version, a.manifest_version), boot_no = coalesce(excluded.boot_no, a.boot_no), boottime_ms = coalesce(excluded.boottime_ms, a.boottime_ms), ts = coalesce(excluded.ts, a.ts),
    at_low = coalesce(excluded.at_low, a.at_low), at = coalesce(excluded.at, a.at), at_high = coalesce(excluded.at_high, a.at_high), placed = coalesce(excluded.placed, a.placed),
    word_1 = greatest(a.word_1, excluded.word_1), words = merge_words(a.words, excluded.words), word_all = greatest(a.word_all, excluded.word_all);

  IF cardinality(slow_events) > 0 THEN deltas := rank_tickets(slow_events, slow_tickets); END IF;
  IF cardinality(fast_events) + cardinality(slow_events) > 0 THEN PERFORM copy_usage_to_tickets(fast_events || slow_events, fast_tickets || slow_tickets); END IF;

  -- The sums, last.
  SELECT array_agg(ROW(n.gate, n.event_id, n.grants, n.grants - n.annulled, 0, 0, 0, n.annulled, n.grants - n.annulled, 0, n.uncertain, 0, 0, 0, 0)::count_delta) INTO more_deltas FROM (
    SELECT g.gate, g.event_id, count(*) AS grants, count(*) FILTER (WHERE o.outcome = 'returned') AS annulled, count(*) FILTER (WHERE o.outcome IN ('open', 'unknown', 'stuck')) AS uncertain
    FROM unnest(grants_in) AS g JOIN unnest(fast_events, fast_tickets) AS f (e, t) ON f.e = g.event_id AND f.t = g.ticket_id CROSS JOIN LATERAL (SELECT outcome_of_word(greatest(g.word_1, g.word_all)) AS outcome OFFSET 0) AS o
    GROUP BY g.gate, g.event_id) AS n;
  deltas := deltas || more_deltas;
  SELECT array_agg(ROW(n.gate, n.event_id, 0, 0, 0, 0, 0, 0, 0, 0, 0, n.free, n.forced, n.overrides, n.refusals)::count_delta) INTO more_deltas FROM (
    SELECT f.gate, coalesce(f.event_id, '') AS event_id, count(*) FILTER (WHERE f.kind = 'refusal') AS refusals, count(*) FILTER (WHERE f.kind = 'passage' AND f.outcome = 'free') AS free,
      count(*) FILTER (WHERE f.kind = 'passage' AND f.outcome = 'forced') AS forced, count(*) FILTER (WHERE f.kind = 'passage' AND f.of_seq IS NOT NULL AND f.outcome <> 'returned') AS overrides
    FROM unnest(fresh) AS f WHERE f.readable AND (f.kind = 'refusal' OR (f.kind = 'passage' AND f.ticket_id IS NULL)) GROUP BY 1, 2) AS n;
  PERFORM add_counts(deltas || more_deltas);

  RETURN jsonb_build_object('stored', cardinality(fresh), 'duplicates', cardinality(input) - cardinality(fresh) - jsonb_array_length(clones), 'clones', clones, 'edges', edges);
END
$$;

-- Arrays are of very different lengths from call to call: a plan made for ten rows takes minutes for a thousand.
ALTER FUNCTION reconcile_rows(ledger_input[]) SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION judge_tickets(text[], text[]) SET plan_cache_mode = force_custom_plan;

-- The same, from JSON: an array of objects with the fields of ledger_input.
CREATE FUNCTION reconcile_ledger(rows jsonb) RETURNS jsonb LANGUAGE sql AS $$
  SELECT reconcile_rows((SELECT array_agg(i) FROM jsonb_populate_recordset(NULL::ledger_input, rows) AS i))
$$;

-- Rows that don't carry the hash of the one before them. Answers those that were not flagged before; one alert a gate.
CREATE FUNCTION flag_chain_breaks(gates text[], epochs bigint[], seqs bigint[]) RETURNS TABLE (gate text, epoch bigint, seq bigint) LANGUAGE sql AS $$
  WITH flagged AS (
    INSERT INTO ledger_breaks AS b (tenant_id, gate, epoch, seq)
    SELECT DISTINCT current_tenant_id(), k.gate, k.epoch, k.seq FROM unnest(gates, epochs, seqs) AS k (gate, epoch, seq)
    JOIN ledger_epochs e ON e.tenant_id = current_tenant_id() AND e.gate = k.gate AND e.epoch = k.epoch AND e.stored @> k.seq
    ON CONFLICT DO NOTHING RETURNING b.gate, b.epoch, b.seq
  ), alert AS (
    INSERT INTO device_alerts (tenant_id, device, alert_id, by_cloud, alert)
    SELECT DISTINCT current_tenant_id(), f.gate, 'ledger', true, jsonb_build_object('schema', 1, 'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'severity', 'critical',
      'message', 'a row does not carry the hash of the one before it') FROM flagged f JOIN devices d ON d.tenant_id = current_tenant_id() AND d.name = f.gate
    ON CONFLICT (tenant_id, device, alert_id) DO NOTHING
  )
  SELECT f.gate, f.epoch, f.seq FROM flagged f
$$;

-- What is stored of these gates' ledgers, newest epochs first: upto_seq, and the gaps above it, the lowest first.
CREATE FUNCTION ledger_acks(gates text[], max_epochs integer, max_ranges integer) RETURNS TABLE (gate text, epoch bigint, upto_seq bigint, missing jsonb) LANGUAGE sql STABLE AS $$
  SELECT e.gate, e.epoch, e.upto_seq,
    coalesce((SELECT jsonb_agg(jsonb_build_array(lower(m.gap), upper(m.gap) - 1) ORDER BY m.gap) FROM (
      SELECT gap FROM unnest(int8multirange(int8range(1, upper(e.stored))) - e.stored) AS gap ORDER BY gap LIMIT max_ranges) AS m WHERE NOT isempty(e.stored)), '[]')
  FROM unnest(gates) AS g CROSS JOIN LATERAL (
    SELECT x.* FROM ledger_epochs x WHERE x.tenant_id = current_tenant_id() AND x.gate = g AND NOT isempty(x.stored) ORDER BY x.epoch DESC LIMIT max_epochs) AS e
  ORDER BY e.gate, e.epoch
$$;

CREATE FUNCTION unpublished_cloud_rows(at_most integer) RETURNS TABLE (gate text, epoch bigint, entries jsonb) LANGUAGE sql STABLE AS $$
  SELECT e.gate, e.epoch, r.entries FROM ledgers l JOIN ledger_epochs e ON e.tenant_id = l.tenant_id AND e.gate = l.gate
  CROSS JOIN LATERAL (SELECT jsonb_agg(jsonb_build_object('entry', x.entry, 'hash', encode(x.hash, 'hex')) ORDER BY x.seq) AS entries FROM (
    SELECT y.* FROM ledger_rows y WHERE y.tenant_id = e.tenant_id AND y.gate = e.gate AND y.epoch = e.epoch AND y.seq > e.published_seq AND y.seq <= e.upto_seq ORDER BY y.seq LIMIT at_most) AS x) AS r
  WHERE l.tenant_id = current_tenant_id() AND l.gate = l.site_id || '/cloud' AND e.published_seq < e.upto_seq AND r.entries IS NOT NULL
  ORDER BY e.gate, e.epoch
$$;
