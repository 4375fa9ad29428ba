CREATE OR REPLACE FUNCTION outcome_of_rank(word bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN word IS NULL OR word = 0 THEN 'open' WHEN word > 4 THEN CASE word & 1 WHEN 1 THEN 'passed' ELSE 'returned' END
    ELSE (ARRAY['unknown', 'stuck', 'returned', 'passed'])[word] END
$$;
