-- What a ticket's state at that time says against an entry, as a reason; NULL: nothing. From its dated history: what it was before the first change, what it is where none was kept.
CREATE OR REPLACE FUNCTION right_lost_by(t tickets, at timestamptz) RETURNS text LANGUAGE sql STABLE
  AS $$ SELECT CASE coalesce(
      (SELECT h.new_status FROM ticket_state_history h WHERE h.tenant_id = t.tenant_id AND h.event_id = t.event_id AND h.ticket_id = t.ticket_id AND h.source <> 'manual' AND h.changed_at <= right_lost_by.at ORDER BY h.changed_at DESC, h.id DESC LIMIT 1),
      (SELECT h.previous_status FROM ticket_state_history h WHERE h.tenant_id = t.tenant_id AND h.event_id = t.event_id AND h.ticket_id = t.ticket_id AND h.source <> 'manual' ORDER BY h.changed_at, h.id LIMIT 1), t.status)
    WHEN 'revoked' THEN 'revoked' WHEN 'refunded' THEN 'canceled' WHEN 'cancelled' THEN 'canceled' WHEN 'expired' THEN 'invalid_time' WHEN 'available' THEN 'invalid' END $$;
