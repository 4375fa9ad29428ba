-- May this ticket come in for the first time, at this time? Its state and times alone: rules of gates and re-entry are the gates' and reconciliation's.
-- reason: of contract/reasons.ts. The event's own times where none are given.
CREATE OR REPLACE FUNCTION can_check_in_ticket(ticket text, event_start timestamptz DEFAULT NULL, event_end timestamptz DEFAULT NULL, event text DEFAULT NULL, at timestamptz DEFAULT now(), OUT can_check_in boolean, OUT reason text, OUT message text) LANGUAGE plpgsql STABLE AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
BEGIN
  SELECT coalesce(event_start, e.starts_at), coalesce(event_end, e.ends_at) INTO event_start, event_end FROM events e WHERE e.tenant_id = t.tenant_id AND e.event_id = t.event_id;
  SELECT r.reason, r.message INTO reason, message FROM refusal_of_ticket(t, at) AS r;
  IF reason IS NULL AND t.status IN ('checked_in', 'used') THEN reason := 'already_redeemed'; message := 'the ticket was used before';
  ELSIF reason IS NULL AND event_start > at THEN reason := 'invalid_time'; message := format('the event begins at %s', event_start);
  ELSIF reason IS NULL AND event_end < at THEN reason := 'invalid_time'; message := format('the event ended at %s', event_end);
  END IF;
  can_check_in := reason IS NULL;
END
$$;
