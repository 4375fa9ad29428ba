-- Changes a reservation with its locks in order; a plain UPDATE is held to the same rules, and may have to give way to reconciliation.
CREATE OR REPLACE FUNCTION set_vip_reservation_status(reservation uuid, new_status text) RETURNS vip_reservations LANGUAGE plpgsql AS $$
DECLARE
  v vip_reservations;
BEGIN
  PERFORM 1 FROM events e JOIN vip_reservations r ON r.tenant_id = e.tenant_id AND r.event_id = e.event_id WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = reservation FOR UPDATE OF e;
  IF NOT FOUND THEN PERFORM refuse(404, 'NO_SUCH_RESERVATION', format('there is no reservation %s', reservation)); END IF;
  PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = current_tenant_id() AND (u.event_id, u.ticket_id) IN (SELECT p.event_id, p.ticket_id FROM vip_guest_passes p WHERE p.tenant_id = current_tenant_id() AND p.reservation_id = reservation
    UNION SELECT l.event_id, l.ticket_id FROM vip_linked_tickets l WHERE l.tenant_id = current_tenant_id() AND l.reservation_id = reservation) ORDER BY u.event_id, u.ticket_id FOR UPDATE;
  PERFORM 1 FROM tickets t WHERE t.tenant_id = current_tenant_id() AND (t.event_id, t.ticket_id) IN (SELECT p.event_id, p.ticket_id FROM vip_guest_passes p WHERE p.tenant_id = current_tenant_id() AND p.reservation_id = reservation
    UNION SELECT l.event_id, l.ticket_id FROM vip_linked_tickets l WHERE l.tenant_id = current_tenant_id() AND l.reservation_id = reservation) ORDER BY t.event_id, t.ticket_id FOR UPDATE;
  UPDATE vip_reservations r SET status = new_status WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = reservation AND r.status <> new_status;
  SELECT * INTO v FROM vip_reservations r WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = reservation;
  RETURN v;
END
$$;
