CREATE OR REPLACE FUNCTION vip_reservation_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.status <> OLD.status AND NOT NEW.status = ANY (next_vip_statuses(OLD.status)) AND NOT (current_setting('app.vip_reset', true) = 'on' AND is_test_database()) THEN
    PERFORM refuse(409, 'NOT_ALLOWED', format('the reservation is %s: it cannot become %s', OLD.status, NEW.status));
  END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
