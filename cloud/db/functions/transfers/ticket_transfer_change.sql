CREATE OR REPLACE FUNCTION ticket_transfer_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.status <> OLD.status AND NOT NEW.status = ANY (next_transfer_statuses(OLD.status)) THEN
    PERFORM refuse(409, 'NOT_ALLOWED', format('the transfer is %s: it cannot become %s', OLD.status, NEW.status));
  END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
