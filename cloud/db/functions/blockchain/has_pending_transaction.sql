CREATE OR REPLACE FUNCTION has_pending_transaction(ticket text, event text DEFAULT NULL) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT FROM pending_transactions x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id AND x.status IN ('pending', 'confirming')) FROM find_ticket(ticket, event) AS t
$$;
