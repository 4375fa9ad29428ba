CREATE OR REPLACE FUNCTION count_ticket_hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    UPDATE ticket_types x SET held_quantity = x.held_quantity + NEW.quantity WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier AND (x.available_quantity IS NULL OR x.available_quantity >= NEW.quantity);
    IF NOT FOUND THEN PERFORM refuse(409, 'SOLD_OUT', format('fewer than %s tickets of type %s are left to hold', NEW.quantity, NEW.tier)); END IF;
  ELSIF OLD.released_at IS NOT NULL OR NEW.quantity <> OLD.quantity OR NEW.event_id <> OLD.event_id OR NEW.tier <> OLD.tier THEN
    PERFORM refuse(409, 'NOT_ALLOWED', 'a hold can only be released, once');
  ELSIF NEW.released_at IS NOT NULL THEN
    UPDATE ticket_types x SET held_quantity = x.held_quantity - NEW.quantity WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier;
    PERFORM offer_to_waitlist(NEW.event_id, NEW.tier);
  END IF;
  RETURN NEW;
END
$$;
