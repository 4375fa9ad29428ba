-- Whoever took notifications says what became of them: told (sent), or not (its reason), and then they come due again: after 1, 2, 4 … minutes, at most an hour.
CREATE OR REPLACE FUNCTION settle_ticket_notifications(ids bigint[], failure text DEFAULT NULL) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  settled integer;
BEGIN
  UPDATE ticket_notifications n SET sent_at = CASE WHEN failure IS NULL THEN now() END, last_error = left(failure, 500),
    due_at = CASE WHEN failure IS NULL THEN n.due_at ELSE now() + least(interval '1 hour', interval '1 minute' * 2 ^ least(greatest(n.attempts - 1, 0), 10)) END
  WHERE n.tenant_id = current_tenant_id() AND n.id = ANY (ids) AND n.sent_at IS NULL;
  GET DIAGNOSTICS settled = ROW_COUNT;
  RETURN settled;
END
$$;
