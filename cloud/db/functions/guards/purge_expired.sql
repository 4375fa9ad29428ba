-- Removes what is kept for a time, and ends what has run out, at most so many of each; answers how many went: called until nothing does. What could not be told to anybody within 30 days is not told at all.
CREATE OR REPLACE FUNCTION purge_expired(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
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
  RETURN total + gone + cleanup_expired_idempotency_keys(at_most) + expire_reservations(NULL, NULL, at_most) + end_what_ran_out(at_most);
END
$$;
