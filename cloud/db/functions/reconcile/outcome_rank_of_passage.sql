-- Ranks of words. A settlement outranks every passage, and a later settlement an earlier one; odd: passed, even: returned.
CREATE OR REPLACE FUNCTION outcome_rank_of_passage(outcome text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE outcome WHEN 'unknown' THEN 1 WHEN 'stuck' THEN 2 WHEN 'returned' THEN 3 WHEN 'passed' THEN 4 END
$$;
