-- Keeps rows that do not follow: whole, counted nowhere. A row whose original is in the account is closed at once. One alert a ledger. Answers how many are new.
CREATE OR REPLACE FUNCTION keep_forked_rows(gates text[], epochs bigint[], seqs bigint[], hashes bytea[], kinds text[], entries text[], again_gates text[], again_epochs bigint[], again_seqs bigint[], again_hashes bytea[]) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  -- Rows of one ledger here; further ones are only counted in the alert, and their gate goes on sending them.
  max_rows CONSTANT bigint := 200000;
  added integer;
BEGIN
  WITH given AS (
    SELECT DISTINCT ON (gates[i], epochs[i], seqs[i], hashes[i]) gates[i] AS gate, epochs[i] AS epoch, seqs[i] AS seq, hashes[i] AS hash, kinds[i] AS kind, entries[i] AS entry,
      coalesce(again_gates[i], gates[i]) AS of_gate, coalesce(again_epochs[i], epochs[i]) AS of_epoch, coalesce(again_seqs[i], seqs[i]) AS of_seq, coalesce(again_hashes[i], hashes[i]) AS of_hash
    FROM generate_series(1, cardinality(gates)) AS i ORDER BY gates[i], epochs[i], seqs[i], hashes[i]
  ), kept AS (
    INSERT INTO forked_rows AS f (tenant_id, gate, epoch, seq, hash, of_gate, of_epoch, of_seq, of_hash, kind, entry, closed, closed_at)
    SELECT tenant, g.gate, g.epoch, g.seq, g.hash, g.of_gate, g.of_epoch, g.of_seq, g.of_hash, g.kind, g.entry, CASE WHEN c.counted THEN 'counted' END, CASE WHEN c.counted THEN now() END
    FROM given g JOIN ledgers l ON l.tenant_id = tenant AND l.gate = g.gate AND l.forks < max_rows
    CROSS JOIN LATERAL (SELECT original_counted(g.of_gate, g.of_epoch, g.of_seq, g.of_hash) AS counted) AS c
    ON CONFLICT (tenant_id, gate, epoch, seq, hash) DO UPDATE SET times = f.times + 1, last_at = now() RETURNING f.gate, f.xmax::text = '0' AS fresh
  ), counted AS (
    UPDATE ledgers l SET forks = l.forks + k.fresh FROM (SELECT x.gate, count(*) AS fresh FROM kept x WHERE x.fresh GROUP BY x.gate) AS k WHERE l.tenant_id = tenant AND l.gate = k.gate RETURNING k.fresh
  )
  SELECT coalesce(sum(c.fresh), 0) INTO added FROM counted c;
  PERFORM tell_of_forked_rows(ARRAY(SELECT DISTINCT g FROM unnest(gates) AS g));
  RETURN added;
END
$$;
