-- Notes what is spent, or refuses: LIMIT. One at a time for a user.
CREATE OR REPLACE FUNCTION spend_within_limits(spender text, amount_cents bigint, currency text, order_id text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  l spending_limits;
  day_sum bigint; week_sum bigint; month_sum bigint;
  line bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(format('spend/%s/%s/%s', current_tenant_id(), spender, currency), 5));
  SELECT * INTO l FROM spending_limits x WHERE x.tenant_id = current_tenant_id() AND x.user_id = spender AND x.currency = spend_within_limits.currency;
  SELECT coalesce(sum(x.amount_cents) FILTER (WHERE x.at > now() - interval '1 day'), 0), coalesce(sum(x.amount_cents) FILTER (WHERE x.at > now() - interval '7 days'), 0), coalesce(sum(x.amount_cents), 0) INTO day_sum, week_sum, month_sum
  FROM spending_transactions x WHERE x.tenant_id = current_tenant_id() AND x.user_id = spender AND x.currency = spend_within_limits.currency AND x.at > now() - interval '30 days';
  IF spend_within_limits.amount_cents > l.per_transaction_cents THEN PERFORM refuse(409, 'LIMIT', format('at most %s at once', l.per_transaction_cents / 100.0)); END IF;
  IF day_sum + spend_within_limits.amount_cents > l.per_day_cents THEN PERFORM refuse(409, 'LIMIT', format('at most %s a day', l.per_day_cents / 100.0)); END IF;
  IF week_sum + spend_within_limits.amount_cents > l.per_week_cents THEN PERFORM refuse(409, 'LIMIT', format('at most %s a week', l.per_week_cents / 100.0)); END IF;
  IF month_sum + spend_within_limits.amount_cents > l.per_month_cents THEN PERFORM refuse(409, 'LIMIT', format('at most %s in 30 days', l.per_month_cents / 100.0)); END IF;
  INSERT INTO spending_transactions (tenant_id, user_id, currency, amount_cents, order_id) VALUES (current_tenant_id(), spender, spend_within_limits.currency, spend_within_limits.amount_cents, spend_within_limits.order_id) RETURNING id INTO line;
  RETURN line;
END
$$;
