CREATE OR REPLACE FUNCTION outcome_rank_merge(a bigint[], b bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN a IS NULL OR a = '{}' THEN b WHEN b IS NULL OR b = '{}' THEN a ELSE
    (SELECT outcome_rank_strongest(w.unit, w.word) FROM (
      SELECT i AS unit, a[i] AS word FROM generate_subscripts(a, 1) AS i WHERE a[i] IS NOT NULL
      UNION ALL SELECT i, b[i] FROM generate_subscripts(b, 1) AS i WHERE b[i] IS NOT NULL) AS w) END
$$;
