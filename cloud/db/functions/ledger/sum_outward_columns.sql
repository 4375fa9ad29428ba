-- Of the passages that are nobody's ticket, those outwards: after add_counts, which locks these rows.
CREATE OR REPLACE FUNCTION sum_outward_columns(sign integer, gates text[], kinds text[], readables boolean[], event_ids text[], ticket_ids text[], directions text[], of_seqs bigint[], outcomes text[], counted boolean[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan SET enable_nestloop = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  INSERT INTO gate_counts AS c (tenant_id, gate, event_id, free_out, forced_out, overrides_out)
  SELECT current_tenant_id(), o.gate, o.event_id, sign * o.free, sign * o.forced, sign * o.overrides FROM (
    SELECT gates[i] AS gate, coalesce(event_ids[i], '') AS event_id, count(*) FILTER (WHERE outcomes[i] = 'free') AS free, count(*) FILTER (WHERE outcomes[i] = 'forced') AS forced,
      count(*) FILTER (WHERE of_seqs[i] IS NOT NULL AND outcomes[i] NOT IN ('returned', 'free', 'forced')) AS overrides
    FROM generate_series(1, cardinality(gates)) AS i WHERE readables[i] AND kinds[i] = 'passage' AND ticket_ids[i] IS NULL AND directions[i] = 'out' AND (counted IS NULL OR counted[i]) GROUP BY 1, 2) AS o
  WHERE o.free + o.forced + o.overrides > 0 ORDER BY o.gate, o.event_id
  ON CONFLICT (tenant_id, gate, event_id) DO UPDATE SET free_out = c.free_out + excluded.free_out, forced_out = c.forced_out + excluded.forced_out, overrides_out = c.overrides_out + excluded.overrides_out;
END
$$;
