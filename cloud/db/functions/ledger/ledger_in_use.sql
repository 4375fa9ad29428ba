-- Whether a ledger is in the vectors of its site: a scanner's leaves them 400 days after its last row.
CREATE OR REPLACE FUNCTION ledger_in_use(tenant uuid, ledger text) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT ledger NOT LIKE '%/@%' AND EXISTS (SELECT FROM ledgers l WHERE l.tenant_id = tenant AND l.gate = ledger)
    OR EXISTS (SELECT FROM ledgers l WHERE l.tenant_id = tenant AND l.gate = ledger AND l.created_at > now() - interval '400 days')
    OR EXISTS (SELECT FROM ledger_epochs e WHERE e.tenant_id = tenant AND e.gate = ledger AND e.last_row_at > now() - interval '400 days')
$$;
