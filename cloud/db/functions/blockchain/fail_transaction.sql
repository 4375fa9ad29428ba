-- It did not go: tried again (pending, one more retry; answers true) until it has been often enough, then failed for good.
CREATE OR REPLACE FUNCTION fail_transaction(signature text, code text, message text, final boolean DEFAULT false) RETURNS boolean LANGUAGE plpgsql AS $$
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
