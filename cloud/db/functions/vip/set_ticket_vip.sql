-- Linking a ticket gives it the right, and takes it back: told to the gates, and judged anew, for what was too much may now be right.
CREATE OR REPLACE FUNCTION set_ticket_vip(event text, ticket text, is_vip boolean) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  was boolean;
  risen bigint := raise_event_version(event);
BEGIN
  PERFORM 1 FROM ticket_usage u WHERE u.tenant_id = current_tenant_id() AND u.event_id = event AND u.ticket_id = ticket FOR UPDATE;
  SELECT t.vip INTO was FROM tickets t WHERE t.tenant_id = current_tenant_id() AND t.event_id = event AND t.ticket_id = ticket FOR UPDATE;
  IF was IS DISTINCT FROM is_vip THEN
    UPDATE tickets t SET vip = is_vip, changed_version = risen, row_version = t.row_version + 1, updated_at = now() WHERE t.tenant_id = current_tenant_id() AND t.event_id = event AND t.ticket_id = ticket;
    PERFORM judge_tickets(ARRAY[event], ARRAY[ticket]);
  END IF;
  RETURN was;
END
$$;
