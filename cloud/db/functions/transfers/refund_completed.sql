-- The money is back: the ticket opens nothing any more, and the gates are told.
CREATE OR REPLACE FUNCTION refund_completed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  risen bigint := raise_event_version(NEW.event_id);
BEGIN
  PERFORM set_status_change_context(coalesce(NEW.decided_by, context_of('current_user_id')), 'user', NEW.reason, 'refund');
  UPDATE tickets t SET status = 'refunded', changed_version = risen, row_version = t.row_version + 1, updated_at = now()
  WHERE t.tenant_id = NEW.tenant_id AND t.event_id = NEW.event_id AND t.ticket_id = NEW.ticket_id AND t.status <> 'refunded';
  INSERT INTO ticket_notifications (tenant_id, kind, user_id, event_id, ticket_id, detail)
  SELECT NEW.tenant_id, 'refunded', t.user_id, NEW.event_id, NEW.ticket_id, jsonb_build_object('amount_cents', NEW.amount_cents) FROM tickets t WHERE t.tenant_id = NEW.tenant_id AND t.event_id = NEW.event_id AND t.ticket_id = NEW.ticket_id;
  RETURN NULL;
END
$$;
