-- Takes what is reserved, or refuses: SOLD_OUT. What is overdue is given back first, so availability is right whenever it is asked for.
CREATE OR REPLACE FUNCTION update_ticket_availability_on_reservation() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  kind ticket_types;
BEGIN
  IF NEW.status <> 'active' THEN PERFORM refuse(409, 'NOT_ALLOWED', 'a reservation begins active'); END IF;
  PERFORM 1 FROM ticket_types x WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier FOR UPDATE;
  IF NOT FOUND THEN PERFORM refuse(404, 'NO_SUCH_TICKET_TYPE', format('event %s has no tickets of type %s', NEW.event_id, NEW.tier)); END IF;
  PERFORM expire_reservations(NEW.event_id, NEW.tier);
  SELECT * INTO kind FROM ticket_types x WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier;
  IF kind.sale_starts_at > now() OR kind.sale_ends_at < now() THEN PERFORM refuse(409, 'NOT_ON_SALE', format('tickets of type %s are not on sale now', NEW.tier)); END IF;
  IF NEW.quantity > kind.max_per_order THEN PERFORM refuse(409, 'TOO_MANY', format('at most %s tickets of type %s at once', kind.max_per_order, NEW.tier)); END IF;
  IF NEW.quantity > kind.available_quantity THEN PERFORM refuse(409, 'SOLD_OUT', format('%s of %s wanted tickets of type %s are left', kind.available_quantity, NEW.quantity, NEW.tier)); END IF;
  UPDATE ticket_types x SET reserved_quantity = x.reserved_quantity + NEW.quantity WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier;
  RETURN NEW;
END
$$;
