CREATE OR REPLACE FUNCTION queue_judgement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO judgements_due (tenant_id, event_id, ticket_id) VALUES (NEW.tenant_id, NEW.event_id, NEW.ticket_id);
  RETURN NULL;
END
$$;
