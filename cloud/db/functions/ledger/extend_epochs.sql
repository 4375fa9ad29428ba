-- Adds runs of rows to what is stored of their epochs, and moves the prefix: upto_seq passes over stored rows and places that are gone; upto_hash is the hash of its row.
CREATE OR REPLACE FUNCTION extend_epochs(run_gates text[], run_epochs bigint[], run_lows bigint[], run_highs bigint[], last_hashes bytea[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan SET enable_nestloop = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
BEGIN
  UPDATE ledger_epochs e SET stored = m.stored, gone = e.gone - m.fresh, upto_seq = m.upto_seq, last_row_at = now(),
    upto_hash = CASE WHEN m.upto_seq = e.upto_seq THEN e.upto_hash ELSE coalesce(m.last_hash, stored_hash(m.gate, m.epoch, m.upto_seq)) END
  FROM (
    SELECT p.*, (SELECT last_hashes[i] FROM generate_subscripts(run_highs, 1) AS i WHERE run_gates[i] = p.gate AND run_epochs[i] = p.epoch AND run_highs[i] = p.upto_seq LIMIT 1) AS last_hash FROM (
      SELECT g.gate, g.epoch, g.fresh, s.stored + g.fresh AS stored, CASE WHEN s.stored + g.fresh + s.gone @> 1::bigint THEN (SELECT upper(r) - 1 FROM unnest(s.stored + g.fresh + s.gone) AS r ORDER BY r LIMIT 1) ELSE 0 END AS upto_seq
      FROM (SELECT r.gate, r.epoch, range_agg(int8range(r.low, r.high, '[]')) AS fresh FROM unnest(run_gates, run_epochs, run_lows, run_highs) AS r (gate, epoch, low, high) GROUP BY r.gate, r.epoch) AS g
      CROSS JOIN LATERAL (SELECT x.stored, x.gone FROM ledger_epochs x WHERE x.tenant_id = tenant AND x.gate = g.gate AND x.epoch = g.epoch LIMIT 1) AS s OFFSET 0) AS p) AS m
  WHERE e.tenant_id = tenant AND e.gate = m.gate AND e.epoch = m.epoch AND e.gate = ANY (run_gates);
END
$$;
