-- A pass for the host (guest_number 0) or the next guest; pass_ref: the hash of its token (ticket_ref_of).
CREATE OR REPLACE FUNCTION issue_vip_pass(reservation uuid, pass_ref bytea, for_host boolean DEFAULT false, tier text DEFAULT 'vip', zone text DEFAULT NULL) RETURNS vip_guest_passes LANGUAGE plpgsql AS $$
DECLARE
  v vip_reservations;
  p vip_guest_passes;
  number integer;
  risen bigint;
BEGIN
  SELECT * INTO v FROM vip_reservations r WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = reservation;
  IF v IS NULL THEN PERFORM refuse(404, 'NO_SUCH_RESERVATION', format('there is no reservation %s', reservation)); END IF;
  -- Holds back everybody else who issues for this event.
  risen := raise_event_version(v.event_id);
  SELECT r.status INTO v.status FROM vip_reservations r WHERE r.tenant_id = v.tenant_id AND r.reservation_id = reservation;
  IF v.status NOT IN ('pending', 'confirmed', 'checked_in') THEN PERFORM refuse(409, 'NOT_ALLOWED', format('the reservation is %s: it has no more passes', v.status)); END IF;
  number := CASE WHEN for_host THEN 0 ELSE (SELECT coalesce(max(g.guest_number), 0) + 1 FROM vip_guest_passes g WHERE g.tenant_id = v.tenant_id AND g.reservation_id = reservation) END;
  IF (SELECT count(*) FROM vip_guest_passes g WHERE g.tenant_id = v.tenant_id AND g.reservation_id = reservation AND g.status <> 'revoked') >= v.guest_count THEN
    PERFORM refuse(409, 'NOT_ALLOWED', format('the reservation is for %s, and all have their passes', v.guest_count));
  END IF;
  p.pass_id := gen_random_uuid();
  INSERT INTO ticket_types (tenant_id, event_id, tier) VALUES (v.tenant_id, v.event_id, issue_vip_pass.tier) ON CONFLICT DO NOTHING;
  INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier, zone, status, vip, note, changed_version)
  VALUES (v.tenant_id, v.event_id, 'VIP-' || p.pass_id, pass_ref, issue_vip_pass.tier, issue_vip_pass.zone, CASE v.status WHEN 'pending' THEN 'reserved' ELSE 'sold' END::ticket_status, true, nullif(v.label, ''), risen);
  INSERT INTO vip_guest_passes (tenant_id, pass_id, event_id, reservation_id, guest_number, ticket_id) VALUES (v.tenant_id, p.pass_id, v.event_id, reservation, number, 'VIP-' || p.pass_id) RETURNING * INTO p;
  RETURN p;
END
$$;
