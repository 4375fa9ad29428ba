-- Held for every writer, the ticketing side's own statements apart: what it says of its sales (source `ticketing`: PUT, import) is so, and is kept as irregular.
CREATE OR REPLACE FUNCTION ticket_status_change_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  source text := current_setting('app.status_change_source', true);
BEGIN
  IF NOT NEW.status = ANY (next_ticket_statuses(OLD.status)) AND NOT (OLD.status = 'checked_in' AND NEW.status IS NOT DISTINCT FROM OLD.status_before_entry) AND source IS DISTINCT FROM 'ticketing' THEN
    RAISE EXCEPTION USING ERRCODE = 'ST409', CONSTRAINT = 'NOT_ALLOWED', TABLE = 'tickets', COLUMN = 'status',
      MESSAGE = format('ticket %s is %s: it cannot become %s', NEW.ticket_id, OLD.status, NEW.status),
      HINT = 'from ' || OLD.status || ' it can become: ' || coalesce(nullif(array_to_string(next_ticket_statuses(OLD.status), ', '), ''), 'nothing any more');
  END IF;
  NEW.status_changed_at := now();
  NEW.status_changed_by := nullif(current_setting('app.current_user_id', true), '');
  NEW.status_reason := nullif(current_setting('app.status_change_reason', true), '');
  RETURN NEW;
END
$$;
