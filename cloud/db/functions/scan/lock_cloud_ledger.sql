-- Takes the cloud's ledger of a site, or of one of its scanners, for this transaction, making it where there is none. Answers its name.
CREATE OR REPLACE FUNCTION lock_cloud_ledger(site text, device text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  ledger text := cloud_ledger_of(site, device);
BEGIN
  INSERT INTO ledgers (tenant_id, gate, site_id) VALUES (current_tenant_id(), ledger, site) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM ledgers WHERE tenant_id = current_tenant_id() AND gate = ledger FOR UPDATE;
  RETURN ledger;
END
$$;
