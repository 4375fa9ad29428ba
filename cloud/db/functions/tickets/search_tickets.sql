CREATE OR REPLACE FUNCTION search_tickets(words text, at_most integer DEFAULT 50) RETURNS SETOF tickets LANGUAGE sql STABLE AS $$
  (SELECT t.* FROM tickets t WHERE t.tenant_id = current_tenant_id() AND t.ticket_id = words
  UNION
  SELECT t.* FROM tickets t WHERE t.tenant_id = current_tenant_id() AND (t.ticket_number IS NOT NULL OR t.seat IS NOT NULL OR t.note IS NOT NULL)
    AND ticket_text(t.ticket_id, t.ticket_number, t.section, t.seat_row, t.seat, t.note) @@ plainto_tsquery('simple'::regconfig, translate(words, '-_:/.', '     ')))
  ORDER BY event_id, ticket_id LIMIT least(at_most, 1000)
$$;
