-- Takes the cloud's ledger of a site for this transaction, making it where there is none.
CREATE OR REPLACE FUNCTION lock_cloud_ledger(site text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO ledgers (tenant_id, gate, site_id) VALUES (current_tenant_id(), site || '/cloud', site) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM ledgers WHERE tenant_id = current_tenant_id() AND gate = site || '/cloud' FOR UPDATE;
END
$$;
