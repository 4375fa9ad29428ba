-- A change that gates must hear of: the event's next version, and a mark for those who tell them.
CREATE OR REPLACE FUNCTION raise_event_version(event text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  risen bigint;
BEGIN
  UPDATE events e SET version = next_event_version(e.version), updated_at = now() WHERE e.tenant_id = current_tenant_id() AND e.event_id = event RETURNING e.version INTO risen;
  IF risen IS NULL THEN PERFORM refuse(404, 'NO_SUCH_EVENT', format('there is no event %s', event)); END IF;
  INSERT INTO outbox (tenant_id, kind, key) VALUES (current_tenant_id(), 'event', event);
  RETURN risen;
END
$$;
