-- Returns, for each row (own place and the original that it stands for), whether the account holds its original already, by the original or by a row that
-- repeats it; of the rows given, all but the first of one original are held by the first.
CREATE OR REPLACE FUNCTION identities_held(gates text[], epochs bigint[], seqs bigint[], hashes bytea[], again_gates text[], again_epochs bigint[], again_seqs bigint[], again_hashes bytea[]) RETURNS boolean[] LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN (
    SELECT array_agg(row_number > 1
      OR EXISTS (SELECT FROM ledger_agains a WHERE a.tenant_id = current_tenant_id() AND a.of_gate = o.gate AND a.of_epoch = o.epoch AND a.of_seq = o.seq AND a.of_hash = o.hash)
      OR (o.again AND EXISTS (SELECT FROM ledger_epochs e WHERE e.tenant_id = current_tenant_id() AND e.gate = o.gate AND e.epoch = o.epoch AND e.stored @> o.seq) AND stored_hash(o.gate, o.epoch, o.seq) = o.hash) ORDER BY o.i)
    FROM (
      SELECT x.*, row_number() OVER (PARTITION BY x.gate, x.epoch, x.seq, x.hash ORDER BY x.i) AS row_number FROM (
        SELECT i, again_gates[i] IS NOT NULL AS again, coalesce(again_gates[i], gates[i]) AS gate, coalesce(again_epochs[i], epochs[i]) AS epoch, coalesce(again_seqs[i], seqs[i]) AS seq, coalesce(again_hashes[i], hashes[i]) AS hash
        FROM generate_series(1, cardinality(gates)) AS i) AS x) AS o);
END
$$;
