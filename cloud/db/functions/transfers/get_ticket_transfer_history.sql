-- Newest first; transfers that an operator made (ticket_actions) among them.
CREATE OR REPLACE FUNCTION get_ticket_transfer_history(ticket text, event text DEFAULT NULL, at_most integer DEFAULT 100) RETURNS TABLE (transfer_id uuid, from_user_id text, to_user_id text, status text, reason text, at timestamptz, tx_signature text) LANGUAGE sql STABLE AS $$
  SELECT h.* FROM find_ticket(ticket, event) AS t CROSS JOIN LATERAL (
    SELECT x.transfer_id, x.from_user_id, x.to_user_id, x.status, x.reason, x.updated_at AS at, x.tx_signature FROM ticket_transfers x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id
    UNION ALL SELECT NULL, a.actor, a.detail ->> 'to_user_id', 'completed', a.reason, a.at, NULL FROM ticket_actions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id AND a.action = 'transfer') AS h
  ORDER BY h.at DESC LIMIT greatest(1, least(at_most, 1000))
$$;
