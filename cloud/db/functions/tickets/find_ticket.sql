-- Where a ticket of this id stands. Refuses with NO_SUCH_TICKET, and with AMBIGUOUS_TICKET where several events have one and none is named.
CREATE OR REPLACE FUNCTION find_ticket(ticket text, event text DEFAULT NULL) RETURNS tickets LANGUAGE plpgsql STABLE AS $$
DECLARE
  found tickets[];
BEGIN
  SELECT array_agg(x) INTO found FROM (SELECT t AS x FROM tickets t WHERE t.tenant_id = current_tenant_id() AND t.ticket_id = ticket AND (event IS NULL OR t.event_id = event) LIMIT 2) AS few;
  IF found IS NULL THEN PERFORM refuse(404, 'NO_SUCH_TICKET', format('there is no ticket %s%s', ticket, ' in ' || event)); END IF;
  IF cardinality(found) > 1 THEN PERFORM refuse(409, 'AMBIGUOUS_TICKET', format('%s is a ticket of several events: say which', ticket)); END IF;
  RETURN found[1];
END
$$;
