-- No row: nobody knows the signature.
CREATE OR REPLACE FUNCTION get_pending_transaction_status(signature text) RETURNS TABLE (status text, tx_type text, event_id text, ticket_id text, retry_count integer, max_retries integer, error_code text, error_message text, slot bigint, submitted_at timestamptz, confirmed_at timestamptz) LANGUAGE sql STABLE AS $$
  SELECT x.status, x.tx_type, x.event_id, x.ticket_id, x.retry_count, x.max_retries, x.error_code, x.error_message, x.slot, x.submitted_at, x.confirmed_at FROM pending_transactions x WHERE x.tenant_id = current_tenant_id() AND x.tx_signature = signature
$$;
