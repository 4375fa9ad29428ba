-- What is kept for a time only: keys of scans that came over HTTP, the log of the doors, answers kept for a repeat, and what people were to be told.

-- A scan is not taken any more before its key is forgotten, so that a repeat never counts twice.
CREATE FUNCTION scans_taken_for() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN interval '366 days';
CREATE FUNCTION scan_keys_kept_for() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN interval '400 days';

-- Keys that are young nobody may take away.
GRANT DELETE ON device_scans TO stile_service;
CREATE POLICY only_what_is_old ON device_scans AS RESTRICTIVE FOR DELETE USING (tenant_id = current_tenant_id() AND received_at < now() - scan_keys_kept_for());
CREATE INDEX device_scans_by_age ON device_scans (tenant_id, received_at);
CREATE INDEX ticket_scans_by_age ON ticket_scans (tenant_id, received_at);
CREATE INDEX ticket_notifications_by_age ON ticket_notifications (tenant_id, created_at);

-- Removes at most so many of each; answers how many went: called until nothing does. What could not be told to anybody within 30 days is not told at all.
CREATE FUNCTION forget_what_is_old(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  gone integer;
  total integer := 0;
BEGIN
  DELETE FROM device_scans d WHERE d.tenant_id = current_tenant_id() AND (d.device, d.scan_key) IN (
    SELECT x.device, x.scan_key FROM device_scans x WHERE x.tenant_id = current_tenant_id() AND x.received_at < now() - scan_keys_kept_for() ORDER BY x.received_at LIMIT at_most);
  GET DIAGNOSTICS gone = ROW_COUNT;
  total := total + gone;
  DELETE FROM pending_scans p WHERE p.tenant_id = current_tenant_id() AND (p.device, p.scan_key) IN (
    SELECT x.device, x.scan_key FROM pending_scans x WHERE x.tenant_id = current_tenant_id() AND x.received_at < now() - scan_keys_kept_for() ORDER BY x.received_at LIMIT at_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS gone = ROW_COUNT;
  total := total + gone;
  DELETE FROM ticket_scans s WHERE s.tenant_id = current_tenant_id() AND s.id IN (
    SELECT x.id FROM ticket_scans x WHERE x.tenant_id = current_tenant_id() AND x.received_at < now() - scan_keys_kept_for() ORDER BY x.received_at LIMIT at_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS gone = ROW_COUNT;
  total := total + gone;
  DELETE FROM ticket_notifications n WHERE n.tenant_id = current_tenant_id() AND n.id IN (
    SELECT x.id FROM ticket_notifications x WHERE x.tenant_id = current_tenant_id() AND x.created_at < now() - interval '30 days' ORDER BY x.created_at LIMIT at_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS gone = ROW_COUNT;
  total := total + gone;
  DELETE FROM webhook_nonces w WHERE w.tenant_id = current_tenant_id() AND (w.source, w.nonce) IN (
    SELECT x.source, x.nonce FROM webhook_nonces x WHERE x.tenant_id = current_tenant_id() AND x.expires_at < now() ORDER BY x.expires_at LIMIT at_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN total + gone + cleanup_expired_idempotency_keys(at_most) + expire_reservations(NULL, NULL, at_most);
END
$$;

-- Whoever took notifications says what became of them: told (sent), or not (its reason), and then they come due again: after 1, 2, 4 … minutes, at most an hour.
CREATE FUNCTION settle_ticket_notifications(ids bigint[], failure text DEFAULT NULL) RETURNS integer LANGUAGE plpgsql AS $$
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

-- Every tenant, in the order of their ids, so many after one.
CREATE FUNCTION tenants_after(tenant uuid, wanted integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT t.id FROM tenants t WHERE tenant IS NULL OR t.id > tenant ORDER BY t.id LIMIT wanted $$;
ALTER FUNCTION tenants_after(uuid, integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_after(uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_after(uuid, integer) TO stile_service;

-- A device's word for a refusal, where it is one of the contract's.
CREATE FUNCTION known_reason(word text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT CASE WHEN word IN ('invalid', 'unreadable', 'unpaid', 'blocked', 'invalid_time', 'canceled', 'already_redeemed', 'already_inside', 'product', 'zone', 'rules', 'ambiguous', 'revoked', 'unapproved', 'gap', 'max_entries', 'passback', 'capacity', 'gate_locked', 'busy', 'manifest_stale', 'usage_lost', 'clock_untrusted') THEN word ELSE 'error' END $$;
-- A scan that a device made while it was away: it happened, so it counts; of several the first by time wins, whoever comes later. The same scan again
-- (scan_id, else ticket, time and result of the device) is a DUPLICATE, also of one that came over HTTP: both keep their keys in device_scans (0300).
-- Of a ticket that is not known yet an admission waits for it (PENDING, 0571), and a refusal is recorded. Answers ERROR instead of failing, so that one scan
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
  PERFORM lock_cloud_ledger(site);
  SELECT d.ticket_id, d.result INTO before FROM (
    SELECT x.ticket_id, x.result FROM device_scans x WHERE x.tenant_id = current_tenant_id() AND x.device = sync_offline_scan.device AND x.scan_key = key
    UNION ALL SELECT x.ticket_id, 'ALLOW' FROM pending_scans x WHERE x.tenant_id = current_tenant_id() AND x.device = sync_offline_scan.device AND x.scan_key = key) AS d;
  IF FOUND THEN
    IF (before.ticket_id, before.result) = (ticket, result) THEN status := 'DUPLICATE'; message := 'known already'; ELSE message := 'this scan_id was used for another scan'; END IF;
    RETURN;
  END IF;
  IF why IS NOT NULL AND result = 'ALLOW' THEN
    IF (SELECT count(*) FROM (SELECT 1 FROM pending_scans p WHERE p.tenant_id = current_tenant_id() AND p.device = sync_offline_scan.device LIMIT pending_scans_at_most()) AS few) >= pending_scans_at_most() THEN
      message := format('%s, and too many scans of this device wait for theirs', why);
      RETURN;
    END IF;
    INSERT INTO pending_scans (tenant_id, device, scan_key, event_id, ticket_id, direction, scan_id, scanned_at, at, clock, bound_ms)
    VALUES (current_tenant_id(), device, key, event, ticket, 'in', CASE WHEN length(scan_id) <= 64 THEN scan_id END, scanned_at, happened, clock, bound_ms);
    status := 'PENDING'; message := format('%s: kept, and counted when it appears', why);
    RETURN;
  END IF;
  IF why IS NOT NULL THEN
    SELECT r.ledger, r.epoch, r.first_seq INTO gate, epoch, seq FROM append_cloud_rows(site, jsonb_build_array(jsonb_build_object('kind', 'refusal', 'reason', CASE WHEN reason IS NULL THEN 'invalid' ELSE known_reason(reason) END,
      'explanation', left(coalesce(reason, why), 200), 'ticket_id', ticket, 'direction', 'in', 'device', device) || CASE WHEN event IS NULL THEN '{}' ELSE jsonb_build_object('event_id', event) END), happened, bound_ms, clock) AS r;
    status := 'SUCCESS'; message := 'refused by the device';
  ELSIF result = 'DENY' THEN
    SELECT r.gate, r.epoch, r.seq INTO gate, epoch, seq FROM refuse_by_cloud(t, site, happened, bound_ms, clock, device, known_reason(reason), coalesce(reason, 'refused by the device')) AS r;
    status := 'SUCCESS'; message := 'refused by the device';
  ELSE
    t := lock_ticket_for_scan(t.event_id, t.ticket_id, false);
    SELECT r.entry_type, r.cause, r.previous_entry_at, r.verdict, r.gate, r.epoch, r.seq INTO entry, cause, last_at, verdict, gate, epoch, seq FROM admit_by_cloud(t, site, happened, bound_ms, clock, device, false) AS r;
    status := CASE WHEN entry IS NULL THEN 'CONFLICT' ELSE 'SUCCESS' END;
    message := coalesce(entry, words_of_cause(coalesce(cause, 'error'), last_at));
  END IF;
  INSERT INTO device_scans (tenant_id, device, scan_key, online, gate, epoch, seq, event_id, ticket_id, result, scanned_at) VALUES (current_tenant_id(), device, key, false, gate, epoch, seq, coalesce(t.event_id, event), ticket, result, scanned_at);
  INSERT INTO ticket_scans (tenant_id, event_id, ticket_id, result, entry_type, reason, source, device, scanned_by, scanned_by_id, scanned_at, gate, epoch, seq)
  VALUES (current_tenant_id(), coalesce(t.event_id, event), ticket, result, entry, reason, 'offline', device, scanned_by, uuid_or_null(scanned_by), scanned_at, gate, epoch, seq) ON CONFLICT DO NOTHING;
END
$$;
