CREATE OR REPLACE FUNCTION log_price_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO ticket_price_history (tenant_id, event_id, tier, old_price_cents, new_price_cents, currency, changed_by, reason)
  VALUES (NEW.tenant_id, NEW.event_id, NEW.tier, OLD.price_cents, NEW.price_cents, NEW.currency, context_of('current_user_id'), context_of('status_change_reason'));
  RETURN NULL;
END
$$;
