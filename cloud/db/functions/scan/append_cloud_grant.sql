-- Lets a ticket in by the cloud's ledger and says what the account makes of it. A scanner has no sensor: its word counts as the passage.
CREATE OR REPLACE FUNCTION append_cloud_grant(t tickets, site text, at timestamptz, bound_ms integer, clock text, device text, is_online boolean,
    OUT verdict text, OUT cause text, OUT entry_type text, OUT previous_entry_at timestamptz, OUT gate text, OUT epoch bigint, OUT seq bigint) LANGUAGE plpgsql AS $$
DECLARE
  began timestamptz := clock_timestamp();
  who jsonb;
BEGIN
  SELECT max(a.at) INTO previous_entry_at FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.event_id = t.event_id AND a.ticket_id = t.ticket_id AND a.verdict IN ('winner', 'reentry') AND a.at < append_cloud_grant.at;
  who := jsonb_build_object('event_id', t.event_id, 'ticket_id', t.ticket_id, 'ticket_ref', encode(t.ticket_ref, 'hex'), 'direction', 'in');
  SELECT r.ledger, r.epoch, r.first_seq INTO gate, epoch, seq FROM append_cloud_rows(site, jsonb_build_array(
    who || jsonb_build_object('kind', 'grant', 'type', CASE WHEN previous_entry_at IS NULL THEN 'first_entry' ELSE 'reentry' END, 'units', t.units, 'medium', 'opaque',
      'manifest_version', (SELECT e.version FROM events e WHERE e.tenant_id = t.tenant_id AND e.event_id = t.event_id), 'online', is_online, 'latency_us', greatest(0, floor(extract(epoch FROM clock_timestamp() - began) * 1000000))::bigint, 'seen', '{}'::jsonb)
      || CASE WHEN device IS NULL THEN '{}' ELSE jsonb_build_object('device', device) END,
    who || jsonb_build_object('kind', 'passage', 'of_previous', true, 'outcome', 'passed')), at, bound_ms, clock, cloud_ledger_of(site, device)) AS r;
  SELECT a.verdict, a.cause INTO verdict, cause FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.gate = append_cloud_grant.gate AND a.epoch = append_cloud_grant.epoch AND a.seq = append_cloud_grant.seq;
  entry_type := CASE verdict WHEN 'winner' THEN 'first_entry' WHEN 'reentry' THEN 'reentry' END;
END
$$;
