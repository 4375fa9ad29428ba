-- Takes off what rows counted that left the ledger (set_rows_apart): sums, and the admissions of their tickets, as far as the rows of these are stored. Answers
-- {events, tickets, rows: [{gate, epoch, seq, hash, entry}]}: what is still stored of these tickets, to be counted anew (recount_columns).
CREATE OR REPLACE FUNCTION forget_columns(
  gates text[], epochs bigint[], seqs bigint[], hashes bytea[], kinds text[], readables boolean[], event_ids text[], ticket_ids text[], directions text[], of_seqs bigint[], outcomes text[],
  again_gates text[], again_epochs bigint[], again_seqs bigint[], again_hashes bytea[]
) RETURNS jsonb LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan SET enable_nestloop = on SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
  n integer := cardinality(gates);
  place_gates text[] := ARRAY(SELECT coalesce(again_gates[i], gates[i]) FROM generate_series(1, n) AS i);
  counted boolean[];
  deltas count_delta[];
  events text[]; tickets_of text[];
  rows_left jsonb;
BEGIN
  DELETE FROM ledger_agains a USING unnest(gates, epochs, seqs) AS k (gate, epoch, seq), unnest(again_gates) AS g
  WHERE a.tenant_id = tenant AND a.of_gate = g AND a.gate = k.gate AND a.epoch = k.epoch AND a.seq = k.seq;
  counted := ARRAY(SELECT NOT h FROM unnest(identities_held(gates, epochs, seqs, hashes, again_gates, again_epochs, again_seqs, again_hashes)) WITH ORDINALITY AS o (h, p) ORDER BY p);
  DELETE FROM vip_scan_logs v USING unnest(gates, epochs, seqs) AS k (gate, epoch, seq) WHERE v.tenant_id = tenant AND v.gate = k.gate AND v.epoch = k.epoch AND v.seq = k.seq AND v.scan_type = 'refused';

  SELECT coalesce(array_agg(t.event_id), '{}'), coalesce(array_agg(t.ticket_id), '{}') INTO events, tickets_of FROM (
    SELECT k.event_id, k.ticket_id FROM unnest(event_ids, ticket_ids) AS k (event_id, ticket_id) WHERE k.event_id IS NOT NULL AND k.ticket_id IS NOT NULL
    UNION SELECT a.event_id, a.ticket_id FROM unnest(gates, epochs, seqs) AS k (gate, epoch, seq) JOIN admissions a ON a.tenant_id = tenant AND a.gate = k.gate AND a.epoch = k.epoch AND a.seq = k.seq) AS t;
  PERFORM lock_ticket_usage(events, tickets_of);
  SELECT array_agg(counts_of(a.gate, a.event_id, -1, a.verdict, a.direction, a.units_used, a.units_uncertain)) INTO deltas FROM unnest(events, tickets_of) AS t (e, t)
  JOIN admissions a ON a.tenant_id = tenant AND a.event_id = t.e AND a.ticket_id = t.t WHERE a.verdict IS NOT NULL;
  WITH old AS (
    SELECT a.* FROM unnest(events, tickets_of) AS t (e, t) JOIN admissions a ON a.tenant_id = tenant AND a.event_id = t.e AND a.ticket_id = t.t
  ), places AS (
    SELECT o.gate, o.epoch, o.seq FROM old o WHERE o.granted
    UNION SELECT coalesce(o.original_gate, o.gate), coalesce(o.original_epoch, o.epoch), coalesce(o.original_seq, o.seq) FROM old o
    UNION SELECT g.gate, g.epoch, g.seq FROM old o JOIN ledger_agains g ON g.tenant_id = tenant AND g.of_gate = coalesce(o.original_gate, o.gate) AND g.of_epoch = coalesce(o.original_epoch, o.epoch) AND g.of_seq = coalesce(o.original_seq, o.seq)
  ), left_over AS (
    SELECT r.gate, r.epoch, r.seq, r.hash, r.entry FROM places p JOIN ledger_rows r ON r.tenant_id = tenant AND r.gate = p.gate AND r.epoch = p.epoch AND r.seq = p.seq
    UNION SELECT r.gate, r.epoch, r.seq, r.hash, r.entry FROM unnest(events, tickets_of) AS t (e, t) JOIN ledger_rows r ON r.tenant_id = tenant AND r.ticket_id = t.t AND r.event_id = t.e AND r.kind <> 'grant'
  )
  SELECT coalesce(jsonb_agg(jsonb_build_object('gate', l.gate, 'epoch', l.epoch, 'seq', l.seq, 'hash', encode(l.hash, 'hex'), 'entry', l.entry) ORDER BY l.gate, l.epoch, l.seq), '[]') INTO rows_left FROM left_over l;
  -- An admission whose row is in a detached month stays as it is.
  DELETE FROM admissions a USING unnest(events, tickets_of) AS t (e, t) WHERE a.tenant_id = tenant AND a.event_id = t.e AND a.ticket_id = t.t AND (NOT a.granted
    OR EXISTS (SELECT FROM unnest(gates, epochs, seqs) AS k (gate, epoch, seq) WHERE k.gate = a.gate AND k.epoch = a.epoch AND k.seq = a.seq)
    OR EXISTS (SELECT FROM ledger_lines r WHERE r.tenant_id = tenant AND r.gate = a.gate AND r.epoch = a.epoch AND r.seq = a.seq));
  UPDATE admissions a SET verdict = NULL, units_used = 0, units_uncertain = 0, outcome = NULL, cause = NULL, overlapping = false FROM unnest(events, tickets_of) AS t (e, t) WHERE a.tenant_id = tenant AND a.event_id = t.e AND a.ticket_id = t.t;
  deltas := deltas || sum_columns(-1, place_gates, kinds, readables, event_ids, ticket_ids, directions, of_seqs, outcomes, counted);
  IF cardinality(deltas) > 0 THEN PERFORM add_counts(deltas); END IF;
  PERFORM sum_outward_columns(-1, place_gates, kinds, readables, event_ids, ticket_ids, directions, of_seqs, outcomes, counted);
  RETURN jsonb_build_object('events', to_jsonb(events), 'tickets', to_jsonb(tickets_of), 'rows', rows_left);
END
$$;
