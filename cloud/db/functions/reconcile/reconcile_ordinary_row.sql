-- The short way for one ordinary row, as a gate with guests before it sends them: the next row of its ledger, in a boot that is measured, and either the first
-- grant of a ticket to one guest, inwards, or the gate's first word on such a grant. Answers what reconcile_columns would, and leaves the same tables; NULL
-- where anything is otherwise, and then reconcile_columns takes the row from the beginning (a compact ticket row that was made here is a ticket granted before).
-- A dozen statements without a join or an array: a fifth of the processor that the way of batches takes for one row.
CREATE OR REPLACE FUNCTION reconcile_ordinary_row(
  row_gate text, row_epoch bigint, row_seq bigint, row_hash bytea, row_kind text, row_entry text, row_time timestamptz, row_boot text, boottime double precision, row_offset double precision, row_bound double precision,
  row_event text, row_ticket text, row_ref bytea, row_direction text, row_units integer, row_version bigint, for_epoch bigint, for_seq bigint, for_hash bytea, for_unit integer, row_outcome text
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  kept record;
  boot record;
  adm record;
  tangled boolean;
  word bigint;
  placed_at timestamptz;
  lost_at timestamptz;
  uncertain_more integer;
BEGIN
  IF row_event IS NULL OR row_ticket IS NULL OR row_boot IS NULL OR boottime IS NULL
    OR (row_kind = 'grant' AND row_direction = 'in' AND row_units = 1 OR row_kind = 'passage' AND for_seq IS NOT NULL AND coalesce(for_unit, 1) = 1 AND row_outcome IN ('passed', 'stuck', 'unknown')) IS NOT TRUE THEN RETURN NULL; END IF;
  SELECT l.has_again OR l.forks > 0 INTO tangled FROM ledgers l WHERE l.tenant_id = tenant AND l.gate = row_gate FOR UPDATE;
  IF tangled IS NOT FALSE THEN RETURN NULL; END IF;
  SELECT e.stored, e.upto_seq, e.upto_hash, e.gone INTO kept FROM ledger_epochs e WHERE e.tenant_id = tenant AND e.gate = row_gate AND e.epoch = row_epoch;
  IF NOT FOUND OR row_seq = 1 OR kept.upto_seq <> row_seq - 1 OR upper(kept.stored) <> row_seq OR NOT isempty(kept.gone) OR row_follows(kept.upto_hash, row_entry, row_hash) IS NOT TRUE THEN RETURN NULL; END IF;
  -- A boot that this row measures better, or that lies between measured ones, moves others.
  SELECT b.boot_no, b.offset_ms, b.bound_ms INTO boot FROM boots b WHERE b.tenant_id = tenant AND b.gate = row_gate AND b.boot_id = row_boot;
  IF NOT FOUND OR boot.offset_ms IS NULL OR row_bound < boot.bound_ms THEN RETURN NULL; END IF;
  PERFORM 1 FROM boots b WHERE b.tenant_id = tenant AND b.gate = row_gate AND b.offset_ms IS NULL;
  IF FOUND THEN RETURN NULL; END IF;
  IF row_kind = 'grant' THEN
    INSERT INTO ticket_usage (tenant_id, event_id, ticket_id, entries, first_at, last_at, known)
    VALUES (tenant, row_event, row_ticket, 1, time_of_ms(boot.offset_ms + boottime), time_of_ms(boot.offset_ms + boottime), true) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN NULL; END IF;
    placed_at := time_of_ms(boot.offset_ms + boottime);
    INSERT INTO admissions (tenant_id, gate, epoch, seq, event_id, ticket_id, granted, ticket_ref, direction, units, manifest_version, boot_no, boottime_ms, ts, at_low, at, at_high, placed, hash8, units_used, units_uncertain, outcome, verdict)
    VALUES (tenant, row_gate, row_epoch, row_seq, row_event, row_ticket, true, row_ref, 'in', 1, row_version, boot.boot_no, boottime, row_time,
      time_of_ms(boot.offset_ms + boottime - boot.bound_ms), placed_at, time_of_ms(boot.offset_ms + boottime + boot.bound_ms), true, hash8_of(row_hash), 1, 1, 'open', 'winner') ON CONFLICT DO NOTHING;
    -- A word came before its grant.
    IF NOT FOUND THEN RETURN NULL; END IF;
  ELSE
    PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = tenant AND u.event_id = row_event AND u.ticket_id = row_ticket FOR UPDATE;
    SELECT a.verdict, a.gate INTO adm FROM admissions a WHERE a.tenant_id = tenant AND a.gate = row_gate AND a.epoch = for_epoch AND a.seq = for_seq
      AND a.event_id = row_event AND a.ticket_id = row_ticket AND a.granted AND (for_hash IS NULL OR a.hash8 = hash8_of(for_hash)) AND a.units = 1 AND a.outcome = 'open' AND a.verdict IS NOT NULL AND a.word_1 IS NULL AND a.words IS NULL AND a.word_all IS NULL;
    IF NOT FOUND THEN RETURN NULL; END IF;
    -- Nobody is given back a place: no verdict can change.
    word := outcome_rank_of_passage(row_outcome);
    uncertain_more := CASE row_outcome WHEN 'passed' THEN -1 ELSE 0 END;
    UPDATE admissions a SET word_1 = CASE WHEN for_unit = 1 THEN word END, word_all = CASE WHEN for_unit IS NULL THEN word END, outcome = row_outcome, units_uncertain = a.units_uncertain + uncertain_more
    WHERE a.tenant_id = tenant AND a.gate = row_gate AND a.epoch = for_epoch AND a.seq = for_seq;
  END IF;

  UPDATE boots b SET last_epoch = CASE WHEN (row_epoch, row_seq) > (b.last_epoch, b.last_seq) THEN row_epoch ELSE b.last_epoch END, last_seq = CASE WHEN (row_epoch, row_seq) > (b.last_epoch, b.last_seq) THEN row_seq ELSE b.last_seq END,
    min_boottime_ms = least(b.min_boottime_ms, boottime), max_boottime_ms = greatest(b.max_boottime_ms, boottime) WHERE b.tenant_id = tenant AND b.gate = row_gate AND b.boot_id = row_boot;
  INSERT INTO ledger_lines (tenant_id, gate, epoch, seq, kind, readable, hash, entry, at, event_id, ticket_id)
  VALUES (tenant, row_gate, row_epoch, row_seq, row_kind, true, row_hash, row_entry, time_of_ms(coalesce(row_offset, boot.offset_ms) + boottime), row_event, row_ticket);
  UPDATE ledger_epochs e SET stored = e.stored + int8multirange(int8range(row_seq, row_seq, '[]')), upto_seq = row_seq, upto_hash = row_hash, last_row_at = now() WHERE e.tenant_id = tenant AND e.gate = row_gate AND e.epoch = row_epoch;

  IF row_kind = 'grant' THEN
    -- As copy_usage_to_tickets.
    UPDATE tickets t SET scan_count = 1, first_scanned_at = placed_at, last_scanned_at = placed_at,
      status = CASE WHEN t.status IN ('sold', 'minted', 'active', 'transferred') THEN 'checked_in' ELSE t.status END,
      status_before_entry = CASE WHEN t.status IN ('sold', 'minted', 'active', 'transferred') THEN t.status ELSE t.status_before_entry END,
      status_changed_at = CASE WHEN t.status IN ('sold', 'minted', 'active', 'transferred') THEN now() ELSE t.status_changed_at END,
      status_changed_by = CASE WHEN t.status IN ('sold', 'minted', 'active', 'transferred') THEN context_of('current_user_id') ELSE t.status_changed_by END,
      status_reason = CASE WHEN t.status IN ('sold', 'minted', 'active', 'transferred') THEN context_of('status_change_reason') ELSE t.status_reason END
    WHERE t.tenant_id = tenant AND t.event_id = row_event AND t.ticket_id = row_ticket RETURNING t.rights_lost_at INTO lost_at;
    IF NOT FOUND THEN PERFORM record_unknown_tickets(ARRAY[row_event], ARRAY[row_ticket]); END IF;
    UPDATE gate_counts c SET grants = c.grants + 1, winners = c.winners + 1, entered = c.entered + 1, uncertain = c.uncertain + 1 WHERE c.tenant_id = tenant AND c.gate = row_gate AND c.event_id = row_event;
    IF NOT FOUND THEN PERFORM add_counts(ARRAY[ROW(row_gate, row_event, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0)::count_delta]); END IF;
    -- A first entry of a ticket that had lost its right: an entry, and a conflict.
    IF lost_at IS NOT NULL THEN PERFORM add_counts(store_verdicts(ARRAY[row_event], ARRAY[row_ticket])); END IF;
  ELSIF uncertain_more <> 0 THEN
    UPDATE gate_counts c SET uncertain = c.uncertain + uncertain_more WHERE c.tenant_id = tenant AND c.gate = row_gate AND c.event_id = row_event;
  END IF;
  RETURN '{"stored": 1, "duplicates": 0, "forked": [], "breaks": [], "apart": []}'::jsonb;
END
$$;
