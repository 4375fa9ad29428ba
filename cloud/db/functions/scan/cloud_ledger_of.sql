-- The ledger in which the cloud writes what this device reports: <site>/@<device>, so that one scanner's upload keeps nobody else waiting. Without a device, and
-- where a site has 500 such ledgers in use already (its gates carry them all in their vectors), <site>/cloud; the latter raises an alert.
CREATE OR REPLACE FUNCTION cloud_ledger_of(site text, device text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  most CONSTANT integer := 500;
  tenant uuid := current_tenant_id();
  own text := site || '/@' || split_part(device, '/', 2);
BEGIN
  IF coalesce(device, '') = '' OR split_part(device, '/', 1) <> site THEN RETURN site || '/cloud'; END IF;
  IF ledger_in_use(tenant, own) THEN RETURN own; END IF;
  IF (SELECT count(*) FROM ledgers l WHERE l.tenant_id = tenant AND l.site_id = site AND l.gate LIKE '%/@%' AND l.gate <> own AND ledger_in_use(tenant, l.gate)) >= most THEN
    INSERT INTO device_alerts (tenant_id, device, alert_id, alert, by_cloud)
    SELECT tenant, d.name, 'ledger', jsonb_build_object('schema', 1, 'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'severity', 'warning',
      'message', format('the site has ledgers of %s scanners: what %s scans goes to %s/cloud, where an upload keeps others waiting', most, device, site)), true
    FROM devices d WHERE d.tenant_id = tenant AND d.name = device ON CONFLICT DO NOTHING;
    RETURN site || '/cloud';
  END IF;
  RETURN own;
END
$$;
