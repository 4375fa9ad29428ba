-- What store_verdicts found, written: rows of large tables, each looked up by its key. Planned anew each time: a plan made while a table was small reads the whole of it first.
CREATE OR REPLACE FUNCTION write_verdicts(changed replayed[], gone conflicts[], events text[], ticket_ids text[], entry_counts integer[], first_ats timestamptz[], last_ats timestamptz[], knowns boolean[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
BEGIN
  IF changed IS NOT NULL THEN
    -- Demote before promoting: in one UPDATE the unique index would break, depending on the order of rows.
    IF EXISTS (SELECT FROM unnest(changed) AS c WHERE c.was_verdict = 'winner' AND c.verdict <> 'winner') THEN
      UPDATE admissions adm SET verdict = NULL FROM unnest(changed) AS c
      WHERE adm.tenant_id = tenant AND adm.gate = c.gate AND adm.epoch = c.epoch AND adm.seq = c.seq AND c.was_verdict = 'winner' AND c.verdict <> 'winner';
    END IF;
    UPDATE admissions adm SET verdict = c.verdict, cause = c.cause, overlapping = c.overlapping, units_used = c.used, units_uncertain = c.uncertain, outcome = c.outcome FROM unnest(changed) AS c
    WHERE adm.tenant_id = tenant AND adm.gate = c.gate AND adm.epoch = c.epoch AND adm.seq = c.seq;
  END IF;
  IF gone IS NOT NULL THEN
    DELETE FROM conflicts x USING unnest(gone) AS g
    WHERE x.tenant_id = tenant AND x.event_id = g.event_id AND x.ticket_id = g.ticket_id AND x.loser_gate = g.loser_gate AND x.loser_epoch = g.loser_epoch AND x.loser_seq = g.loser_seq;
  END IF;
  UPDATE ticket_usage u SET entries = n.entries, first_at = n.first_at, last_at = n.last_at, known = n.known FROM unnest(events, ticket_ids, entry_counts, first_ats, last_ats, knowns) AS n (event_id, ticket_id, entries, first_at, last_at, known)
  WHERE u.tenant_id = tenant AND u.event_id = n.event_id AND u.ticket_id = n.ticket_id AND (u.entries, u.first_at, u.last_at, u.known) IS DISTINCT FROM (n.entries, n.first_at, n.last_at, n.known);
END
$$;
