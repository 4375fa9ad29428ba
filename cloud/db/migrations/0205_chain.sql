-- A blockchain beside the ledger of rights: what was sent to it, what came of it. Nothing here decides who may enter.

CREATE TABLE pending_transactions (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text,
  ticket_id text,
  tx_signature text NOT NULL CHECK (tx_signature <> ''),
  tx_type text NOT NULL CHECK (tx_type IN ('mint', 'transfer', 'burn', 'metadata_update', 'verify')),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'confirming', 'confirmed', 'failed', 'expired', 'replaced')),
  blockhash text,
  last_valid_block_height bigint CHECK (last_valid_block_height >= 0),
  slot bigint CHECK (slot >= 0),
  block_time timestamptz,
  error_code text,
  error_message text,
  retry_count integer NOT NULL DEFAULT 0 CHECK (retry_count >= 0),
  max_retries integer NOT NULL DEFAULT 5 CHECK (max_retries >= 0),
  last_retry_at timestamptz,
  payload jsonb NOT NULL DEFAULT '{}',
  submitted_at timestamptz NOT NULL DEFAULT now(),
  confirmed_at timestamptz,
  row_version bigint NOT NULL DEFAULT 1,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id),
  UNIQUE (tenant_id, tx_signature),
  CHECK (retry_count <= max_retries)
);
CREATE INDEX pending_transactions_open ON pending_transactions (tenant_id, status, submitted_at) WHERE status IN ('pending', 'confirming');
-- One at a time for a ticket.
CREATE UNIQUE INDEX pending_transactions_one_open ON pending_transactions (tenant_id, event_id, ticket_id) WHERE status IN ('pending', 'confirming') AND ticket_id IS NOT NULL AND tx_type <> 'verify';

CREATE TABLE blockchain_sync_log (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  tx_signature text,
  event_id text,
  ticket_id text,
  what text NOT NULL CHECK (what IN ('submitted', 'confirmed', 'failed', 'retried', 'mismatch')),
  detail jsonb NOT NULL DEFAULT '{}',
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id)
);
CREATE INDEX blockchain_sync_log_by_signature ON blockchain_sync_log (tenant_id, tx_signature);

CREATE FUNCTION pending_transaction_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.status <> OLD.status AND NOT NEW.status = ANY (CASE OLD.status WHEN 'pending' THEN '{confirming,confirmed,failed,expired,replaced}' WHEN 'confirming' THEN '{confirmed,failed,expired,replaced}' ELSE '{}' END::text[]) THEN
    PERFORM refuse(409, 'NOT_ALLOWED', format('transaction %s is %s: it cannot become %s', NEW.tx_signature, OLD.status, NEW.status));
  END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
CREATE TRIGGER pending_transactions_change BEFORE UPDATE ON pending_transactions FOR EACH ROW EXECUTE FUNCTION pending_transaction_change();
SELECT isolate_by_tenant(tab) FROM unnest(ARRAY['pending_transactions', 'blockchain_sync_log']::regclass[]) AS tab;
REVOKE UPDATE, DELETE ON blockchain_sync_log FROM stile_service;
REVOKE DELETE ON pending_transactions FROM stile_service;

-- The same signature again answers the same row. Refuses while another transaction of the ticket is open.
CREATE FUNCTION create_pending_transaction(ticket text, signature text, type text, event text DEFAULT NULL, blockhash text DEFAULT NULL, last_valid_block_height bigint DEFAULT NULL, payload jsonb DEFAULT '{}', max_retries integer DEFAULT 5) RETURNS pending_transactions LANGUAGE plpgsql AS $$
DECLARE
  t tickets;
  made pending_transactions;
BEGIN
  IF ticket IS NOT NULL THEN t := find_ticket(ticket, event); END IF;
  IF type IS NULL OR type NOT IN ('mint', 'transfer', 'burn', 'metadata_update', 'verify') THEN PERFORM refuse(400, 'BAD_REQUEST', format('a transaction is mint, transfer, burn, metadata_update or verify, not %s', coalesce(type, 'nothing'))); END IF;
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

CREATE FUNCTION lock_pending_transaction(signature text) RETURNS pending_transactions LANGUAGE plpgsql AS $$
DECLARE
  x pending_transactions;
BEGIN
  SELECT * INTO x FROM pending_transactions y WHERE y.tenant_id = current_tenant_id() AND y.tx_signature = signature FOR UPDATE;
  IF x.id IS NULL THEN PERFORM refuse(404, 'NO_SUCH_TRANSACTION', format('there is no transaction %s', signature)); END IF;
  RETURN x;
END
$$;

-- Settled on the chain; true the first time. Of a transfer, the transfer is marked; of a mint, the ticket (payload: token_mint).
CREATE FUNCTION confirm_transaction(signature text, slot bigint, block_time timestamptz DEFAULT now()) RETURNS boolean LANGUAGE plpgsql AS $$
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

-- It did not go: tried again (pending, one more retry; answers true) until it has been often enough, then failed for good.
CREATE FUNCTION fail_transaction(signature text, code text, message text, final boolean DEFAULT false) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  x pending_transactions := lock_pending_transaction(signature);
  again boolean := NOT final AND x.retry_count < x.max_retries;
BEGIN
  IF x.status NOT IN ('pending', 'confirming') THEN
    IF x.status = 'failed' THEN RETURN false; END IF;
    PERFORM refuse(409, 'NOT_ALLOWED', format('transaction %s is %s: it cannot fail any more', signature, x.status));
  END IF;
  UPDATE pending_transactions y SET error_code = code, error_message = left(message, 500), retry_count = y.retry_count + again::integer, last_retry_at = CASE WHEN again THEN now() ELSE y.last_retry_at END, status = CASE WHEN again THEN y.status ELSE 'failed' END
  WHERE y.tenant_id = x.tenant_id AND y.id = x.id;
  INSERT INTO blockchain_sync_log (tenant_id, tx_signature, event_id, ticket_id, what, detail) VALUES (x.tenant_id, signature, x.event_id, x.ticket_id, CASE WHEN again THEN 'retried' ELSE 'failed' END, jsonb_build_object('code', code, 'message', left(message, 500)));
  RETURN again;
END
$$;

CREATE FUNCTION has_pending_transaction(ticket text, event text DEFAULT NULL) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT FROM pending_transactions x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id AND x.status IN ('pending', 'confirming')) FROM find_ticket(ticket, event) AS t
$$;

-- No row: nobody knows the signature.
CREATE FUNCTION get_pending_transaction_status(signature text) RETURNS TABLE (status text, tx_type text, event_id text, ticket_id text, retry_count integer, max_retries integer, error_code text, error_message text, slot bigint, submitted_at timestamptz, confirmed_at timestamptz) LANGUAGE sql STABLE AS $$
  SELECT x.status, x.tx_type, x.event_id, x.ticket_id, x.retry_count, x.max_retries, x.error_code, x.error_message, x.slot, x.submitted_at, x.confirmed_at FROM pending_transactions x WHERE x.tenant_id = current_tenant_id() AND x.tx_signature = signature
$$;
