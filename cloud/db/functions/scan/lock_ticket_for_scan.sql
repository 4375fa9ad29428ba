-- Takes a ticket and its usage, in this order, after the ledger. impatient: instead of waiting for whoever has them, 55P03.
CREATE OR REPLACE FUNCTION lock_ticket_for_scan(event text, ticket text, impatient boolean, site text DEFAULT NULL, device text DEFAULT NULL) RETURNS tickets LANGUAGE plpgsql AS $$
DECLARE
  t tickets;
BEGIN
  -- What scanners brought in before the ticket was known, and still waits.
  PERFORM settle_before_scan(site, device, ARRAY[ticket]);
  -- Made here, so that nobody else makes it between our lock on the ticket and our first entry.
  INSERT INTO ticket_usage (tenant_id, event_id, ticket_id, known) VALUES (current_tenant_id(), event, ticket, true) ON CONFLICT DO NOTHING;
  IF impatient THEN
    PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = current_tenant_id() AND u.event_id = event AND u.ticket_id = ticket FOR UPDATE NOWAIT;
    SELECT * INTO t FROM tickets x WHERE x.tenant_id = current_tenant_id() AND x.event_id = event AND x.ticket_id = ticket FOR UPDATE NOWAIT;
  ELSE
    PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = current_tenant_id() AND u.event_id = event AND u.ticket_id = ticket FOR UPDATE;
    SELECT * INTO t FROM tickets x WHERE x.tenant_id = current_tenant_id() AND x.event_id = event AND x.ticket_id = ticket FOR UPDATE;
  END IF;
  RETURN t;
END
$$;
