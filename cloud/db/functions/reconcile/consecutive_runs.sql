-- Rows of one ledger that follow each other, in the order in which they are given, with the places of the first and the last. Rows that are there twice are in two runs.
CREATE OR REPLACE FUNCTION consecutive_runs(gates text[], epochs bigint[], seqs bigint[]) RETURNS TABLE (gate text, epoch bigint, low bigint, high bigint, first integer, last integer) LANGUAGE sql STABLE AS $$
  SELECT gates[b.first], epochs[b.first], seqs[b.first], seqs[b.last], b.first, b.last FROM (
    SELECT i AS first, lead(i, 1, cardinality(seqs) + 1) OVER (ORDER BY i) - 1 AS last FROM generate_series(1, cardinality(seqs)) AS i
    WHERE i = 1 OR gates[i] <> gates[i - 1] OR epochs[i] <> epochs[i - 1] OR seqs[i] <> seqs[i - 1] + 1) AS b
$$;
