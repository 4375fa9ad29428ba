-- What was left: tickets that are there while scans wait for them. Regularly, tenant by tenant.
CREATE OR REPLACE FUNCTION settle_scans_left_waiting(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  wanted text[];
BEGIN
  SELECT array_agg(k.ticket_id) INTO wanted FROM (
    SELECT DISTINCT p.ticket_id FROM pending_scans p WHERE p.tenant_id = current_tenant_id() AND p.failed IS NULL AND event_of_pending_scan(split_part(p.gate, '/', 1), p.device, p.event_id, p.ticket_id) IS NOT NULL LIMIT at_most) AS k;
  RETURN CASE WHEN wanted IS NULL THEN 0 ELSE settle_pending_scans(wanted, false, at_most) END;
END
$$;
