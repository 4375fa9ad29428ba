-- Ends tickets whose event was over two days ago and which nobody used; answers how many. Two days: an event that is extended on its night keeps its tickets. An
-- event without an end is over 12 hours after its start, as at the doors. The gates learn it as any change of a ticket.
CREATE OR REPLACE FUNCTION expire_tickets(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  over record;
  risen bigint;
  gone integer;
  total integer := 0;
BEGIN
  FOR over IN SELECT e.event_id FROM events e WHERE e.tenant_id = tenant AND coalesce(e.ends_at, e.starts_at + interval '12 hours') < now() - interval '2 days'
      AND EXISTS (SELECT FROM tickets t WHERE t.tenant_id = tenant AND t.event_id = e.event_id AND t.status IN ('reserved', 'sold', 'minted', 'active', 'transferred') AND (t.valid_until IS NULL OR t.valid_until < now())) ORDER BY e.event_id LOOP
    EXIT WHEN total >= at_most;
    risen := raise_event_version(over.event_id);
    PERFORM set_status_change_context(NULL, 'system', 'its event is over', 'housekeeping');
    UPDATE tickets t SET status = 'expired', changed_version = risen, row_version = t.row_version + 1, updated_at = now() WHERE t.tenant_id = tenant AND t.event_id = over.event_id AND t.ticket_id IN (
      SELECT x.ticket_id FROM tickets x WHERE x.tenant_id = tenant AND x.event_id = over.event_id AND x.status IN ('reserved', 'sold', 'minted', 'active', 'transferred') AND (x.valid_until IS NULL OR x.valid_until < now())
      ORDER BY x.ticket_id LIMIT at_most - total FOR NO KEY UPDATE SKIP LOCKED);
    GET DIAGNOSTICS gone = ROW_COUNT;
    total := total + gone;
  END LOOP;
  RETURN total;
END
$$;
