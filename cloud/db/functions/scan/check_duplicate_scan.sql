-- Was it admitted within the last seconds, at any gate or door? scan_count: entries that hold.
CREATE OR REPLACE FUNCTION check_duplicate_scan(ticket text, window_seconds integer DEFAULT 10, event text DEFAULT NULL, at timestamptz DEFAULT now(), OUT is_duplicate boolean, OUT last_scan_at timestamptz, OUT scan_count integer) LANGUAGE plpgsql STABLE AS $$
DECLARE
  t tickets := find_ticket(ticket, event);
BEGIN
  SELECT greatest(
      (SELECT max(a.at) FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id AND a.granted AND a.direction = 'in' AND a.units_used > 0),
      (SELECT max(s.scanned_at) FROM ticket_scans s WHERE s.tenant_id = t.tenant_id AND s.ticket_id = t.ticket_id AND (s.event_id IS NULL OR s.event_id = t.event_id) AND s.result = 'ALLOW' AND s.source = 'attempt')),
    coalesce((SELECT u.entries FROM ticket_usage u WHERE u.tenant_id = t.tenant_id AND u.event_id = t.event_id AND u.ticket_id = t.ticket_id), 0)
  INTO last_scan_at, scan_count;
  is_duplicate := coalesce(at - last_scan_at < make_interval(secs => window_seconds), false);
END
$$;
