-- Returns where a ledger that the cloud writes goes on: its epoch, its last row and that row's hash; under the ledger's lock. A new epoch begins where there is none, in
-- a new life of the database, and where the hash of the last row is not known: above every epoch that is stored here or that a gate showed.
CREATE OR REPLACE FUNCTION cloud_ledger_tail(in_ledger text, OUT epoch bigint, OUT seq bigint, OUT hash text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  tenant uuid := current_tenant_id();
  now_life uuid := (SELECT l.life FROM database_lives l WHERE l.ended_at IS NULL);
  seen bigint := (SELECT l.seen_epoch FROM ledgers l WHERE l.tenant_id = tenant AND l.gate = in_ledger);
  tail record;
BEGIN
  SELECT e.epoch, e.upto_seq, e.upto_hash, e.life INTO tail FROM ledger_epochs e WHERE e.tenant_id = tenant AND e.gate = in_ledger ORDER BY e.epoch DESC LIMIT 1;
  IF tail.epoch IS NOT NULL AND tail.life = now_life AND tail.epoch >= coalesce(seen, 0) AND (tail.upto_seq = 0 OR tail.upto_hash IS NOT NULL) THEN
    epoch := tail.epoch; seq := tail.upto_seq; hash := encode(tail.upto_hash, 'hex');
    RETURN;
  END IF;
  epoch := greatest(coalesce(tail.epoch, 0) + 1, coalesce(seen, 0) + 1, floor(extract(epoch FROM clock_timestamp()))::bigint + 1);
  seq := 0;
  INSERT INTO ledger_epochs AS e (tenant_id, gate, epoch, life) VALUES (tenant, in_ledger, epoch, now_life) ON CONFLICT DO NOTHING;
END
$$;
