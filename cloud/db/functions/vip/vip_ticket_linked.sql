-- A link made to a reservation that is over gives no right, and the end of an earlier one takes none from a later one. The order of locks is vip_ticket_remember's.
CREATE OR REPLACE FUNCTION vip_ticket_linked() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  link vip_linked_tickets := CASE TG_OP WHEN 'INSERT' THEN NEW ELSE OLD END;
  ended boolean := TG_OP = 'INSERT' AND NOT link.was_vip
    AND EXISTS (SELECT FROM vip_reservations r WHERE r.tenant_id = link.tenant_id AND r.reservation_id = link.reservation_id AND r.status = 'completed');
BEGIN
  PERFORM set_ticket_vip(link.event_id, link.ticket_id, TG_OP = 'INSERT' OR link.was_vip);
  UPDATE tickets t SET vip_ended = ended, changed_version = raise_event_version(link.event_id), row_version = t.row_version + 1, updated_at = now()
  WHERE t.tenant_id = link.tenant_id AND t.event_id = link.event_id AND t.ticket_id = link.ticket_id AND t.vip_ended <> ended;
  RETURN NULL;
END
$$;
