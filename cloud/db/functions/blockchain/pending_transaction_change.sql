CREATE OR REPLACE FUNCTION pending_transaction_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.status <> OLD.status AND NOT NEW.status = ANY (CASE OLD.status WHEN 'pending' THEN '{confirming,confirmed,failed,expired,replaced}' WHEN 'confirming' THEN '{confirmed,failed,expired,replaced}' ELSE '{}' END::text[]) THEN
    PERFORM refuse(409, 'NOT_ALLOWED', format('transaction %s is %s: it cannot become %s', NEW.tx_signature, OLD.status, NEW.status));
  END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
