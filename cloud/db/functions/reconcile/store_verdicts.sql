CREATE OR REPLACE FUNCTION store_verdicts(events text[], ticket_ids text[]) RETURNS count_delta[] LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan
  SET enable_nestloop = on
  SET enable_seqscan = on
  SET enable_bitmapscan = on AS $$
DECLARE
  tenant uuid := current_tenant_id();
  grants replayed[];
  changed replayed[];
  deltas count_delta[];
  unentitled replayed[];
BEGIN
  SELECT array_agg(r), array_agg(r) FILTER (WHERE r.changed) INTO grants, changed FROM evaluate_tickets(events, ticket_ids) AS r;
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
