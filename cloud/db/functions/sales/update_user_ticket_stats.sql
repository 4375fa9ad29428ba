-- Counts a user's tickets anew, and keeps that with the user, who is made where there is none. From what is, not by adding: any number of times.
CREATE OR REPLACE FUNCTION update_user_ticket_stats(wanted text) RETURNS users LANGUAGE plpgsql AS $$
DECLARE
  u users;
BEGIN
  INSERT INTO users (tenant_id, user_id) VALUES (current_tenant_id(), wanted) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM users x WHERE x.tenant_id = current_tenant_id() AND x.user_id = wanted FOR UPDATE;
  UPDATE users x SET counted_at = now(), tickets_owned = coalesce((SELECT s.tickets_owned FROM user_ticket_stats s WHERE s.tenant_id = x.tenant_id AND s.user_id = wanted), 0),
    tickets_bought = (SELECT count(*) FROM tickets t JOIN orders o ON o.tenant_id = t.tenant_id AND o.order_id = t.order_id WHERE o.tenant_id = x.tenant_id AND o.user_id = wanted AND o.status = 'paid'),
    spent_cents = (SELECT coalesce(sum(o.total_cents), 0) FROM orders o WHERE o.tenant_id = x.tenant_id AND o.user_id = wanted AND o.status = 'paid')
  WHERE x.tenant_id = current_tenant_id() AND x.user_id = wanted RETURNING * INTO u;
  RETURN u;
END
$$;
