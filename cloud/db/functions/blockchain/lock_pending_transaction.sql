CREATE OR REPLACE FUNCTION lock_pending_transaction(signature text) RETURNS pending_transactions LANGUAGE plpgsql AS $$
DECLARE
  x pending_transactions;
BEGIN
  SELECT * INTO x FROM pending_transactions y WHERE y.tenant_id = current_tenant_id() AND y.tx_signature = signature FOR UPDATE;
  IF x.id IS NULL THEN PERFORM refuse(404, 'NO_SUCH_TRANSACTION', format('there is no transaction %s', signature)); END IF;
  RETURN x;
END
$$;
