CREATE OR REPLACE FUNCTION refund_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  paid bigint;
BEGIN
  IF TG_OP = 'INSERT' THEN
    SELECT t.price_cents INTO paid FROM tickets t WHERE t.tenant_id = NEW.tenant_id AND t.event_id = NEW.event_id AND t.ticket_id = NEW.ticket_id;
    IF NEW.status <> 'pending' THEN PERFORM refuse(409, 'NOT_ALLOWED', 'a refund begins pending'); END IF;
    IF NEW.amount_cents > paid THEN PERFORM refuse(409, 'TOO_MUCH', format('ticket %s cost %s: not more can be refunded', NEW.ticket_id, paid / 100.0)); END IF;
    RETURN NEW;
  END IF;
  IF NEW.status <> OLD.status AND NOT NEW.status = ANY (CASE OLD.status WHEN 'pending' THEN '{approved,rejected}' WHEN 'approved' THEN '{completed,failed}' ELSE '{}' END::text[]) THEN
    PERFORM refuse(409, 'NOT_ALLOWED', format('the refund is %s: it cannot become %s', OLD.status, NEW.status));
  END IF;
  NEW.row_version := OLD.row_version + 1;
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
