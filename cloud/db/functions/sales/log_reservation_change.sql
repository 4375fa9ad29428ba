CREATE OR REPLACE FUNCTION log_reservation_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO reservation_history (tenant_id, reservation_id, new_status, changed_by, reason) VALUES (NEW.tenant_id, NEW.reservation_id, NEW.status, coalesce(context_of('current_user_id'), NEW.user_id), context_of('status_change_reason'));
  ELSIF NEW.status <> OLD.status THEN
    INSERT INTO reservation_history (tenant_id, reservation_id, previous_status, new_status, changed_by, reason) VALUES (NEW.tenant_id, NEW.reservation_id, OLD.status, NEW.status, context_of('current_user_id'), context_of('status_change_reason'));
  END IF;
  RETURN NULL;
END
$$;
