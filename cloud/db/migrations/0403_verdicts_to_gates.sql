-- Conflicts go back to the gates that caused them, as rows of the cloud's ledger: the one way by which gates learn of usage.

-- True: a row of the cloud's ledger says so as it now stands.
ALTER TABLE conflicts ADD COLUMN told boolean NOT NULL DEFAULT false;
CREATE INDEX conflicts_untold ON conflicts (tenant_id, found_at) WHERE NOT told;
-- Conflicts that were told and are none any more.
CREATE TABLE withdrawn_conflicts (
  tenant_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  loser_gate text NOT NULL, loser_epoch bigint NOT NULL, loser_seq bigint NOT NULL,
  cause text NOT NULL,
  PRIMARY KEY (tenant_id, id)
);
SELECT isolate_by_tenant('withdrawn_conflicts');

CREATE FUNCTION conflict_told_otherwise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' THEN
    NEW.told := false;
    RETURN NEW;
  END IF;
  INSERT INTO withdrawn_conflicts (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq, cause)
  VALUES (OLD.tenant_id, OLD.event_id, OLD.ticket_id, OLD.loser_gate, OLD.loser_epoch, OLD.loser_seq, OLD.cause);
  RETURN NULL;
END
$$;
CREATE TRIGGER conflicts_told_otherwise BEFORE UPDATE ON conflicts FOR EACH ROW
  WHEN (OLD.told AND (OLD.cause, OLD.winner_gate, OLD.winner_epoch, OLD.winner_seq) IS DISTINCT FROM (NEW.cause, NEW.winner_gate, NEW.winner_epoch, NEW.winner_seq)) EXECUTE FUNCTION conflict_told_otherwise();
CREATE TRIGGER conflicts_withdrawn AFTER DELETE ON conflicts FOR EACH ROW WHEN (OLD.told) EXECUTE FUNCTION conflict_told_otherwise();

-- What one site's gates are to be told: what stands and was not told (verdict `excess`), and what was told and no longer stands (`withdrawn`). Under the lock of the
-- cloud's ledger of that site, so that two who tell don't tell twice. A conflict waits two seconds: while gates catch up, many come and go.
CREATE FUNCTION take_untold_conflicts(site text, at_most integer) RETURNS TABLE (gate text, epoch bigint, seq bigint, verdict text, cause text, event_id text, ticket_id text, ticket_ref text, direction text, winner jsonb) LANGUAGE plpgsql AS $$
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

GRANT SELECT ON conflicts, withdrawn_conflicts TO stile_resolver;
CREATE FUNCTION sites_with_untold_conflicts(wanted integer) RETURNS TABLE (tenant_id uuid, site_id text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$
    SELECT c.tenant_id, split_part(c.loser_gate, '/', 1) FROM conflicts c WHERE NOT c.told AND c.found_at < now() - interval '2 seconds'
    UNION SELECT w.tenant_id, split_part(w.loser_gate, '/', 1) FROM withdrawn_conflicts w LIMIT wanted;
  $$;
ALTER FUNCTION sites_with_untold_conflicts(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION sites_with_untold_conflicts(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sites_with_untold_conflicts(integer) TO stile_service;
