-- Uses a discount once for an order, or refuses. The order's total stays what it was: before discounts.
CREATE OR REPLACE FUNCTION use_discount() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  d discounts;
  total bigint := (SELECT o.total_cents FROM orders o WHERE o.tenant_id = NEW.tenant_id AND o.order_id = NEW.order_id);
BEGIN
  SELECT * INTO d FROM discounts x WHERE x.tenant_id = NEW.tenant_id AND x.discount_id = NEW.discount_id FOR UPDATE;
  IF d IS NULL OR total IS NULL THEN RETURN NEW; END IF;
  IF NOT d.active OR d.valid_from > now() OR d.valid_until < now() THEN PERFORM refuse(409, 'NOT_ALLOWED', format('discount %s does not hold now', d.code)); END IF;
  IF d.uses >= d.max_uses THEN PERFORM refuse(409, 'USED_UP', format('discount %s was used %s times: no more', d.code, d.max_uses)); END IF;
  IF total < d.min_order_cents THEN PERFORM refuse(409, 'NOT_ALLOWED', format('discount %s needs an order of %s at least', d.code, d.min_order_cents / 100.0)); END IF;
  NEW.amount_cents := least(total, coalesce(d.amount_cents, round(total * d.percent / 100)));
  UPDATE discounts x SET uses = x.uses + 1 WHERE x.tenant_id = d.tenant_id AND x.discount_id = d.discount_id;
  RETURN NEW;
END
$$;
