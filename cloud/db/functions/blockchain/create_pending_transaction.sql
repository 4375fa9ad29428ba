-- The same signature again answers the same row. Refuses while another transaction of the ticket is open.
CREATE OR REPLACE FUNCTION create_pending_transaction(ticket text, signature text, type text, event text DEFAULT NULL, blockhash text DEFAULT NULL, last_valid_block_height bigint DEFAULT NULL, payload jsonb DEFAULT '{}', max_retries integer DEFAULT 5) RETURNS pending_transactions LANGUAGE plpgsql AS $$
DECLARE
  t tickets;
  made pending_transactions;
BEGIN
  IF ticket IS NOT NULL THEN t := find_ticket(ticket, event); END IF;
  IF type IS NULL OR type NOT IN ('mint', 'transfer', 'burn', 'metadata_update', 'verify') THEN PERFORM refuse(400, 'BAD_REQUEST', format('a transaction is mint, transfer, burn, metadata_update or verify, not %s', coalesce(type, 'nothing'))); END IF;
  -- One that the chain cannot take any more makes room.
  IF ticket IS NOT NULL AND NOT EXISTS (SELECT FROM pending_transactions x WHERE x.tenant_id = current_tenant_id() AND x.tx_signature = signature) THEN PERFORM expire_transactions(NULL, 10, t.event_id, ticket); END IF;
  BEGIN
    INSERT INTO pending_transactions (tenant_id, event_id, ticket_id, tx_signature, tx_type, blockhash, last_valid_block_height, payload, max_retries)
    VALUES (current_tenant_id(), t.event_id, ticket, signature, type, create_pending_transaction.blockhash, create_pending_transaction.last_valid_block_height, create_pending_transaction.payload, create_pending_transaction.max_retries)
    ON CONFLICT (tenant_id, tx_signature) DO NOTHING RETURNING * INTO made;
  EXCEPTION WHEN unique_violation THEN PERFORM refuse(409, 'NOT_ALLOWED', format('ticket %s has a transaction that is not settled', ticket));
  END;
  IF made.id IS NULL THEN
    SELECT * INTO made FROM pending_transactions x WHERE x.tenant_id = current_tenant_id() AND x.tx_signature = signature;
    IF (made.ticket_id, made.tx_type) IS DISTINCT FROM (ticket, type) THEN PERFORM refuse(409, 'CONFLICT', 'this signature is of another transaction'); END IF;
    RETURN made;
  END IF;
  INSERT INTO blockchain_sync_log (tenant_id, tx_signature, event_id, ticket_id, what, detail) VALUES (made.tenant_id, signature, made.event_id, made.ticket_id, 'submitted', jsonb_build_object('type', type));
  RETURN made;
END
$$;
