-- Newest first.
CREATE OR REPLACE FUNCTION get_ticket_state_history(ticket text, at_most integer DEFAULT 100, event text DEFAULT NULL)
  RETURNS TABLE (id bigint, previous_status ticket_status, new_status ticket_status, changed_by text, actor_type text, reason text, source text, irregular boolean, changed_at timestamptz) LANGUAGE sql STABLE AS $$
  SELECT h.id, h.previous_status, h.new_status, h.changed_by, h.actor_type, h.reason, h.source, h.irregular, h.changed_at
  FROM find_ticket(ticket, event) AS t JOIN ticket_state_history h ON h.tenant_id = t.tenant_id AND h.event_id = t.event_id AND h.ticket_id = t.ticket_id
  ORDER BY h.id DESC LIMIT greatest(1, least(at_most, 1000))
$$;
