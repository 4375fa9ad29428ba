-- What is stored of these gates' ledgers, newest epochs first: upto_seq, and the gaps above it, the lowest first. In PL/pgSQL, which keeps its plan: planning
-- takes five times as long as reading.
CREATE OR REPLACE FUNCTION ledger_acks(gates text[], max_epochs integer, max_ranges integer) RETURNS TABLE (gate text, epoch bigint, upto_seq bigint, missing jsonb) LANGUAGE plpgsql STABLE
  SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT e.gate, e.epoch, e.upto_seq,
    coalesce((SELECT jsonb_agg(jsonb_build_array(lower(m.gap), upper(m.gap) - 1) ORDER BY m.gap) FROM (
      SELECT gap FROM unnest(int8multirange(int8range(1, upper(e.stored))) - e.stored) AS gap ORDER BY gap LIMIT max_ranges) AS m WHERE NOT isempty(e.stored)), '[]')
  FROM unnest(gates) AS g CROSS JOIN LATERAL (
    SELECT x.* FROM ledger_epochs x WHERE x.tenant_id = current_tenant_id() AND x.gate = g AND NOT isempty(x.stored) ORDER BY x.epoch DESC LIMIT max_epochs) AS e
  ORDER BY e.gate, e.epoch;
END
$$;
