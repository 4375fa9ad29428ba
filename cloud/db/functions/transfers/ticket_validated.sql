CREATE OR REPLACE FUNCTION ticket_validated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.validated_by_id := uuid_or_null(NEW.validated_by);
  IF NEW.result = 'valid' THEN
    UPDATE tickets t SET validated_at = NEW.validated_at WHERE t.tenant_id = NEW.tenant_id AND t.event_id = NEW.event_id AND t.ticket_id = NEW.ticket_id AND t.validated_at IS NULL;
  END IF;
  RETURN NEW;
END
$$;
