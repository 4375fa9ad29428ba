CREATE OR REPLACE FUNCTION grant_state(units integer, word_1 bigint, words bigint[], word_all bigint) RETURNS grant_sum LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  total grant_sum := ROW(0, 0, 'passed');
  o text;
BEGIN
  FOR u IN 1 .. units LOOP
    o := outcome_of_rank(greatest(CASE u WHEN 1 THEN word_1 ELSE words[u] END, word_all));
    CONTINUE WHEN o = 'returned';
    total.used := total.used + 1;
    CONTINUE WHEN o = 'passed';
    total.uncertain := total.uncertain + 1;
    IF o = 'open' OR total.outcome = 'passed' OR (o = 'unknown' AND total.outcome = 'stuck') THEN total.outcome := o; END IF;
  END LOOP;
  IF total.used = 0 THEN total.outcome := 'returned'; END IF;
  RETURN total;
END
$$;
