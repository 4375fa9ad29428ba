-- Notes an attempt that a scanner decided by itself, and says nothing to the account. The ticket need not be known.
CREATE OR REPLACE FUNCTION record_scan_attempt(ticket text, result text, reason text DEFAULT NULL, device text DEFAULT NULL, scanned_by text DEFAULT NULL, scanned_at timestamptz DEFAULT now(), event text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  line bigint;
BEGIN
  IF result NOT IN ('ALLOW', 'DENY') OR result IS NULL THEN PERFORM refuse(400, 'BAD_REQUEST', format('a result is ALLOW or DENY, not %s', coalesce(result, 'nothing'))); END IF;
  INSERT INTO ticket_scans (tenant_id, event_id, ticket_id, result, reason, source, device, scanned_by, scanned_by_id, scanned_at)
  VALUES (current_tenant_id(), event, ticket, result, reason, 'attempt', device, scanned_by, uuid_or_null(scanned_by), scanned_at) RETURNING id INTO line;
  RETURN line;
END
$$;
