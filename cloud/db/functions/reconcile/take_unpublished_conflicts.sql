-- What one site's gates are to be told: what stands and was not told (verdict `excess`), and what was told and no longer stands (`withdrawn`). Under the lock of the
-- cloud's ledger of that site, so that two who tell don't tell twice. A conflict waits two seconds: while gates catch up, many come and go.
CREATE OR REPLACE FUNCTION take_unpublished_conflicts(site text, at_most integer) RETURNS TABLE (gate text, epoch bigint, seq bigint, verdict text, cause text, event_id text, ticket_id text, ticket_ref text, direction text, winner jsonb) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  tenant uuid := current_tenant_id();
BEGIN
  INSERT INTO ledgers (tenant_id, gate, site_id) VALUES (tenant, site || '/cloud', site) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM ledgers l WHERE l.tenant_id = tenant AND l.gate = site || '/cloud' FOR UPDATE;
  RETURN QUERY
    WITH gone AS (
      DELETE FROM withdrawn_conflicts w USING (SELECT x.id FROM withdrawn_conflicts x WHERE x.tenant_id = tenant AND split_part(x.loser_gate, '/', 1) = site ORDER BY x.id LIMIT at_most) AS k
      WHERE w.tenant_id = tenant AND w.id = k.id RETURNING w.*
    ), standing AS (
      UPDATE conflicts c SET told = true FROM (
        SELECT x.event_id, x.ticket_id, x.loser_gate, x.loser_epoch, x.loser_seq FROM conflicts x WHERE x.tenant_id = tenant AND NOT x.told AND split_part(x.loser_gate, '/', 1) = site AND x.found_at < now() - interval '2 seconds'
        ORDER BY x.event_id, x.ticket_id, x.loser_gate, x.loser_epoch, x.loser_seq LIMIT at_most FOR UPDATE SKIP LOCKED) AS k
      WHERE c.tenant_id = tenant AND c.event_id = k.event_id AND c.ticket_id = k.ticket_id AND c.loser_gate = k.loser_gate AND c.loser_epoch = k.loser_epoch AND c.loser_seq = k.loser_seq RETURNING c.*
    ), word AS (
      SELECT g.loser_gate, g.loser_epoch, g.loser_seq, 'withdrawn' AS verdict, g.cause, g.event_id, g.ticket_id, NULL::jsonb AS winner FROM gone g
      -- One that stands again is told as it stands.
      WHERE NOT EXISTS (SELECT FROM conflicts c WHERE c.tenant_id = tenant AND c.event_id = g.event_id AND c.ticket_id = g.ticket_id AND c.loser_gate = g.loser_gate AND c.loser_epoch = g.loser_epoch AND c.loser_seq = g.loser_seq)
      UNION ALL
      SELECT s.loser_gate, s.loser_epoch, s.loser_seq, 'excess', s.cause, s.event_id, s.ticket_id, CASE WHEN s.winner_gate IS NOT NULL THEN jsonb_build_array(s.winner_gate, s.winner_epoch, s.winner_seq) END FROM standing s
    )
    SELECT w.loser_gate, w.loser_epoch, w.loser_seq, w.verdict, w.cause, w.event_id, w.ticket_id, encode(a.ticket_ref, 'hex'), a.direction, w.winner
    FROM word w LEFT JOIN LATERAL (SELECT x.ticket_ref, x.direction FROM admissions x WHERE x.tenant_id = tenant AND x.gate = w.loser_gate AND x.epoch = w.loser_epoch AND x.seq = w.loser_seq LIMIT 1) AS a ON true
    ORDER BY w.loser_gate, w.loser_epoch, w.loser_seq;
END
$$;
