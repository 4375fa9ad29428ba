-- Closes forked rows whose original is counted now: by rows that were stored just now, which are originals or stand for one.
CREATE OR REPLACE FUNCTION close_forked_rows(of_gates text[], of_epochs bigint[], of_seqs bigint[], of_hashes bytea[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  ledgers_of text[];
BEGIN
  WITH closed AS (
    UPDATE forked_rows f SET closed = 'counted', closed_at = now() FROM unnest(of_gates, of_epochs, of_seqs, of_hashes) AS o (gate, epoch, seq, hash)
    WHERE f.tenant_id = current_tenant_id() AND f.of_gate = o.gate AND f.of_epoch = o.epoch AND f.of_seq = o.seq AND f.of_hash = o.hash AND f.closed IS NULL RETURNING f.gate
  )
  SELECT array_agg(DISTINCT c.gate) INTO ledgers_of FROM closed c;
  IF ledgers_of IS NOT NULL THEN PERFORM tell_of_forked_rows(ledgers_of); END IF;
END
$$;
