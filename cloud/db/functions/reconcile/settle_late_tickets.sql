-- Tickets that were granted before the cloud knew them, and have appeared: judged now by what they are. Locked ones are left for the next time.
CREATE OR REPLACE FUNCTION settle_late_tickets(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  events text[];
  ticket_ids text[];
BEGIN
  SELECT array_agg(k.event_id), array_agg(k.ticket_id) INTO events, ticket_ids FROM (
    SELECT u.event_id, u.ticket_id FROM ticket_usage u
    WHERE u.tenant_id = current_tenant_id() AND NOT u.known AND EXISTS (SELECT FROM tickets t WHERE t.tenant_id = u.tenant_id AND t.event_id = u.event_id AND t.ticket_id = u.ticket_id)
    ORDER BY u.event_id, u.ticket_id LIMIT at_most FOR UPDATE SKIP LOCKED) AS k;
  IF events IS NULL THEN RETURN 0; END IF;
  PERFORM judge_tickets(events, ticket_ids);
  RETURN cardinality(events);
END
$$;
