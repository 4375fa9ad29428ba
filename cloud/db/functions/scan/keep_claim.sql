-- Appends a claim for a door in SQL and lets it wait for its ticket. NULL: so many of this device wait already that no more may; then nothing is written.
CREATE OR REPLACE FUNCTION keep_claim(site text, device text, key text, event text, ticket text, ref bytea, result text, reason text, scan_id text, scanned_at timestamptz, at timestamptz, bound_ms integer, clock text,
    OUT gate text, OUT epoch bigint, OUT seq bigint) LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
BEGIN
  IF (SELECT count(*) FROM (SELECT 1 FROM pending_scans p WHERE p.tenant_id = tenant AND p.device = coalesce(keep_claim.device, '') LIMIT pending_scans_at_most()) AS few) >= pending_scans_at_most() THEN RETURN; END IF;
  SELECT r.ledger, r.epoch, r.first_seq INTO gate, epoch, seq FROM append_cloud_rows(site, jsonb_build_array(
    jsonb_build_object('kind', 'claim', 'result', result, 'direction', 'in')
    || CASE WHEN device IS NULL THEN '{}' ELSE jsonb_build_object('device', device) END
    || CASE WHEN event IS NULL THEN '{}' ELSE jsonb_build_object('event_id', event) END
    || CASE WHEN ticket IS NULL THEN '{}' ELSE jsonb_build_object('ticket_id', ticket) END
    || CASE WHEN ref IS NULL THEN '{}' ELSE jsonb_build_object('ticket_ref', encode(ref, 'hex')) END
    || CASE WHEN reason IS NULL THEN '{}' ELSE jsonb_build_object('reason', left(reason, 200)) END
    || CASE WHEN scan_id IS NULL THEN '{}' ELSE jsonb_build_object('scan_id', scan_id) END), at, bound_ms, clock, cloud_ledger_of(site, device)) AS r;
  INSERT INTO pending_scans (tenant_id, device, scan_key, gate, epoch, seq, result, reason, event_id, ticket_id, ticket_ref, direction, scan_id, scanned_at, at, clock, bound_ms)
  VALUES (tenant, coalesce(device, ''), coalesce(key, format('claim %s %s %s', gate, epoch, seq)), gate, epoch, seq, result, left(reason, 200), event, ticket, ref, 'in', scan_id, scanned_at, at, clock, bound_ms);
END
$$;
