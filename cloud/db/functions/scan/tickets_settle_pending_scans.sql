-- By every door that makes tickets, at once. In a large batch the rest is left for whoever settles regularly, and for the next scan of such a ticket.
CREATE OR REPLACE FUNCTION tickets_settle_pending_scans() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wanted text[];
BEGIN
  IF NOT EXISTS (SELECT FROM pending_scans p WHERE p.tenant_id = current_tenant_id()) THEN RETURN NULL; END IF;
  UPDATE pending_scans p SET ticket_id = n.ticket_id FROM appeared n
  WHERE p.tenant_id = current_tenant_id() AND n.tenant_id = p.tenant_id AND p.ticket_id IS NULL AND p.event_id = n.event_id AND p.ticket_ref = n.ticket_ref;
  SELECT array_agg(DISTINCT p.ticket_id) INTO wanted FROM pending_scans p JOIN appeared n ON n.tenant_id = p.tenant_id AND n.ticket_id = p.ticket_id WHERE p.tenant_id = current_tenant_id();
  IF wanted IS NOT NULL THEN PERFORM settle_pending_scans(wanted, true, 200); END IF;
  RETURN NULL;
END
$$;
