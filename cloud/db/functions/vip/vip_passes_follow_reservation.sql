-- As in 0530; a ticket that was a VIP's by itself stays one when the reservation that it was linked to is over.
CREATE OR REPLACE FUNCTION vip_passes_follow_reservation() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  target ticket_status := CASE WHEN NEW.status = 'confirmed' AND OLD.status = 'pending' THEN 'sold' WHEN NEW.status = 'cancelled' THEN 'cancelled' END;
  ended boolean := NEW.status = 'completed';
  risen bigint;
BEGIN
  IF target IS NOT NULL THEN
    UPDATE tickets t SET status = target, changed_version = raise_event_version(NEW.event_id), row_version = t.row_version + 1, updated_at = now()
    FROM vip_guest_passes p WHERE p.tenant_id = NEW.tenant_id AND p.reservation_id = NEW.reservation_id AND p.status <> 'revoked'
      AND t.tenant_id = p.tenant_id AND t.event_id = p.event_id AND t.ticket_id = p.ticket_id AND target = ANY (next_ticket_statuses(t.status));
  END IF;
  -- From completed back leads nothing but a test's reset.
  IF ended OR OLD.status = 'completed' THEN
    risen := raise_event_version(NEW.event_id);
    UPDATE tickets t SET valid_until = CASE WHEN ended THEN least(t.valid_until, greatest(now(), t.valid_from)) END, changed_version = risen, row_version = t.row_version + 1, updated_at = now()
    FROM vip_guest_passes p WHERE p.tenant_id = NEW.tenant_id AND p.reservation_id = NEW.reservation_id AND t.tenant_id = p.tenant_id AND t.event_id = p.event_id AND t.ticket_id = p.ticket_id;
    UPDATE tickets t SET vip_ended = ended AND NOT l.was_vip, changed_version = risen, row_version = t.row_version + 1, updated_at = now()
    FROM vip_linked_tickets l WHERE l.tenant_id = NEW.tenant_id AND l.reservation_id = NEW.reservation_id AND t.tenant_id = l.tenant_id AND t.event_id = l.event_id AND t.ticket_id = l.ticket_id;
  END IF;
  IF NEW.status = 'cancelled' THEN DELETE FROM vip_linked_tickets l WHERE l.tenant_id = NEW.tenant_id AND l.reservation_id = NEW.reservation_id; END IF;
  RETURN NULL;
END
$$;
