-- Takes notifications for a while: nobody else gets them until the lease runs out.
CREATE OR REPLACE FUNCTION take_ticket_notifications(at_most integer DEFAULT 100, lease_s integer DEFAULT 60) RETURNS SETOF ticket_notifications LANGUAGE sql AS $$
  UPDATE ticket_notifications n SET due_at = now() + make_interval(secs => lease_s), attempts = n.attempts + 1 WHERE n.tenant_id = current_tenant_id() AND n.id IN (
    SELECT x.id FROM ticket_notifications x WHERE x.tenant_id = current_tenant_id() AND x.sent_at IS NULL AND x.due_at <= now() ORDER BY x.due_at, x.id LIMIT least(at_most, 1000) FOR UPDATE SKIP LOCKED) RETURNING n.*
$$;
