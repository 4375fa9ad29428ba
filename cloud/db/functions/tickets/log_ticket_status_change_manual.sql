-- A line about a ticket whose state did not change here: something found out, or done elsewhere.
CREATE OR REPLACE FUNCTION log_ticket_status_change_manual(ticket text, previous ticket_status, new_status ticket_status, changed_by text, reason text, actor_type text DEFAULT 'admin', event text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
  line bigint;
BEGIN
  IF coalesce(changed_by, '') = '' OR coalesce(reason, '') = '' THEN PERFORM refuse(400, 'BAD_REQUEST', 'a line by hand needs who wrote it and why'); END IF;
  INSERT INTO ticket_state_history (tenant_id, event_id, ticket_id, previous_status, new_status, changed_by, actor_type, reason, source)
  VALUES (t.tenant_id, t.event_id, t.ticket_id, previous, new_status, changed_by, actor_type, reason, 'manual') RETURNING id INTO line;
  RETURN line;
END
$$;
