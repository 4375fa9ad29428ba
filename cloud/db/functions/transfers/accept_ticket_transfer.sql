-- Accepted with its code and completed in one step: the ticket is the new holder's, with a new code where one is given (new_ref: ticket_ref_of); the old one
-- opens nothing any more.
CREATE OR REPLACE FUNCTION accept_ticket_transfer(transfer uuid, acceptance_code text, to_user text, new_ref bytea DEFAULT NULL) RETURNS ticket_transfers LANGUAGE plpgsql AS $$
DECLARE
  x ticket_transfers;
  t tickets;
  risen bigint;
BEGIN
  SELECT * INTO x FROM ticket_transfers y WHERE y.tenant_id = current_tenant_id() AND y.transfer_id = transfer;
  IF x IS NULL THEN PERFORM refuse(404, 'NO_SUCH_TRANSFER', 'there is no such transfer'); END IF;
  PERFORM 1 FROM events e WHERE e.tenant_id = x.tenant_id AND e.event_id = x.event_id FOR NO KEY UPDATE;
  SELECT * INTO t FROM tickets y WHERE y.tenant_id = x.tenant_id AND y.event_id = x.event_id AND y.ticket_id = x.ticket_id FOR NO KEY UPDATE;
  SELECT * INTO x FROM ticket_transfers y WHERE y.tenant_id = x.tenant_id AND y.transfer_id = transfer FOR UPDATE;
  IF x.status <> 'pending' THEN PERFORM refuse(409, 'NOT_ALLOWED', format('the transfer is %s', x.status)); END IF;
  IF x.expires_at <= now() THEN PERFORM refuse(409, 'EXPIRED', 'the transfer has run out'); END IF;
  IF x.acceptance_code_sha256 IS DISTINCT FROM transfer_code_hash(transfer, acceptance_code) OR (x.to_user_id IS NOT NULL AND x.to_user_id <> to_user) THEN PERFORM refuse(403, 'FORBIDDEN', 'this is not the code of this transfer'); END IF;
  IF t.blocked OR t.status NOT IN ('sold', 'minted', 'active', 'transferred') THEN PERFORM refuse(409, 'NOT_ALLOWED', format('ticket %s is %s now', t.ticket_id, CASE WHEN t.blocked THEN 'blocked' ELSE t.status::text END)); END IF;
  risen := raise_event_version(x.event_id);
  IF new_ref IS NOT NULL AND new_ref <> t.ticket_ref THEN
    INSERT INTO ticket_tombstones AS y (tenant_id, event_id, ticket_ref, ticket_id, reason, changed_version) VALUES (t.tenant_id, t.event_id, t.ticket_ref, t.ticket_id, 'revoked', risen)
    ON CONFLICT (tenant_id, event_id, ticket_ref) DO UPDATE SET reason = 'revoked', ticket_id = excluded.ticket_id, changed_version = excluded.changed_version;
    DELETE FROM ticket_tombstones y WHERE y.tenant_id = t.tenant_id AND y.event_id = t.event_id AND y.ticket_ref = new_ref;
  END IF;
  PERFORM set_status_change_context(to_user, 'user', 'transfer ' || transfer, 'transfer');
  UPDATE tickets y SET status = 'transferred', user_id = to_user, ticket_ref = coalesce(new_ref, y.ticket_ref), transfer_count = y.transfer_count + 1, changed_version = risen, row_version = y.row_version + 1, updated_at = now()
  WHERE y.tenant_id = t.tenant_id AND y.event_id = t.event_id AND y.ticket_id = t.ticket_id;
  UPDATE ticket_transfers y SET status = 'accepted', to_user_id = to_user WHERE y.tenant_id = x.tenant_id AND y.transfer_id = transfer;
  UPDATE ticket_transfers y SET status = 'completed' WHERE y.tenant_id = x.tenant_id AND y.transfer_id = transfer RETURNING * INTO x;
  INSERT INTO ticket_notifications (tenant_id, kind, user_id, event_id, ticket_id, detail) VALUES (x.tenant_id, 'transfer_completed', x.from_user_id, x.event_id, x.ticket_id, jsonb_build_object('transfer_id', transfer));
  RETURN x;
END
$$;
