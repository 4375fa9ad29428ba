CREATE OR REPLACE FUNCTION conflict_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' THEN
    NEW.told := false;
    RETURN NEW;
  END IF;
  INSERT INTO withdrawn_conflicts (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq, cause)
  VALUES (OLD.tenant_id, OLD.event_id, OLD.ticket_id, OLD.loser_gate, OLD.loser_epoch, OLD.loser_seq, OLD.cause);
  RETURN NULL;
END
$$;
