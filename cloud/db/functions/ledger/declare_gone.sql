-- Records places that a gate pruned before they were stored: [epoch, from, to] with the hash of `to` where the gate still knows it. The prefix passes over them. A
-- declaration that the row stored behind it contradicts is left out: it speaks of another copy of the store.
CREATE OR REPLACE FUNCTION declare_gone(of_gate text, epochs bigint[], lows bigint[], highs bigint[], hashes bytea[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
BEGIN
  INSERT INTO ledgers (tenant_id, gate, site_id) VALUES (tenant, of_gate, split_part(of_gate, '/', 1)) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM ledgers l WHERE l.tenant_id = tenant AND l.gate = of_gate FOR UPDATE;
  INSERT INTO ledger_epochs (tenant_id, gate, epoch) SELECT DISTINCT tenant, of_gate, e FROM unnest(epochs) AS e ON CONFLICT DO NOTHING;
  FOR i IN 1 .. coalesce(cardinality(epochs), 0) LOOP
    CONTINUE WHEN EXISTS (SELECT FROM ledger_epochs e WHERE e.tenant_id = tenant AND e.gate = of_gate AND e.epoch = epochs[i] AND e.stored @> int8range(lows[i], highs[i], '[]'));
    CONTINUE WHEN hashes[i] IS NOT NULL AND (NOT stored_row_follows(of_gate, epochs[i], highs[i] + 1, hashes[i]) OR stored_hash(of_gate, epochs[i], highs[i]) <> hashes[i]);
    UPDATE ledger_epochs e SET gone = e.gone + (int8multirange(int8range(lows[i], highs[i], '[]')) - e.stored) WHERE e.tenant_id = tenant AND e.gate = of_gate AND e.epoch = epochs[i];
    IF hashes[i] IS NOT NULL THEN
      INSERT INTO ledger_gone (tenant_id, gate, epoch, seq, hash) SELECT tenant, of_gate, epochs[i], highs[i], hashes[i]
      WHERE NOT EXISTS (SELECT FROM ledger_epochs e WHERE e.tenant_id = tenant AND e.gate = of_gate AND e.epoch = epochs[i] AND e.stored @> highs[i]) ON CONFLICT DO NOTHING;
    END IF;
  END LOOP;
  UPDATE ledger_epochs e SET upto_seq = m.upto_seq, upto_hash = stored_hash(of_gate, e.epoch, m.upto_seq) FROM (
    SELECT x.epoch, (SELECT upper(r) - 1 FROM unnest(x.stored + x.gone) AS r ORDER BY r LIMIT 1) AS upto_seq FROM ledger_epochs x
    WHERE x.tenant_id = tenant AND x.gate = of_gate AND x.epoch = ANY (epochs) AND x.stored + x.gone @> 1::bigint) AS m
  WHERE e.tenant_id = tenant AND e.gate = of_gate AND e.epoch = m.epoch AND e.upto_seq <> m.upto_seq;
END
$$;
