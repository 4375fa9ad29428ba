-- Decides at the cloud's own entrance, at once and finally. A ticket that is not known is refused, and stays as a claim of the scanner: settled when it appears.
CREATE OR REPLACE FUNCTION scan_ticket_atomic(ticket text, scanned_by text DEFAULT NULL, device text DEFAULT NULL, event text DEFAULT NULL, at timestamptz DEFAULT NULL,
    OUT allowed boolean, OUT busy boolean, OUT reason text, OUT message text, OUT entry_type text, OUT last_entry_at timestamptz, OUT scan_count integer, OUT event_id text, OUT gate text, OUT epoch bigint, OUT seq bigint)
  LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
  t tickets;
  site text;
  happened timestamptz := coalesce(at, clock_timestamp());
  why text;
  held boolean := false;
BEGIN
  allowed := false;
  BEGIN
    t := find_ticket(ticket, event);
  EXCEPTION WHEN SQLSTATE 'ST404' THEN
    why := SQLERRM;
    -- Of what is no ticket's id, or at no site, nothing can be kept.
    IF ticket !~ '^[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}$' OR (device IS NULL AND NOT EXISTS (SELECT FROM events e WHERE e.tenant_id = current_tenant_id() AND e.event_id = event AND e.site_id IS NOT NULL)) THEN RAISE; END IF;
  END;
  site := site_of_scan(coalesce(t.event_id, event), device);
  IF why IS NOT NULL THEN
    busy := false; reason := 'invalid'; message := why; scan_count := 0; event_id := event;
    SELECT k.gate, k.epoch, k.seq INTO gate, epoch, seq FROM keep_claim(site, device, NULL, event, ticket, NULL, 'DENY', reason, NULL, happened, happened, 0, 'cloud') AS k;
    INSERT INTO ticket_scans (tenant_id, event_id, ticket_id, result, reason, source, device, scanned_by, scanned_by_id, scanned_at, gate, epoch, seq)
    VALUES (current_tenant_id(), event, ticket, 'DENY', reason, 'online', device, scanned_by, uuid_or_null(scanned_by), happened, gate, epoch, seq);
    RETURN;
  END IF;
  event_id := t.event_id;
  busy := NOT pg_try_advisory_xact_lock(hashtextextended(format('%s/%s/%s', t.tenant_id, t.event_id, t.ticket_id), 5));
  IF NOT busy THEN
    BEGIN
      PERFORM settle_before_scan(site, device, ARRAY[t.ticket_id]);
      PERFORM lock_cloud_ledger(site, device);
      held := true;
      BEGIN
        t := lock_ticket_for_scan(t.event_id, t.ticket_id, true, site, device);
        SELECT r.reason, r.message INTO reason, message FROM refusal_of_ticket(t, happened) AS r;
        SELECT max(a.at) INTO last_entry_at FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id AND a.verdict IN ('winner', 'reentry');
        IF reason IS NULL AND EXISTS (SELECT FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id) THEN
          SELECT f.cause, cause_message(f.cause, last_entry_at) INTO reason, message FROM preview_entry(t, site, happened, device) AS f;
        END IF;
        -- Gives back the ticket that a refusal needs no more, as if nobody had taken it.
        IF reason IS NOT NULL THEN RAISE EXCEPTION USING ERRCODE = 'STX00'; END IF;
        SELECT r.entry_type, r.gate, r.epoch, r.seq INTO entry_type, gate, epoch, seq FROM append_cloud_grant(t, site, happened, 0, 'cloud', device, true) AS r;
        IF entry_type IS NULL THEN RAISE EXCEPTION 'ticket % was judged otherwise than foreseen', t.ticket_id; END IF;
        allowed := true;
      EXCEPTION WHEN SQLSTATE 'STX00' THEN NULL;
      END;
      IF NOT allowed THEN SELECT r.gate, r.epoch, r.seq INTO gate, epoch, seq FROM append_cloud_refusal(t, site, happened, 0, 'cloud', device, reason, message) AS r; END IF;
    EXCEPTION WHEN lock_not_available THEN busy := true; held := nullif(held, false);
    END;
  END IF;
  IF busy THEN
    allowed := false; reason := 'busy'; message := CASE WHEN held IS NULL THEN 'other scans of this door are being recorded: scan it again' ELSE 'this ticket is being scanned at this moment: scan it again' END;
    entry_type := NULL; gate := NULL; epoch := NULL; seq := NULL;
  END IF;
  SELECT coalesce(max(u.entries), 0) INTO scan_count FROM ticket_usage u WHERE u.tenant_id = t.tenant_id AND u.event_id = t.event_id AND u.ticket_id = t.ticket_id;
  INSERT INTO ticket_scans (tenant_id, event_id, ticket_id, result, entry_type, reason, source, device, scanned_by, scanned_by_id, scanned_at, gate, epoch, seq)
  VALUES (t.tenant_id, t.event_id, t.ticket_id, CASE WHEN allowed THEN 'ALLOW' ELSE 'DENY' END, entry_type, reason, 'online', device, scanned_by, uuid_or_null(scanned_by), happened, gate, epoch, seq);
END
$$;
