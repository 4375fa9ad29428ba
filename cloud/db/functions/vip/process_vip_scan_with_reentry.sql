CREATE OR REPLACE FUNCTION process_vip_scan_with_reentry(event text, pass_ref bytea, scanned_by text DEFAULT NULL, device text DEFAULT NULL, at timestamptz DEFAULT NULL,
    OUT allowed boolean, OUT scan_type text, OUT reason text, OUT message text, OUT last_entry_at timestamptz, OUT entries integer, OUT reservation_id uuid, OUT pass_id uuid, OUT reservation_status text, OUT checked_in_guests integer, OUT guest_count integer)
  LANGUAGE plpgsql AS $$
DECLARE
  t tickets;
  site text := site_of_scan(event, device);
  happened timestamptz;
  became record;
BEGIN
  SELECT * INTO t FROM tickets x WHERE x.tenant_id = current_tenant_id() AND x.event_id = event AND x.ticket_ref = pass_ref;
  IF t IS NULL THEN
    -- Kept as a claim, and settled if the pass appears.
    allowed := false; scan_type := 'refused'; reason := 'invalid'; message := 'not a VIP pass of this event'; happened := coalesce(at, clock_timestamp());
    PERFORM keep_claim(site, device, NULL, event, NULL, pass_ref, 'DENY', reason, NULL, happened, happened, 0, 'cloud');
    RETURN;
  END IF;
  SELECT p.reservation_id, p.pass_id INTO reservation_id, pass_id FROM vip_guest_passes p WHERE p.tenant_id = t.tenant_id AND p.event_id = event AND p.ticket_id = t.ticket_id;
  IF reservation_id IS NULL THEN SELECT l.reservation_id INTO reservation_id FROM vip_linked_tickets l WHERE l.tenant_id = t.tenant_id AND l.event_id = event AND l.ticket_id = t.ticket_id; END IF;
  IF reservation_id IS NULL THEN
    allowed := false; scan_type := 'refused'; reason := 'product'; message := 'this ticket belongs to no VIP reservation';
    PERFORM append_cloud_refusal(t, site, coalesce(at, clock_timestamp()), 0, 'cloud', device, reason, message);
    RETURN;
  END IF;

  PERFORM settle_before_scan(site, device, ARRAY[t.ticket_id]);
  PERFORM lock_cloud_ledger(site, device);
  happened := coalesce(at, clock_timestamp());
  t := lock_ticket_for_scan(event, t.ticket_id, false, site, device);
  PERFORM 1 FROM vip_guest_passes p WHERE p.tenant_id = t.tenant_id AND p.pass_id = process_vip_scan_with_reentry.pass_id FOR NO KEY UPDATE;
  SELECT r.status INTO reservation_status FROM vip_reservations r WHERE r.tenant_id = t.tenant_id AND r.reservation_id = process_vip_scan_with_reentry.reservation_id FOR NO KEY UPDATE;
  last_entry_at := t.last_scanned_at;
  SELECT r.reason, r.message INTO reason, message FROM refusal_of_ticket(t, happened) AS r;
  IF reason IS NULL AND reservation_status NOT IN ('confirmed', 'checked_in', 'no_show') THEN
    reason := 'unapproved'; message := format('the reservation is %s', reservation_status);
  ELSIF reason IS NULL AND t.scan_count > 0 THEN
    -- Policy may have it otherwise than always.
    SELECT f.cause, cause_message(f.cause, t.last_scanned_at) INTO reason, message FROM preview_entry(t, site, happened, device) AS f;
  END IF;
  allowed := reason IS NULL;
  IF allowed THEN
    SELECT * INTO became FROM append_cloud_grant(t, site, happened, 0, 'cloud', device, true);
    scan_type := became.entry_type;
    UPDATE vip_scan_logs g SET scanned_by = process_vip_scan_with_reentry.scanned_by, scanned_by_id = uuid_or_null(process_vip_scan_with_reentry.scanned_by)
    WHERE g.tenant_id = t.tenant_id AND g.gate = became.gate AND g.epoch = became.epoch AND g.seq = became.seq;
  ELSE
    scan_type := 'refused';
    SELECT * INTO became FROM append_cloud_refusal(t, site, happened, 0, 'cloud', device, reason, message);
    INSERT INTO vip_scan_logs (tenant_id, reservation_id, pass_id, event_id, ticket_id, scan_type, reason, scanned_at, previous_entry_at, scanned_by, scanned_by_id, gate, epoch, seq)
    VALUES (t.tenant_id, reservation_id, pass_id, event, t.ticket_id, 'refused', reason, happened, last_entry_at, scanned_by, uuid_or_null(scanned_by), became.gate, became.epoch, became.seq)
    -- Logged already when the refusal was appended: who scanned is known here alone.
    ON CONFLICT ON CONSTRAINT vip_scan_logs_tenant_id_gate_epoch_seq_key DO UPDATE SET reason = excluded.reason, previous_entry_at = excluded.previous_entry_at, scanned_by = excluded.scanned_by, scanned_by_id = excluded.scanned_by_id;
  END IF;
  SELECT u.entries INTO entries FROM ticket_usage u WHERE u.tenant_id = t.tenant_id AND u.event_id = event AND u.ticket_id = t.ticket_id;
  SELECT r.status, r.checked_in_guests, r.guest_count INTO reservation_status, checked_in_guests, guest_count FROM vip_reservations r WHERE r.tenant_id = t.tenant_id AND r.reservation_id = process_vip_scan_with_reentry.reservation_id;
END
$$;
