-- The site whose ledger a scan belongs to: the device's, else the event's.
CREATE OR REPLACE FUNCTION site_of_scan(event text, device text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
  site text;
BEGIN
  IF device IS NOT NULL THEN
    SELECT d.site_id INTO site FROM devices d WHERE d.tenant_id = current_tenant_id() AND d.name = device AND d.revoked_at IS NULL;
    IF site IS NULL THEN PERFORM refuse(404, 'NO_SUCH_DEVICE', 'Device not found'); END IF;
    RETURN site;
  END IF;
  SELECT e.site_id INTO site FROM events e WHERE e.tenant_id = current_tenant_id() AND e.event_id = event;
  IF site IS NULL THEN PERFORM refuse(409, 'NO_SITE', format('event %s has no site: name the device that scans', event)); END IF;
  RETURN site;
END
$$;
