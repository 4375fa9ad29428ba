-- Settled on the chain; true the first time. Of a transfer, the transfer is marked; of a mint, the ticket (payload: token_mint).
CREATE OR REPLACE FUNCTION confirm_transaction(signature text, slot bigint, block_time timestamptz DEFAULT now()) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  -- The ticket before the transaction, as everywhere.
  first_look pending_transactions := (SELECT y FROM pending_transactions y WHERE y.tenant_id = current_tenant_id() AND y.tx_signature = signature);
  x pending_transactions;
BEGIN
  IF first_look.tx_type = 'mint' THEN
    PERFORM 1 FROM events e WHERE e.tenant_id = first_look.tenant_id AND e.event_id = first_look.event_id FOR NO KEY UPDATE;
    PERFORM 1 FROM tickets t WHERE t.tenant_id = first_look.tenant_id AND t.event_id = first_look.event_id AND t.ticket_id = first_look.ticket_id FOR NO KEY UPDATE;
  END IF;
  x := lock_pending_transaction(signature);
  IF x.status = 'confirmed' THEN RETURN false; END IF;
  UPDATE pending_transactions y SET status = 'confirmed', slot = confirm_transaction.slot, block_time = confirm_transaction.block_time, confirmed_at = now() WHERE y.tenant_id = x.tenant_id AND y.id = x.id;
  IF x.tx_type = 'mint' AND x.ticket_id IS NOT NULL THEN
    PERFORM set_status_change_context(NULL, 'service', 'minted by ' || signature, 'chain');
    UPDATE tickets t SET is_nft = true, token_mint = coalesce(x.payload ->> 'token_mint', t.token_mint), status = CASE WHEN t.status IN ('available', 'reserved', 'sold') THEN 'minted' ELSE t.status END,
      changed_version = CASE WHEN t.status IN ('available', 'reserved') THEN raise_event_version(t.event_id) ELSE t.changed_version END, row_version = t.row_version + 1, updated_at = now()
    WHERE t.tenant_id = x.tenant_id AND t.event_id = x.event_id AND t.ticket_id = x.ticket_id;
  ELSIF x.tx_type = 'transfer' THEN
    UPDATE ticket_transfers r SET tx_signature = signature, blockchain_confirmed = true, blockchain_confirmed_at = now()
    WHERE r.tenant_id = x.tenant_id AND (r.tx_signature = signature OR r.transfer_id = uuid_or_null(x.payload ->> 'transfer_id'));
  END IF;
  INSERT INTO blockchain_sync_log (tenant_id, tx_signature, event_id, ticket_id, what, detail) VALUES (x.tenant_id, signature, x.event_id, x.ticket_id, 'confirmed', jsonb_build_object('slot', slot));
  RETURN true;
END
$$;
