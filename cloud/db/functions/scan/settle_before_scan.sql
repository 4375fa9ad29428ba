-- Settles what waits for these tickets before a scan of them is decided: first takes the ledgers of all claims and the scanner's own, in one order, so that two
-- scanners who settle each other's claims never wait for each other. Where nothing waits it takes nothing. Answers how many it settled.
CREATE OR REPLACE FUNCTION settle_before_scan(site text, device text, tickets_in text[]) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  own text;
BEGIN
  IF NOT EXISTS (SELECT FROM pending_scans p WHERE p.tenant_id = tenant AND p.ticket_id = ANY (tickets_in)) THEN RETURN 0; END IF;
  own := cloud_ledger_of(site, device);
  INSERT INTO ledgers (tenant_id, gate, site_id) VALUES (tenant, own, site) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM ledgers l WHERE l.tenant_id = tenant AND (l.gate = own OR l.gate IN (SELECT p.gate FROM pending_scans p WHERE p.tenant_id = tenant AND p.ticket_id = ANY (tickets_in)))
    ORDER BY l.gate COLLATE "C" FOR UPDATE;
  RETURN settle_pending_scans(tickets_in, true);
END
$$;
