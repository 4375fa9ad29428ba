-- Adds to the sums of gates what their rows say that is nobody's ticket: refusals, and passages without one. sign -1: takes it off. counted: which rows count
-- (NULL: all); of two rows with one original only one does.
CREATE OR REPLACE FUNCTION sum_columns(sign integer, gates text[], kinds text[], readables boolean[], event_ids text[], ticket_ids text[], directions text[], of_seqs bigint[], outcomes text[], counted boolean[]) RETURNS count_delta[] LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan SET enable_nestloop = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
  n integer := cardinality(gates);
  deltas count_delta[];
BEGIN
  SELECT array_agg(ROW(c.gate, c.event_id, 0, 0, 0, 0, 0, 0, 0, 0, 0, sign * c.free, sign * c.forced, sign * c.overrides, sign * c.refusals)::count_delta) INTO deltas FROM (
    SELECT gates[i] AS gate, coalesce(event_ids[i], '') AS event_id, count(*) FILTER (WHERE kinds[i] = 'refusal') AS refusals, count(*) FILTER (WHERE kinds[i] = 'passage' AND outcomes[i] = 'free') AS free,
      count(*) FILTER (WHERE kinds[i] = 'passage' AND outcomes[i] = 'forced') AS forced, count(*) FILTER (WHERE kinds[i] = 'passage' AND of_seqs[i] IS NOT NULL AND outcomes[i] NOT IN ('returned', 'free', 'forced')) AS overrides
    FROM generate_series(1, n) AS i WHERE readables[i] AND (kinds[i] = 'refusal' OR (kinds[i] = 'passage' AND ticket_ids[i] IS NULL)) AND (counted IS NULL OR counted[i]) GROUP BY 1, 2) AS c;
  IF deltas IS NULL THEN RETURN '{}'; END IF;
  RETURN deltas;
END
$$;
