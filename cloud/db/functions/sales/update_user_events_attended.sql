CREATE OR REPLACE FUNCTION update_user_events_attended(wanted text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  attended integer;
BEGIN
  INSERT INTO users (tenant_id, user_id) VALUES (current_tenant_id(), wanted) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM users x WHERE x.tenant_id = current_tenant_id() AND x.user_id = wanted FOR UPDATE;
  UPDATE users x SET counted_at = now(), events_attended = coalesce((SELECT s.events_attended FROM user_ticket_stats s WHERE s.tenant_id = x.tenant_id AND s.user_id = wanted), 0)
  WHERE x.tenant_id = current_tenant_id() AND x.user_id = wanted RETURNING x.events_attended INTO attended;
  RETURN attended;
END
$$;
