CREATE OR REPLACE FUNCTION store_verdicts(events text[], ticket_ids text[]) RETURNS count_delta[] LANGUAGE plpgsql
  -- As reconcile_columns: one plan for every length, nothing that joins a table. What must join is in write_verdicts.
  SET plan_cache_mode = force_generic_plan SET enable_nestloop = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
  grants replayed[];
  changed replayed[];
  deltas count_delta[];
  unentitled replayed[];
  gone conflicts[];
  used_events text[]; used_tickets text[]; entry_counts integer[]; first_ats timestamptz[]; last_ats timestamptz[]; knowns boolean[];
BEGIN
  SELECT array_agg(r), array_agg(r) FILTER (WHERE r.changed) INTO grants, changed FROM evaluate_tickets(events, ticket_ids) AS r;
  IF changed IS NOT NULL THEN
    SELECT array_agg(d) INTO deltas FROM (
      SELECT counts_of(c.gate, c.event_id, 1, c.verdict, c.direction, c.used, c.uncertain) AS d FROM unnest(changed) AS c
      UNION ALL SELECT counts_of(c.gate, c.event_id, -1, c.was_verdict, c.direction, c.was_used, c.was_uncertain) FROM unnest(changed) AS c WHERE c.was_verdict IS NOT NULL) AS both_ways;
  END IF;

  -- Entries that the rules allowed, of tickets whose right was gone: conflicts of their own, with nobody who won.
  SELECT array_agg(ROW(g.event_id, g.ticket_id, g.gate, g.epoch, g.seq, g.at, g.direction, g.was_verdict, g.was_used, g.was_uncertain, g.changed, g.verdict, l.reason, g.overlapping, g.used, g.uncertain, g.outcome)::replayed) INTO unentitled
  FROM unnest(grants) AS g
  CROSS JOIN LATERAL (SELECT right_lost_by(t.*, g.at) AS reason FROM tickets t WHERE t.tenant_id = tenant AND t.event_id = g.event_id AND t.ticket_id = g.ticket_id AND t.rights_lost_at <= g.at LIMIT 1) AS l
  WHERE g.direction = 'in' AND g.verdict IN ('winner', 'reentry') AND l.reason IS NOT NULL;
  SELECT array_agg(x) INTO gone FROM (
    SELECT k.event_id, k.ticket_id, y.loser_gate AS gate, y.loser_epoch AS epoch, y.loser_seq AS seq FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)) AS k
    CROSS JOIN LATERAL (SELECT * FROM conflicts z WHERE z.tenant_id = tenant AND z.event_id = k.event_id AND z.ticket_id = k.ticket_id OFFSET 0) AS y
    EXCEPT SELECT g.event_id, g.ticket_id, g.gate, g.epoch, g.seq FROM unnest(grants) AS g WHERE g.verdict = 'excess'
    EXCEPT SELECT g.event_id, g.ticket_id, g.gate, g.epoch, g.seq FROM unnest(unentitled) AS g) AS k
  CROSS JOIN LATERAL (SELECT * FROM conflicts z WHERE z.tenant_id = tenant AND z.event_id = k.event_id AND z.ticket_id = k.ticket_id AND z.loser_gate = k.gate AND z.loser_epoch = k.epoch AND z.loser_seq = k.seq LIMIT 1) AS x;
  INSERT INTO conflicts AS x (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq, winner_gate, winner_epoch, winner_seq, cause, loser_at, winner_at, overlapping)
  SELECT tenant, g.event_id, g.ticket_id, g.gate, g.epoch, g.seq, w.gate, w.epoch, w.seq, g.cause, g.at, w.at, g.overlapping
  FROM unnest(grants) AS g LEFT JOIN unnest(grants) AS w ON w.event_id = g.event_id AND w.ticket_id = g.ticket_id AND w.verdict = 'winner' WHERE g.verdict = 'excess'
  UNION ALL SELECT tenant, g.event_id, g.ticket_id, g.gate, g.epoch, g.seq, NULL, NULL, NULL, g.cause, g.at, NULL, g.overlapping FROM unnest(unentitled) AS g
  ON CONFLICT (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq) DO UPDATE SET
    winner_gate = excluded.winner_gate, winner_epoch = excluded.winner_epoch, winner_seq = excluded.winner_seq, cause = excluded.cause, loser_at = excluded.loser_at, winner_at = excluded.winner_at, overlapping = excluded.overlapping
  WHERE (x.winner_gate, x.winner_epoch, x.winner_seq, x.cause, x.loser_at, x.winner_at, x.overlapping)
    IS DISTINCT FROM (excluded.winner_gate, excluded.winner_epoch, excluded.winner_seq, excluded.cause, excluded.loser_at, excluded.winner_at, excluded.overlapping);

  SELECT array_agg(n.event_id), array_agg(n.ticket_id), array_agg(n.entries), array_agg(n.first_at), array_agg(n.last_at), array_agg(n.known)
  INTO used_events, used_tickets, entry_counts, first_ats, last_ats, knowns FROM (
    SELECT k.event_id, k.ticket_id, count(g.gate)::integer AS entries, min(g.at) AS first_at, max(g.at) AS last_at,
      (SELECT true FROM tickets t WHERE t.tenant_id = tenant AND t.event_id = k.event_id AND t.ticket_id = k.ticket_id LIMIT 1) IS TRUE AS known
    FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)) AS k
    LEFT JOIN unnest(grants) AS g ON g.event_id = k.event_id AND g.ticket_id = k.ticket_id AND g.verdict IN ('winner', 'reentry') GROUP BY k.event_id, k.ticket_id) AS n;
  PERFORM write_verdicts(changed, gone, used_events, used_tickets, entry_counts, first_ats, last_ats, knowns);
  RETURN coalesce(deltas, '{}');
END
$$;
