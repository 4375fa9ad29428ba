-- What is to be copied, in the order of tickets. Said to be one row: whatever the tables' sizes and statistics, tickets are then looked up one by one,
-- where a plan made for a small event read the whole of it for each of these rows.
CREATE OR REPLACE FUNCTION usage_to_copy(other_events text[], other_tickets text[], first_events text[], first_tickets text[], first_ats timestamptz[])
  RETURNS TABLE (event_id text, ticket_id text, entries integer, first_at timestamptz, last_at timestamptz, first boolean) LANGUAGE sql VOLATILE ROWS 1 AS $$
  SELECT f.event_id, f.ticket_id, (f.at IS NOT NULL)::integer AS entries, f.at AS first_at, f.at AS last_at, true AS first FROM unnest(first_events, first_tickets, first_ats) AS f (event_id, ticket_id, at)
  UNION ALL
  SELECT k.event_id, k.ticket_id, x.entries, x.first_at, x.last_at, false FROM (SELECT DISTINCT * FROM unnest(other_events, other_tickets)) AS k (event_id, ticket_id)
  CROSS JOIN LATERAL (SELECT * FROM ticket_usage y WHERE y.tenant_id = current_tenant_id() AND y.event_id = k.event_id AND y.ticket_id = k.ticket_id LIMIT 1) AS x
  ORDER BY 1, 2
$$;
