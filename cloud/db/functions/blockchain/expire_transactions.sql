-- Ends open transactions that the chain cannot take any more; answers how many. at_height: the chain's block height, where the caller knows it. Without it: below
-- what a confirmed transaction proves (it was within 150 blocks of its own last valid height), and after a day in any case, for a blockhash lives for minutes.
-- of_ticket: only this ticket's, which become `replaced`, for another transaction takes their place; else `expired`.
CREATE OR REPLACE FUNCTION expire_transactions(at_height bigint DEFAULT NULL, at_most integer DEFAULT 1000, of_event text DEFAULT NULL, of_ticket text DEFAULT NULL) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  height bigint := coalesce(at_height, (SELECT max(x.last_valid_block_height) - 150 FROM pending_transactions x WHERE x.tenant_id = tenant AND x.status = 'confirmed'));
  ended text := CASE WHEN of_ticket IS NULL THEN 'expired' ELSE 'replaced' END;
  gone integer;
BEGIN
  WITH over AS (
    UPDATE pending_transactions x SET status = ended WHERE x.tenant_id = tenant AND x.id IN (
      SELECT y.id FROM pending_transactions y WHERE y.tenant_id = tenant AND y.status IN ('pending', 'confirming') AND (y.last_valid_block_height < height OR y.submitted_at < now() - interval '1 day')
        AND (of_ticket IS NULL OR (y.event_id = of_event AND y.ticket_id = of_ticket)) ORDER BY y.submitted_at LIMIT at_most FOR UPDATE SKIP LOCKED)
    RETURNING x.*
  )
  INSERT INTO blockchain_sync_log (tenant_id, tx_signature, event_id, ticket_id, what, detail)
  SELECT o.tenant_id, o.tx_signature, o.event_id, o.ticket_id, ended, jsonb_build_object('type', o.tx_type, 'last_valid_block_height', o.last_valid_block_height, 'height', height) FROM over o;
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN gone;
END
$$;
