CREATE OR REPLACE FUNCTION create_ticket_transfer(ticket text, from_user text, to_user text, acceptance_code text, event text DEFAULT NULL, to_email text DEFAULT NULL, lasts interval DEFAULT '3 days') RETURNS ticket_transfers LANGUAGE plpgsql AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
  made ticket_transfers;
  id uuid := gen_random_uuid();
BEGIN
  PERFORM 1 FROM events e WHERE e.tenant_id = t.tenant_id AND e.event_id = t.event_id FOR NO KEY UPDATE;
  SELECT * INTO t FROM tickets x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id FOR NO KEY UPDATE;
  IF NOT t.is_transferable THEN PERFORM refuse(409, 'NOT_ALLOWED', format('ticket %s may not be transferred', ticket)); END IF;
  IF t.blocked OR t.status NOT IN ('sold', 'minted', 'active', 'transferred') THEN PERFORM refuse(409, 'NOT_ALLOWED', format('ticket %s is %s: only one that is valid and unused can be transferred', ticket, CASE WHEN t.blocked THEN 'blocked' ELSE t.status::text END)); END IF;
  IF t.transfer_count >= t.max_transfers THEN PERFORM refuse(409, 'TOO_MANY', format('ticket %s was transferred %s times: no more', ticket, t.max_transfers)); END IF;
  IF t.user_id IS DISTINCT FROM from_user AND t.user_id IS NOT NULL THEN PERFORM refuse(403, 'FORBIDDEN', format('ticket %s is not theirs', ticket)); END IF;
  UPDATE ticket_transfers x SET status = 'expired' WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id AND x.status IN ('pending', 'accepted') AND x.expires_at <= now();
  IF EXISTS (SELECT FROM ticket_transfers x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id AND x.status IN ('pending', 'accepted')) THEN PERFORM refuse(409, 'NOT_ALLOWED', format('ticket %s is being transferred already', ticket)); END IF;
  INSERT INTO ticket_transfers (tenant_id, transfer_id, event_id, ticket_id, from_user_id, to_user_id, to_email, acceptance_code_sha256, expires_at)
  VALUES (t.tenant_id, id, t.event_id, t.ticket_id, from_user, to_user, create_ticket_transfer.to_email, transfer_code_hash(id, acceptance_code), now() + lasts) RETURNING * INTO made;
  INSERT INTO ticket_notifications (tenant_id, kind, user_id, event_id, ticket_id, detail) VALUES (t.tenant_id, 'transfer_offered', to_user, t.event_id, t.ticket_id, jsonb_build_object('transfer_id', id));
  RETURN made;
END
$$;
