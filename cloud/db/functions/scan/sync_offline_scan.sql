-- A scan that a device made while it was away: it happened, so it counts; of several the first by time wins, whoever comes later. The same scan again
-- (scan_id, else ticket, time and result of the device) is a DUPLICATE, also of one that came over HTTP: both keep their keys in device_scans (0300).
-- Of a ticket that is not known yet it stays as a claim, entry or refusal, and waits for it (PENDING). Answers ERROR instead of failing, so that one scan
-- undoes no other: only of what is no scan, which is put into quarantine. bound_ms: how wrong the device's clock may be.
CREATE OR REPLACE FUNCTION sync_offline_scan(ticket text, scanned_at timestamptz, device text, result text DEFAULT 'ALLOW', reason text DEFAULT NULL, scan_id text DEFAULT NULL, event text DEFAULT NULL, bound_ms integer DEFAULT 5000, scanned_by text DEFAULT NULL,
    OUT status text, OUT message text, OUT verdict text, OUT gate text, OUT epoch bigint, OUT seq bigint) LANGUAGE plpgsql AS $$
DECLARE
  t tickets;
  site text;
  -- No clock of ours is behind the scan: what is said to be in the future happened by now.
  happened timestamptz := least(scanned_at, clock_timestamp());
  clock text := device;
  key text := coalesce('id ' || CASE WHEN length(scan_id) > 64 THEN 'sha256 ' || encode(sha256(convert_to(scan_id, 'UTF8')), 'hex') ELSE scan_id END, format('at %s %s %s', ticket, floor(extract(epoch FROM scanned_at) * 1000), result));
  why text;
  before record;
  entry text; cause text; last_at timestamptz;
BEGIN
  status := 'ERROR';
  IF device IS NULL THEN message := 'Device not found'; RETURN; END IF;
  BEGIN
    site := site_of_scan(event, device);
  EXCEPTION WHEN SQLSTATE 'ST404' THEN message := SQLERRM; RETURN;
  END;
  IF scanned_at IS NULL OR NOT isfinite(scanned_at) OR result IS NULL OR result NOT IN ('ALLOW', 'DENY') OR ticket IS NULL OR ticket !~ '^[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}$' THEN
    message := 'a scan needs its ticket, its time, and ALLOW or DENY';
    PERFORM quarantine_scans(device, ARRAY['unreadable'], ARRAY[message], ARRAY[jsonb_build_object('ticket_id', ticket, 'scanned_at', scanned_at, 'result', result, 'reason', reason, 'scan_id', scan_id, 'event_id', event)::text]);
    RETURN;
  END IF;
  IF scanned_at < '2020-01-01Z' THEN
    -- No clock that was ever set says so: it counts as of now, and nothing is ordered by it.
    happened := clock_timestamp(); clock := 'unclocked'; bound_ms := 2147483647;
  ELSIF scanned_at < clock_timestamp() - scans_taken_for() THEN
    message := format('%s is longer ago than scans are taken for (%s days): set the scanner''s clock', scanned_at, extract(day FROM scans_taken_for()));
    PERFORM quarantine_scans(device, ARRAY['unreadable'], ARRAY[message], ARRAY[jsonb_build_object('ticket_id', ticket, 'scanned_at', scanned_at, 'result', result, 'reason', reason, 'scan_id', scan_id, 'event_id', event)::text]);
    RETURN;
  END IF;
  BEGIN
    t := find_ticket(ticket, event);
  EXCEPTION WHEN SQLSTATE 'ST404' OR SQLSTATE 'ST409' THEN why := SQLERRM;
  END;
  PERFORM settle_before_scan(site, device, ARRAY[ticket]);
  PERFORM lock_cloud_ledger(site, device);
  SELECT d.ticket_id, d.result INTO before FROM (
    SELECT x.ticket_id, x.result FROM device_scans x WHERE x.tenant_id = current_tenant_id() AND x.device = sync_offline_scan.device AND x.scan_key = key
    UNION ALL SELECT x.ticket_id, x.result FROM pending_scans x WHERE x.tenant_id = current_tenant_id() AND x.device = sync_offline_scan.device AND x.scan_key = key) AS d;
  IF FOUND THEN
    IF (before.ticket_id, before.result) = (ticket, result) THEN status := 'DUPLICATE'; message := 'known already'; ELSE message := 'this scan_id was used for another scan'; END IF;
    RETURN;
  END IF;
  IF why IS NOT NULL THEN
    SELECT k.gate, k.epoch, k.seq INTO gate, epoch, seq FROM keep_claim(site, device, key, event, ticket, NULL, result, reason, CASE WHEN length(scan_id) <= 64 THEN scan_id END, scanned_at, happened, bound_ms, clock) AS k;
    IF seq IS NOT NULL THEN
      status := 'PENDING'; message := format('%s: kept, and settled when it appears', why);
      RETURN;
    ELSIF result = 'ALLOW' THEN
      message := format('%s, and too many scans of this device wait for theirs', why);
      RETURN;
    END IF;
  END IF;
  IF why IS NOT NULL THEN
    SELECT r.ledger, r.epoch, r.first_seq INTO gate, epoch, seq FROM append_cloud_rows(site, jsonb_build_array(jsonb_build_object('kind', 'refusal', 'reason', CASE WHEN reason IS NULL THEN 'invalid' ELSE known_reason(reason) END,
      'explanation', left(coalesce(reason, why), 200), 'ticket_id', ticket, 'direction', 'in', 'device', device) || CASE WHEN event IS NULL THEN '{}' ELSE jsonb_build_object('event_id', event) END), happened, bound_ms, clock, cloud_ledger_of(site, device)) AS r;
    status := 'SUCCESS'; message := 'refused by the device';
  ELSIF result = 'DENY' THEN
    SELECT r.gate, r.epoch, r.seq INTO gate, epoch, seq FROM append_cloud_refusal(t, site, happened, bound_ms, clock, device, known_reason(reason), coalesce(reason, 'refused by the device')) AS r;
    status := 'SUCCESS'; message := 'refused by the device';
  ELSE
    t := lock_ticket_for_scan(t.event_id, t.ticket_id, false, site, device);
    SELECT r.entry_type, r.cause, r.previous_entry_at, r.verdict, r.gate, r.epoch, r.seq INTO entry, cause, last_at, verdict, gate, epoch, seq FROM append_cloud_grant(t, site, happened, bound_ms, clock, device, false) AS r;
    status := CASE WHEN entry IS NULL THEN 'CONFLICT' ELSE 'SUCCESS' END;
    message := coalesce(entry, cause_message(coalesce(cause, 'error'), last_at));
  END IF;
  INSERT INTO device_scans (tenant_id, device, scan_key, online, gate, epoch, seq, event_id, ticket_id, result, scanned_at) VALUES (current_tenant_id(), device, key, false, gate, epoch, seq, coalesce(t.event_id, event), ticket, result, scanned_at);
  INSERT INTO ticket_scans (tenant_id, event_id, ticket_id, result, entry_type, reason, source, device, scanned_by, scanned_by_id, scanned_at, gate, epoch, seq)
  VALUES (current_tenant_id(), coalesce(t.event_id, event), ticket, result, entry, reason, 'offline', device, scanned_by, uuid_or_null(scanned_by), scanned_at, gate, epoch, seq) ON CONFLICT DO NOTHING;
END
$$;
