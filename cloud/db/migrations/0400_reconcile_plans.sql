-- The same account by plans that do not depend on statistics.
--
-- An event that was imported a minute ago has none, and a planner without them takes any index that begins with the same columns for as good as the
-- primary key: a batch of 1,000 then read a whole event a thousand times (6 s with 20,000 tickets). So no two full indexes of these tables begin alike,
-- rows are looked up one by one (LATERAL with LIMIT), and where an UPDATE joins, nested loops are the only way that is left.

-- No foreign key asked a thousand times for the one tenant that row security already holds the rows to.
ALTER TABLE ticket_state_history DROP CONSTRAINT ticket_state_history_tenant_id_fkey;

-- A first entry, and one that is given back, are allowed by what they are: reconciliation's alone, and it writes who and when itself.
DROP TRIGGER tickets_status_change ON tickets;
CREATE TRIGGER tickets_status_change BEFORE UPDATE OF status ON tickets FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status
  AND (NEW.status = 'checked_in' AND OLD.status IN ('sold', 'minted', 'active', 'transferred') AND OLD.status_before_entry IS NULL AND NEW.status_before_entry = OLD.status) IS NOT TRUE)
  EXECUTE FUNCTION ticket_status_change_trigger();

DROP INDEX tickets_by_change;
-- Whoever reads changes says after which version: that is what makes this index his alone.
CREATE INDEX tickets_by_change ON tickets (tenant_id, event_id, changed_version) WHERE changed_version > 0;
ALTER TABLE tickets DROP CONSTRAINT tickets_tenant_id_event_id_ticket_ref_key, ADD CONSTRAINT tickets_ref_key UNIQUE (ticket_ref, event_id, tenant_id);

-- Every batch changes its gates' rows: room for that beside them.
ALTER TABLE boots SET (fillfactor = 40);
ALTER TABLE ledger_epochs SET (fillfactor = 40);

ALTER TABLE ticket_usage DROP CONSTRAINT ticket_usage_pkey, ADD PRIMARY KEY (ticket_id, event_id, tenant_id);
ALTER TABLE admissions DROP CONSTRAINT admissions_pkey, ADD PRIMARY KEY (gate, epoch, seq, tenant_id);
DROP INDEX admissions_by_ticket, admissions_one_winner;
CREATE INDEX admissions_by_ticket ON admissions (ticket_id, event_id, tenant_id);
CREATE UNIQUE INDEX admissions_one_winner ON admissions (ticket_id, event_id, tenant_id) WHERE verdict = 'winner';
DROP INDEX ledger_rows_by_ticket;
CREATE INDEX ledger_rows_by_ticket ON ledger_rows (ticket_id, tenant_id) WHERE ticket_id IS NOT NULL;

-- A statement inside one of those has its own mind back.
ALTER FUNCTION log_ticket_status_change() SET enable_hashjoin = on;

-- It adds an interval to a time, which is not immutable: declared so, it was not inlined, and called for every row.
ALTER FUNCTION middle_of(boots, double precision, timestamptz) STABLE;

-- A tenant that the statistics don't list is taken for one without rows, and its whole event is then read first. Without statistics of this column every
-- tenant is taken for a two-hundredth of the table: enough to look tickets up one by one.
ALTER TABLE tickets ALTER COLUMN tenant_id SET STATISTICS 0;
ALTER TABLE ticket_usage ALTER COLUMN tenant_id SET STATISTICS 0;
ALTER TABLE admissions ALTER COLUMN tenant_id SET STATISTICS 0;

-- When a ticket first lost its right to enter, if ever: only such tickets are asked for their history.
ALTER TABLE tickets ADD COLUMN rights_lost_at timestamptz;
CREATE FUNCTION note_lost_rights() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.rights_lost_at := now();
  RETURN NEW;
END
$$;
CREATE TRIGGER tickets_note_lost_rights BEFORE INSERT OR UPDATE OF status ON tickets FOR EACH ROW
  WHEN (NEW.rights_lost_at IS NULL AND NEW.status IN ('available', 'revoked', 'refunded', 'expired', 'cancelled')) EXECUTE FUNCTION note_lost_rights();

-- What a ticket's state at that time says against an entry, as a reason; NULL: nothing. From its dated history: what it was before the first change, what it is where none was kept.
CREATE FUNCTION right_lost_by(t tickets, at timestamptz) RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT CASE coalesce(
      (SELECT h.new_status FROM ticket_state_history h WHERE h.tenant_id = t.tenant_id AND h.event_id = t.event_id AND h.ticket_id = t.ticket_id AND h.source <> 'manual' AND h.changed_at <= right_lost_by.at ORDER BY h.changed_at DESC, h.id DESC LIMIT 1),
      (SELECT h.previous_status FROM ticket_state_history h WHERE h.tenant_id = t.tenant_id AND h.event_id = t.event_id AND h.ticket_id = t.ticket_id AND h.source <> 'manual' ORDER BY h.changed_at, h.id LIMIT 1), t.status)
    WHEN 'revoked' THEN 'revoked' WHEN 'refunded' THEN 'canceled' WHEN 'cancelled' THEN 'canceled' WHEN 'expired' THEN 'invalid_time' WHEN 'available' THEN 'invalid' END $$;

-- Locks these tickets' compact rows, sorted.
CREATE FUNCTION lock_ticket_usage(events text[], ticket_ids text[]) RETURNS void LANGUAGE plpgsql
  SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off AS $$
BEGIN
  PERFORM 1 FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)) AS k
  JOIN ticket_usage u ON u.tenant_id = current_tenant_id() AND u.event_id = k.event_id AND u.ticket_id = k.ticket_id
  ORDER BY u.event_id, u.ticket_id FOR UPDATE OF u;
END
$$;

-- Copies what a ticket's admissions amount to onto the ticket, where there is one.
CREATE OR REPLACE FUNCTION copy_usage_to_tickets(events text[], ticket_ids text[]) RETURNS void LANGUAGE sql
  SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off AS $$
  UPDATE tickets t SET
    scan_count = u.entries, first_scanned_at = u.first_at, last_scanned_at = u.last_at,
    status = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN 'checked_in'
      WHEN u.entries = 0 AND t.status = 'checked_in' AND t.status_before_entry IS NOT NULL THEN t.status_before_entry ELSE t.status END,
    status_before_entry = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN t.status WHEN u.entries = 0 THEN NULL ELSE t.status_before_entry END,
    status_changed_at = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN now() ELSE t.status_changed_at END,
    status_changed_by = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN context_of('current_user_id') ELSE t.status_changed_by END,
    status_reason = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN context_of('status_change_reason') ELSE t.status_reason END
  FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)
  CROSS JOIN LATERAL (SELECT * FROM ticket_usage x WHERE x.tenant_id = current_tenant_id() AND x.event_id = k.event_id AND x.ticket_id = k.ticket_id LIMIT 1) AS u
  WHERE t.tenant_id = u.tenant_id AND t.event_id = u.event_id AND t.ticket_id = u.ticket_id
    AND ((t.scan_count, t.first_scanned_at, t.last_scanned_at) IS DISTINCT FROM (u.entries, u.first_at, u.last_at)
      OR (u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred')) OR (u.entries = 0 AND t.status_before_entry IS NOT NULL))
$$;

CREATE OR REPLACE FUNCTION rank_tickets(events text[], ticket_ids text[]) RETURNS count_delta[] LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  grants replayed[];
  changed replayed[];
  deltas count_delta[];
  unentitled replayed[];
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

  -- Entries that the rules allowed, of tickets whose right was gone: conflicts of their own, with nobody who won.
  SELECT array_agg(ROW(g.event_id, g.ticket_id, g.gate, g.epoch, g.seq, g.at, g.direction, g.was_verdict, g.was_used, g.was_uncertain, g.changed, g.verdict, l.reason, g.overlapping, g.used, g.uncertain, g.outcome)::replayed) INTO unentitled
  FROM unnest(grants) AS g
  CROSS JOIN LATERAL (SELECT right_lost_by(t.*, g.at) AS reason FROM tickets t WHERE t.tenant_id = tenant AND t.event_id = g.event_id AND t.ticket_id = g.ticket_id AND t.rights_lost_at <= g.at LIMIT 1) AS l
  WHERE g.direction = 'in' AND g.verdict IN ('winner', 'reentry') AND l.reason IS NOT NULL;
  DELETE FROM conflicts x USING (
    SELECT k.event_id, k.ticket_id, y.loser_gate, y.loser_epoch, y.loser_seq FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)) AS k
    CROSS JOIN LATERAL (SELECT * FROM conflicts z WHERE z.tenant_id = tenant AND z.event_id = k.event_id AND z.ticket_id = k.ticket_id OFFSET 0) AS y
    EXCEPT SELECT g.event_id, g.ticket_id, g.gate, g.epoch, g.seq FROM unnest(grants) AS g WHERE g.verdict = 'excess'
    EXCEPT SELECT g.event_id, g.ticket_id, g.gate, g.epoch, g.seq FROM unnest(unentitled) AS g) AS gone
  WHERE x.tenant_id = tenant AND x.event_id = gone.event_id AND x.ticket_id = gone.ticket_id AND x.loser_gate = gone.loser_gate AND x.loser_epoch = gone.loser_epoch AND x.loser_seq = gone.loser_seq;
  INSERT INTO conflicts AS x (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq, winner_gate, winner_epoch, winner_seq, cause, loser_at, winner_at, overlapping)
  SELECT tenant, g.event_id, g.ticket_id, g.gate, g.epoch, g.seq, w.gate, w.epoch, w.seq, g.cause, g.at, w.at, g.overlapping
  FROM unnest(grants) AS g LEFT JOIN unnest(grants) AS w ON w.event_id = g.event_id AND w.ticket_id = g.ticket_id AND w.verdict = 'winner' WHERE g.verdict = 'excess'
  UNION ALL SELECT tenant, g.event_id, g.ticket_id, g.gate, g.epoch, g.seq, NULL, NULL, NULL, g.cause, g.at, NULL, g.overlapping FROM unnest(unentitled) AS g
  ON CONFLICT (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq) DO UPDATE SET
    winner_gate = excluded.winner_gate, winner_epoch = excluded.winner_epoch, winner_seq = excluded.winner_seq, cause = excluded.cause, loser_at = excluded.loser_at, winner_at = excluded.winner_at, overlapping = excluded.overlapping
  WHERE (x.winner_gate, x.winner_epoch, x.winner_seq, x.cause, x.loser_at, x.winner_at, x.overlapping)
    IS DISTINCT FROM (excluded.winner_gate, excluded.winner_epoch, excluded.winner_seq, excluded.cause, excluded.loser_at, excluded.winner_at, excluded.overlapping);

  UPDATE ticket_usage u SET entries = n.entries, first_at = n.first_at, last_at = n.last_at, known = n.known
  FROM (
    SELECT k.event_id, k.ticket_id, count(g.gate)::integer AS entries, min(g.at) AS first_at, max(g.at) AS last_at,
      (SELECT true FROM tickets t WHERE t.tenant_id = tenant AND t.event_id = k.event_id AND t.ticket_id = k.ticket_id LIMIT 1) IS TRUE AS known
    FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)) AS k
    LEFT JOIN unnest(grants) AS g ON g.event_id = k.event_id AND g.ticket_id = k.ticket_id AND g.verdict IN ('winner', 'reentry') GROUP BY k.event_id, k.ticket_id) AS n
  WHERE u.tenant_id = tenant AND u.event_id = n.event_id AND u.ticket_id = n.ticket_id AND (u.entries, u.first_at, u.last_at, u.known) IS DISTINCT FROM (n.entries, n.first_at, n.last_at, n.known);
  RETURN coalesce(deltas, '{}');
END
$$;

CREATE OR REPLACE FUNCTION judge_tickets(events text[], ticket_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM lock_ticket_usage(events, ticket_ids);
  DECLARE
    deltas count_delta[] := rank_tickets(events, ticket_ids);
  BEGIN
    PERFORM copy_usage_to_tickets(events, ticket_ids);
    PERFORM add_counts(deltas);
  END;
END
$$;
ALTER FUNCTION judge_tickets(text[], text[]) SET plan_cache_mode = force_custom_plan;

-- Appends what is new and judges what it touches. Answers {stored, duplicates, clones: [[gate, epoch, seq]], edges: [{gate, epoch, seq, previous}]}:
-- edges are new rows whose predecessor was stored before, or whose successor was (then the successor), with the predecessor's hash, for the check of the chain.
CREATE OR REPLACE FUNCTION reconcile_rows(input ledger_input[]) RETURNS jsonb LANGUAGE plpgsql AS $$
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
  WITH n AS MATERIALIZED (
    SELECT g.gate, g.epoch, s.stored + g.fresh AS stored FROM (SELECT f.gate, f.epoch, range_agg(int8range(f.seq, f.seq, '[]')) AS fresh FROM unnest(fresh) AS f GROUP BY f.gate, f.epoch) AS g
    CROSS JOIN LATERAL (SELECT x.stored FROM ledger_epochs x WHERE x.tenant_id = tenant AND x.gate = g.gate AND x.epoch = g.epoch LIMIT 1) AS s
  )
  UPDATE ledger_epochs e SET stored = n.stored, upto_seq = CASE WHEN n.stored @> 1::bigint THEN (SELECT upper(r) - 1 FROM unnest(n.stored) AS r ORDER BY r LIMIT 1) ELSE 0 END, last_row_at = now()
  FROM n WHERE e.tenant_id = tenant AND e.gate = n.gate AND e.epoch = n.epoch;

  -- Grants, and words on grants, each folded to one row a grant. Columns that only a grant has are NULL on words: min() takes the one that is there.
  WITH boot AS MATERIALIZED (
    SELECT d.gate, d.boot_id, l.* FROM (SELECT DISTINCT f.gate, f.boot_id FROM unnest(fresh) AS f WHERE f.kind = 'grant' AND f.boot_id IS NOT NULL) AS d
    CROSS JOIN LATERAL (SELECT b FROM boots b WHERE b.tenant_id = tenant AND b.gate = d.gate AND b.boot_id = d.boot_id LIMIT 1) AS l
  )
  SELECT array_agg(ROW(k.gate, k.epoch, k.seq, coalesce(k.own_event, k.event_id), coalesce(k.own_ticket, k.ticket_id), k.granted, decode(k.ticket_ref, 'hex'), k.direction, k.units, k.manifest_version, (l.b).boot_no, k.boottime_ms, k.ts,
      CASE WHEN k.granted THEN earliest_of(l.b, k.boottime_ms) END, CASE WHEN k.granted THEN middle_of(l.b, k.boottime_ms, k.ts) END, CASE WHEN k.granted THEN latest_of(l.b, k.boottime_ms) END,
      CASE WHEN k.granted THEN (l.b).offset_ms IS NOT NULL END, k.word_1, nullif(k.words, '{}'), k.word_all)::ledger_grant ORDER BY k.gate, k.epoch, k.seq) INTO grants_in
  FROM (
    SELECT w.gate, w.epoch, w.seq, min(w.event_id) AS event_id, min(w.ticket_id) AS ticket_id, bool_or(w.granted) AS granted, min(w.own_event) AS own_event, min(w.own_ticket) AS own_ticket, min(w.ticket_ref) AS ticket_ref,
      min(w.direction) AS direction, min(w.units) AS units, min(w.manifest_version) AS manifest_version, min(w.boot_id) AS boot_id, min(w.boottime_ms) AS boottime_ms, min(w.ts) AS ts,
      max(w.word) FILTER (WHERE w.unit = 1) AS word_1, strongest_words(w.unit, w.word) FILTER (WHERE w.unit > 1) AS words, max(w.word) FILTER (WHERE w.unit IS NULL) AS word_all
    FROM (
      SELECT f.gate, f.epoch, f.seq, f.event_id, f.ticket_id, true AS granted, f.event_id AS own_event, f.ticket_id AS own_ticket, f.ticket_ref, f.direction, f.units, f.manifest_version, f.boot_id, f.boottime_ms, f.ts, 0 AS unit, NULL::bigint AS word
      FROM unnest(fresh) AS f WHERE f.readable AND f.kind = 'grant' AND f.event_id IS NOT NULL AND f.ticket_id IS NOT NULL
      UNION ALL
      SELECT CASE f.kind WHEN 'settlement' THEN f.of_gate ELSE f.gate END, f.of_epoch, f.of_seq, f.event_id, f.ticket_id, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, f.unit,
        CASE f.kind WHEN 'passage' THEN word_of_passage(f.outcome) ELSE word_of_settlement(f.epoch, f.seq, f.outcome) END
      FROM unnest(fresh) AS f WHERE f.readable AND f.event_id IS NOT NULL AND f.ticket_id IS NOT NULL AND (
        (f.kind = 'passage' AND f.of_seq IS NOT NULL AND f.outcome IN ('passed', 'returned', 'stuck', 'unknown'))
        OR (f.kind = 'settlement' AND f.of_gate IS NOT NULL AND f.gate = split_part(f.of_gate, '/', 1) || '/cloud'))
    ) AS w GROUP BY w.gate, w.epoch, w.seq
  ) AS k
  LEFT JOIN boot l ON l.gate = k.gate AND l.boot_id = k.boot_id;

  -- Tickets whose earlier grants are touched: by a word, or by a boot that moved.
  SELECT coalesce(array_agg(s.event_id), '{}'), coalesce(array_agg(s.ticket_id), '{}') INTO slow_events, slow_tickets FROM (
    SELECT a.event_id, a.ticket_id FROM unnest(grants_in) AS g CROSS JOIN LATERAL (SELECT x.event_id, x.ticket_id FROM admissions x WHERE x.tenant_id = tenant AND x.gate = g.gate AND x.epoch = g.epoch AND x.seq = g.seq LIMIT 1) AS a
    UNION SELECT g.event_id, g.ticket_id FROM unnest(grants_in) AS g WHERE NOT g.granted
    UNION SELECT a.event_id, a.ticket_id FROM boots b JOIN admissions a ON a.tenant_id = tenant AND a.gate = b.gate AND (a.epoch, a.seq) BETWEEN (b.first_epoch, b.first_seq) AND (b.last_epoch, b.last_seq) AND a.boot_no = b.boot_no
      WHERE cardinality(moved) > 0 AND b.tenant_id = tenant AND b.gate = ANY (gates) AND b.boot_no = ANY (moved)) AS s;

  -- Lock the tickets: rows that are made now are ours, sorted; then the others, sorted. A ticket that was never granted before, with one entry of one
  -- guest, needs no replay: it is made with its result (fast); all others are replayed (slow).
  WITH touched AS (
    SELECT g.event_id, g.ticket_id, count(*) FILTER (WHERE g.granted) = 1 AND count(*) = 1 AND bool_and(g.direction = 'in' AND g.units = 1)
        AND (g.event_id, g.ticket_id) NOT IN (SELECT * FROM unnest(slow_events, slow_tickets)) AS simple,
      min(g.at) AS at, bool_and(outcome_of_word(greatest(g.word_1, g.word_all)) = 'returned') AS annulled
    FROM unnest(grants_in) AS g GROUP BY g.event_id, g.ticket_id
  ), mine AS MATERIALIZED (
    SELECT k.event_id, k.ticket_id, k.simple AND (t.rights_lost_at IS NOT NULL) IS NOT TRUE AS simple, k.at, k.annulled, t.known IS TRUE AS known FROM touched k
    LEFT JOIN LATERAL (SELECT true AS known, x.rights_lost_at FROM tickets x WHERE x.tenant_id = tenant AND x.event_id = k.event_id AND x.ticket_id = k.ticket_id LIMIT 1) AS t ON true
  ), made AS (
    INSERT INTO ticket_usage (tenant_id, event_id, ticket_id, entries, first_at, last_at, known)
    SELECT tenant, m.event_id, m.ticket_id, (m.simple AND NOT m.annulled)::integer, CASE WHEN m.simple AND NOT m.annulled THEN m.at END, CASE WHEN m.simple AND NOT m.annulled THEN m.at END,
      m.known
    FROM mine m ORDER BY m.event_id, m.ticket_id ON CONFLICT DO NOTHING RETURNING event_id, ticket_id
  )
  SELECT coalesce(array_agg(m.event_id) FILTER (WHERE m.simple AND d.ticket_id IS NOT NULL), '{}'), coalesce(array_agg(m.ticket_id) FILTER (WHERE m.simple AND d.ticket_id IS NOT NULL), '{}'),
    slow_events || coalesce(array_agg(m.event_id) FILTER (WHERE NOT m.simple OR d.ticket_id IS NULL), '{}'), slow_tickets || coalesce(array_agg(m.ticket_id) FILTER (WHERE NOT m.simple OR d.ticket_id IS NULL), '{}')
  INTO fast_events, fast_tickets, slow_events, slow_tickets
  FROM mine m LEFT JOIN made d ON d.event_id = m.event_id AND d.ticket_id = m.ticket_id;
  IF cardinality(slow_events) > 0 THEN
    PERFORM lock_ticket_usage(slow_events, slow_tickets);
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
  CROSS JOIN LATERAL (SELECT outcome_of_word(greatest(g.word_1, g.word_all)) AS outcome OFFSET 0) AS o
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

ALTER FUNCTION reconcile_rows(ledger_input[]) SET plan_cache_mode = force_custom_plan;
