CREATE OR REPLACE FUNCTION late_tickets() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  events text[];
  ticket_ids text[];
BEGIN
  SELECT array_agg(k.event_id), array_agg(k.ticket_id) INTO events, ticket_ids FROM (
    SELECT u.event_id, u.ticket_id FROM ticket_usage u JOIN appeared n ON n.tenant_id = u.tenant_id AND n.event_id = u.event_id AND n.ticket_id = u.ticket_id
    WHERE u.tenant_id = current_tenant_id() AND NOT u.known ORDER BY u.event_id, u.ticket_id FOR UPDATE OF u SKIP LOCKED) AS k;
  IF events IS NOT NULL THEN PERFORM judge_tickets(events, ticket_ids); END IF;
  RETURN NULL;
END
$$;
