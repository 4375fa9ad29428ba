-- The same as judge_columns does in bulk, one admission after the other: where rows repeat an original (again), or a word names another row than the one that has
-- its place. Of the rows of one original one admission is made. Answers what gates' sums change by.
CREATE OR REPLACE FUNCTION judge_tangled(grants_in ledger_grant[], moved bigint[], gate_list text[]) RETURNS count_delta[] LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
  g ledger_grant;
  events text[]; ticket_ids text[];
  deltas count_delta[] := '{}';
BEGIN
  SELECT array_agg(k.event_id), array_agg(k.ticket_id) INTO events, ticket_ids FROM (
    SELECT x.event_id, x.ticket_id FROM unnest(grants_in) AS x
    UNION SELECT a.event_id, a.ticket_id FROM unnest(grants_in) AS x JOIN admissions a ON a.tenant_id = tenant AND a.gate = x.gate AND a.epoch = x.epoch AND a.seq = x.seq
    UNION SELECT a.event_id, a.ticket_id FROM unnest(grants_in) AS x JOIN admissions a ON a.tenant_id = tenant AND a.gate = x.original_gate AND a.epoch = x.original_epoch AND a.seq = x.original_seq
    UNION SELECT a.event_id, a.ticket_id FROM unnest(grants_in) AS x JOIN admissions a ON a.tenant_id = tenant AND a.original_gate = coalesce(x.original_gate, x.gate) AND a.original_epoch = coalesce(x.original_epoch, x.epoch) AND a.original_seq = coalesce(x.original_seq, x.seq)
    UNION SELECT t.event_id, t.ticket_id FROM tickets_of_boots(gate_list, moved) AS t) AS k;
  IF events IS NULL THEN RETURN deltas; END IF;
  INSERT INTO ticket_usage (tenant_id, event_id, ticket_id, known) SELECT tenant, k.e, k.t, true FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS x (e, t)) AS k ORDER BY k.e, k.t ON CONFLICT DO NOTHING;
  PERFORM lock_ticket_usage(events, ticket_ids);
  IF cardinality(moved) > 0 THEN PERFORM reposition_boots(gate_list, moved); END IF;
  -- Originals first, then a gate's own repetitions, then those that a person admitted.
  FOR g IN SELECT x.* FROM unnest(grants_in) AS x ORDER BY x.granted DESC, x.original_gate IS NOT NULL, x.gate IS DISTINCT FROM x.original_gate, x.gate, x.epoch, x.seq LOOP
    deltas := deltas || place_admission(g);
  END LOOP;
  deltas := deltas || store_verdicts(events, ticket_ids);
  PERFORM copy_usage_to_tickets(events, ticket_ids);
  RETURN deltas;
END
$$;
