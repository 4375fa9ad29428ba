CREATE OR REPLACE FUNCTION vip_ticket_remember() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Locked in order here, before the foreign keys touch ticket and reservation.
  PERFORM 1 FROM events e WHERE e.tenant_id = NEW.tenant_id AND e.event_id = NEW.event_id FOR NO KEY UPDATE;
  PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = NEW.tenant_id AND u.event_id = NEW.event_id AND u.ticket_id = NEW.ticket_id FOR UPDATE;
  PERFORM 1 FROM tickets t WHERE t.tenant_id = NEW.tenant_id AND t.event_id = NEW.event_id AND t.ticket_id = NEW.ticket_id FOR NO KEY UPDATE;
  NEW.was_vip := (find_ticket(NEW.ticket_id, NEW.event_id)).vip;
  RETURN NEW;
END
$$;
