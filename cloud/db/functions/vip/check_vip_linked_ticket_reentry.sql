-- Has this ticket a host's right to come in again? Asked by scanners of the general entrance.
CREATE OR REPLACE FUNCTION check_vip_linked_ticket_reentry(ticket text, event text DEFAULT NULL, OUT is_linked boolean, OUT reentry_allowed boolean, OUT reservation_id uuid, OUT reservation_status text, OUT entries integer, OUT last_entry_at timestamptz) LANGUAGE plpgsql STABLE AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
BEGIN
  SELECT l.reservation_id, r.status INTO reservation_id, reservation_status FROM vip_linked_tickets l JOIN vip_reservations r ON r.tenant_id = l.tenant_id AND r.reservation_id = l.reservation_id
  WHERE l.tenant_id = t.tenant_id AND l.event_id = t.event_id AND l.ticket_id = t.ticket_id;
  is_linked := reservation_id IS NOT NULL;
  entries := t.scan_count;
  last_entry_at := t.last_scanned_at;
  reentry_allowed := is_linked AND reservation_status IN ('confirmed', 'checked_in') AND (refusal_of_ticket(t, now())).reason IS NULL;
END
$$;
