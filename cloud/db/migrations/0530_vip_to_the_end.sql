-- Every scan of a VIP is in the audit trail, refusals at gates and scanners as well; and a reservation that is over gives no right at a gate any more.

-- A linked ticket whose host's right has ended: for gates and scanners it is what it was. The account goes on counting entries that were right when they happened.
ALTER TABLE tickets ADD COLUMN vip_ended boolean NOT NULL DEFAULT false;

-- A pass is worth what its reservation is: unpaid until it is confirmed, nothing once it is off, no longer valid once it is over.
CREATE OR REPLACE FUNCTION vip_passes_follow_reservation() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  target ticket_status := CASE WHEN NEW.status = 'confirmed' AND OLD.status = 'pending' THEN 'sold' WHEN NEW.status = 'cancelled' THEN 'cancelled' END;
  ended boolean := NEW.status = 'completed';
  risen bigint;
BEGIN
  IF target IS NOT NULL THEN
    UPDATE tickets t SET status = target, changed_version = raise_event_version(NEW.event_id), row_version = t.row_version + 1, updated_at = now()
    FROM vip_guest_passes p WHERE p.tenant_id = NEW.tenant_id AND p.reservation_id = NEW.reservation_id AND p.status <> 'revoked'
      AND t.tenant_id = p.tenant_id AND t.event_id = p.event_id AND t.ticket_id = p.ticket_id AND target = ANY (next_ticket_statuses(t.status));
  END IF;
  -- From completed back leads nothing but a test's reset.
  IF ended OR OLD.status = 'completed' THEN
    risen := raise_event_version(NEW.event_id);
    UPDATE tickets t SET valid_until = CASE WHEN ended THEN least(t.valid_until, greatest(now(), t.valid_from)) END, changed_version = risen, row_version = t.row_version + 1, updated_at = now()
    FROM vip_guest_passes p WHERE p.tenant_id = NEW.tenant_id AND p.reservation_id = NEW.reservation_id AND t.tenant_id = p.tenant_id AND t.event_id = p.event_id AND t.ticket_id = p.ticket_id;
    UPDATE tickets t SET vip_ended = ended, changed_version = risen, row_version = t.row_version + 1, updated_at = now()
    FROM vip_linked_tickets l WHERE l.tenant_id = NEW.tenant_id AND l.reservation_id = NEW.reservation_id AND t.tenant_id = l.tenant_id AND t.event_id = l.event_id AND t.ticket_id = l.ticket_id;
  END IF;
  IF NEW.status = 'cancelled' THEN DELETE FROM vip_linked_tickets l WHERE l.tenant_id = NEW.tenant_id AND l.reservation_id = NEW.reservation_id; END IF;
  RETURN NULL;
END
$$;

-- A refusal of a VIP's ticket, wherever it was given. The reason is read from the text: jsonb cannot hold every text that a row may.
CREATE FUNCTION vip_refusals_follow_ledger() RETURNS trigger LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM new_rows n WHERE n.kind = 'refusal' AND n.ticket_id IS NOT NULL) THEN RETURN NULL; END IF;
  INSERT INTO vip_scan_logs (tenant_id, reservation_id, pass_id, event_id, ticket_id, scan_type, reason, scanned_at, previous_entry_at, gate, epoch, seq)
  SELECT n.tenant_id, coalesce(p.reservation_id, l.reservation_id), p.pass_id, n.event_id, n.ticket_id, 'refused', substring(n.entry FROM '"reason":"([a-z_]{1,32})"'), n.at, t.last_scanned_at, n.gate, n.epoch, n.seq
  FROM new_rows n
  JOIN tickets t ON t.tenant_id = n.tenant_id AND t.event_id = n.event_id AND t.ticket_id = n.ticket_id AND t.vip
  LEFT JOIN vip_guest_passes p ON p.tenant_id = n.tenant_id AND p.event_id = n.event_id AND p.ticket_id = n.ticket_id
  LEFT JOIN vip_linked_tickets l ON l.tenant_id = n.tenant_id AND l.event_id = n.event_id AND l.ticket_id = n.ticket_id
  WHERE n.kind = 'refusal' AND n.readable
  ORDER BY n.gate, n.epoch, n.seq
  ON CONFLICT DO NOTHING;
  RETURN NULL;
END
$$;
CREATE TRIGGER ledger_rows_vip_refusals AFTER INSERT ON ledger_rows REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION vip_refusals_follow_ledger();

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
  IF t IS NULL THEN PERFORM refuse(404, 'NO_SUCH_PASS', 'not a VIP pass of this event'); END IF;
  SELECT p.reservation_id, p.pass_id INTO reservation_id, pass_id FROM vip_guest_passes p WHERE p.tenant_id = t.tenant_id AND p.event_id = event AND p.ticket_id = t.ticket_id;
  IF reservation_id IS NULL THEN SELECT l.reservation_id INTO reservation_id FROM vip_linked_tickets l WHERE l.tenant_id = t.tenant_id AND l.event_id = event AND l.ticket_id = t.ticket_id; END IF;
  IF reservation_id IS NULL THEN PERFORM refuse(404, 'NO_SUCH_PASS', 'this ticket belongs to no VIP reservation'); END IF;

  PERFORM lock_cloud_ledger(site);
  happened := coalesce(at, clock_timestamp());
  t := lock_ticket_for_scan(event, t.ticket_id, false);
  PERFORM 1 FROM vip_guest_passes p WHERE p.tenant_id = t.tenant_id AND p.pass_id = process_vip_scan_with_reentry.pass_id FOR NO KEY UPDATE;
  SELECT r.status INTO reservation_status FROM vip_reservations r WHERE r.tenant_id = t.tenant_id AND r.reservation_id = process_vip_scan_with_reentry.reservation_id FOR NO KEY UPDATE;
  last_entry_at := t.last_scanned_at;
  SELECT r.reason, r.message INTO reason, message FROM refusal_of_ticket(t, happened) AS r;
  IF reason IS NULL AND reservation_status NOT IN ('confirmed', 'checked_in', 'no_show') THEN
    reason := 'unapproved'; message := format('the reservation is %s', reservation_status);
  ELSIF reason IS NULL AND t.scan_count > 0 THEN
    -- Policy may have it otherwise than always.
    SELECT f.cause, words_of_cause(f.cause, t.last_scanned_at) INTO reason, message FROM foresee_entry(t, site, happened, device) AS f;
  END IF;
  allowed := reason IS NULL;
  IF allowed THEN
    SELECT * INTO became FROM admit_by_cloud(t, site, happened, 0, 'cloud', device, true);
    scan_type := became.entry_type;
    UPDATE vip_scan_logs g SET scanned_by = process_vip_scan_with_reentry.scanned_by, scanned_by_id = uuid_or_null(process_vip_scan_with_reentry.scanned_by)
    WHERE g.tenant_id = t.tenant_id AND g.gate = became.gate AND g.epoch = became.epoch AND g.seq = became.seq;
  ELSE
    scan_type := 'refused';
    SELECT * INTO became FROM refuse_by_cloud(t, site, happened, 0, 'cloud', device, reason, message);
    INSERT INTO vip_scan_logs (tenant_id, reservation_id, pass_id, event_id, ticket_id, scan_type, reason, scanned_at, previous_entry_at, scanned_by, scanned_by_id, gate, epoch, seq)
    VALUES (t.tenant_id, reservation_id, pass_id, event, t.ticket_id, 'refused', reason, happened, last_entry_at, scanned_by, uuid_or_null(scanned_by), became.gate, became.epoch, became.seq)
    -- Logged already when the refusal was appended: who scanned is known here alone.
    ON CONFLICT ON CONSTRAINT vip_scan_logs_tenant_id_gate_epoch_seq_key DO UPDATE SET reason = excluded.reason, previous_entry_at = excluded.previous_entry_at, scanned_by = excluded.scanned_by, scanned_by_id = excluded.scanned_by_id;
  END IF;
  SELECT u.entries INTO entries FROM ticket_usage u WHERE u.tenant_id = t.tenant_id AND u.event_id = event AND u.ticket_id = t.ticket_id;
  SELECT r.status, r.checked_in_guests, r.guest_count INTO reservation_status, checked_in_guests, guest_count FROM vip_reservations r WHERE r.tenant_id = t.tenant_id AND r.reservation_id = process_vip_scan_with_reentry.reservation_id;
END
$$;
