-- Puts one grant, or the word on one, to the admission of its original. An admission has the place of the original where that is stored; else that of the gate's own
-- repetition of the lowest (epoch, seq); else that of one which a person admitted. Under the lock of its ticket. Answers what is taken off the sums: an
-- admission that moves is judged anew.
CREATE OR REPLACE FUNCTION place_admission(g ledger_grant) RETURNS count_delta[] LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
  o_gate text := coalesce(g.original_gate, g.gate);
  o_epoch bigint := coalesce(g.original_epoch, g.epoch);
  o_seq bigint := coalesce(g.original_seq, g.seq);
  cur admissions;
  there boolean;
  better boolean;
  deltas count_delta[] := '{}';
BEGIN
  SELECT a.* INTO cur FROM admissions a WHERE a.tenant_id = tenant AND a.gate = o_gate AND a.epoch = o_epoch AND a.seq = o_seq AND a.original_gate IS NULL AND (a.hash8 = g.hash8 OR a.hash8 = 0 OR g.hash8 = 0) FOR UPDATE;
  there := FOUND;
  IF NOT there THEN
    SELECT a.* INTO cur FROM admissions a WHERE a.tenant_id = tenant AND a.original_gate = o_gate AND a.original_epoch = o_epoch AND a.original_seq = o_seq AND (a.hash8 = g.hash8 OR g.hash8 = 0) LIMIT 1 FOR UPDATE;
    there := FOUND;
  END IF;
  IF NOT g.granted THEN
    IF NOT there THEN
      -- Beside another row that has its place, a word waits under a place that no row has.
      IF EXISTS (SELECT FROM admissions a WHERE a.tenant_id = tenant AND a.gate = o_gate AND a.epoch = o_epoch AND a.seq = o_seq) THEN
        INSERT INTO admissions (tenant_id, gate, epoch, seq, event_id, ticket_id, hash8, word_1, words, word_all, original_gate, original_epoch, original_seq)
        VALUES (tenant, o_gate, -o_epoch, g.hash8, g.event_id, g.ticket_id, g.hash8, g.word_1, g.words, g.word_all, o_gate, o_epoch, o_seq);
      ELSE
        INSERT INTO admissions (tenant_id, gate, epoch, seq, event_id, ticket_id, hash8, word_1, words, word_all)
        VALUES (tenant, o_gate, o_epoch, o_seq, g.event_id, g.ticket_id, g.hash8, g.word_1, g.words, g.word_all);
      END IF;
      RETURN deltas;
    END IF;
  ELSE
    -- Does the row take the admission's place? The original before all, then the gate's own, then the lowest.
    better := NOT there OR NOT cur.granted
      OR (g.original_gate IS NOT NULL, g.gate IS DISTINCT FROM o_gate, g.epoch, g.seq) < (cur.original_gate IS NOT NULL, cur.gate IS DISTINCT FROM o_gate, cur.epoch, cur.seq);
    IF better THEN
      -- A word on another row waits at the place that this row has: it moves aside.
      UPDATE admissions a SET epoch = -a.epoch, seq = a.hash8, original_gate = a.gate, original_epoch = a.epoch, original_seq = a.seq
      WHERE a.tenant_id = tenant AND a.gate = g.gate AND a.epoch = g.epoch AND a.seq = g.seq AND NOT a.granted AND (NOT there OR (a.gate, a.epoch, a.seq) <> (cur.gate, cur.epoch, cur.seq));
      IF there THEN
        IF cur.verdict IS NOT NULL THEN deltas := ARRAY[counts_of(cur.gate, cur.event_id, -1, cur.verdict, cur.direction, cur.units_used, cur.units_uncertain)]; END IF;
        UPDATE admissions a SET gate = g.gate, epoch = g.epoch, seq = g.seq, event_id = g.event_id, ticket_id = g.ticket_id, granted = true, ticket_ref = g.ticket_ref, direction = g.direction, units = g.units, manifest_version = g.manifest_version,
          boot_no = g.boot_no, boottime_ms = g.boottime_ms, ts = g.ts, at_low = g.at_low, at = g.at, at_high = g.at_high, placed = g.placed,
          hash8 = g.hash8, original_gate = g.original_gate, original_epoch = g.original_epoch, original_seq = g.original_seq, scanner = CASE WHEN g.gate <> o_gate THEN o_gate ELSE a.scanner END,
          units_used = 0, units_uncertain = 0, outcome = NULL, verdict = NULL, cause = NULL, overlapping = false,
          word_1 = greatest(a.word_1, g.word_1), words = outcome_rank_merge(a.words, g.words), word_all = greatest(a.word_all, g.word_all)
        WHERE a.tenant_id = tenant AND a.gate = cur.gate AND a.epoch = cur.epoch AND a.seq = cur.seq;
      ELSE
        INSERT INTO admissions (tenant_id, gate, epoch, seq, event_id, ticket_id, granted, ticket_ref, direction, units, manifest_version, boot_no, boottime_ms, ts, at_low, at, at_high, placed,
          hash8, word_1, words, word_all, original_gate, original_epoch, original_seq, scanner)
        VALUES (tenant, g.gate, g.epoch, g.seq, g.event_id, g.ticket_id, true, g.ticket_ref, g.direction, g.units, g.manifest_version, g.boot_no, g.boottime_ms, g.ts, g.at_low, g.at, g.at_high, g.placed,
          g.hash8, g.word_1, g.words, g.word_all, g.original_gate, g.original_epoch, g.original_seq, CASE WHEN g.gate <> o_gate THEN o_gate END);
      END IF;
      RETURN deltas;
    END IF;
  END IF;
  UPDATE admissions a SET hash8 = CASE WHEN a.hash8 = 0 THEN g.hash8 ELSE a.hash8 END, word_1 = greatest(a.word_1, g.word_1), words = outcome_rank_merge(a.words, g.words), word_all = greatest(a.word_all, g.word_all)
  WHERE a.tenant_id = tenant AND a.gate = cur.gate AND a.epoch = cur.epoch AND a.seq = cur.seq;
  RETURN deltas;
END
$$;
