-- Gives back what is overdue, of one ticket type or of all; answers how many reservations.
CREATE OR REPLACE FUNCTION expire_reservations(event text DEFAULT NULL, tier text DEFAULT NULL, at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  gone integer;
BEGIN
  PERFORM 1 FROM ticket_types x WHERE x.tenant_id = current_tenant_id() AND (event IS NULL OR x.event_id = event) AND (expire_reservations.tier IS NULL OR x.tier = expire_reservations.tier)
    AND EXISTS (SELECT FROM reservations r WHERE r.tenant_id = x.tenant_id AND r.event_id = x.event_id AND r.tier = x.tier AND r.status = 'active' AND r.expires_at <= now()) ORDER BY x.event_id, x.tier FOR UPDATE;
  UPDATE reservations r SET status = 'expired' WHERE r.tenant_id = current_tenant_id() AND r.status = 'active' AND r.reservation_id IN (
    SELECT o.reservation_id FROM reservations o WHERE o.tenant_id = current_tenant_id() AND o.status = 'active' AND o.expires_at <= now() AND (event IS NULL OR o.event_id = event) AND (expire_reservations.tier IS NULL OR o.tier = expire_reservations.tier)
    ORDER BY o.event_id, o.tier, o.expires_at LIMIT at_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN gone;
END
$$;
