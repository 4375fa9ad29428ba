CREATE OR REPLACE FUNCTION outcome_rank_of_settlement(epoch bigint, seq bigint, outcome text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (least(epoch, 4294967295) << 31) + (least(seq, 1073741823) << 1) + CASE outcome WHEN 'passed' THEN 1 ELSE 0 END
$$;
