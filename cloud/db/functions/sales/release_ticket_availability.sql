-- Confirmed: what was reserved is sold. Expired or cancelled: it is given back, and whoever waits is told. Nothing comes back from those.
CREATE OR REPLACE FUNCTION release_ticket_availability() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.quantity <> OLD.quantity OR NEW.event_id <> OLD.event_id OR NEW.tier <> OLD.tier THEN PERFORM refuse(409, 'NOT_ALLOWED', 'what is reserved cannot be changed: cancel it and reserve anew'); END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  IF NEW.status = OLD.status THEN RETURN NEW; END IF;
  IF NOT (OLD.status = 'active' OR (OLD.status = 'confirmed' AND NEW.status = 'cancelled')) THEN PERFORM refuse(409, 'NOT_ALLOWED', format('the reservation is %s: it cannot become %s', OLD.status, NEW.status)); END IF;
  IF NEW.status = 'confirmed' AND OLD.expires_at <= now() THEN PERFORM refuse(409, 'EXPIRED', 'the reservation has run out'); END IF;
  UPDATE ticket_types x SET reserved_quantity = x.reserved_quantity - CASE OLD.status WHEN 'active' THEN OLD.quantity ELSE 0 END,
    sold_quantity = x.sold_quantity + CASE WHEN NEW.status = 'confirmed' THEN OLD.quantity WHEN OLD.status = 'confirmed' THEN -OLD.quantity ELSE 0 END
  WHERE x.tenant_id = NEW.tenant_id AND x.event_id = NEW.event_id AND x.tier = NEW.tier;
  IF NEW.status <> 'confirmed' THEN PERFORM offer_to_waitlist(NEW.event_id, NEW.tier); END IF;
  RETURN NEW;
END
$$;
