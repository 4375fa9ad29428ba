-- Returns what is stored of these ledgers, of every epoch up to a bound, the newest first where there are more: upto_seq with its hash, the highest place that is held,
-- the gaps above upto_seq, and the places that are gone, the lowest first.
CREATE OR REPLACE FUNCTION ledger_acks(gates text[], max_epochs integer, max_ranges integer) RETURNS TABLE (gate text, epoch bigint, upto_seq bigint, hash text, last bigint, missing jsonb, gone jsonb) LANGUAGE plpgsql STABLE
  SET plan_cache_mode = force_generic_plan SET jit = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT e.gate, e.epoch, e.upto_seq, encode(e.upto_hash, 'hex'), greatest(coalesce(upper(e.stored) - 1, 0), e.upto_seq),
    coalesce((SELECT jsonb_agg(jsonb_build_array(lower(m.gap), upper(m.gap) - 1) ORDER BY m.gap) FROM (
      SELECT gap FROM unnest(int8multirange(int8range(1, upper(e.stored))) - e.stored - e.gone) AS gap ORDER BY gap LIMIT max_ranges) AS m WHERE NOT isempty(e.stored)), '[]'),
    coalesce((SELECT jsonb_agg(jsonb_build_array(lower(m.gap), upper(m.gap) - 1) ORDER BY m.gap) FROM (SELECT gap FROM unnest(e.gone) AS gap ORDER BY gap LIMIT max_ranges) AS m), '[]')
  FROM unnest(gates) AS g CROSS JOIN LATERAL (
    SELECT x.* FROM ledger_epochs x WHERE x.tenant_id = current_tenant_id() AND x.gate = g AND NOT (isempty(x.stored) AND isempty(x.gone)) ORDER BY x.epoch DESC LIMIT max_epochs) AS e
  ORDER BY e.gate, e.epoch;
END
$$;
