-- Settles the claims that wait for these tickets: appends to each claim's ledger a grant or a refusal with `of` the claim, at the claim's own time; answers how
-- many. impatient: where another has a ledger, its claims are left for the next time (whoever inserts tickets has their locks already, and must not wait for a
-- ledger). One that cannot be settled undoes no other.
CREATE OR REPLACE FUNCTION settle_pending_scans(tickets_in text[], impatient boolean DEFAULT false, at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  one record;
  p pending_scans%ROWTYPE;
  event text;
  site text;
  held text[] := '{}';
  t record;
  about jsonb;
  placed record;
  settled integer := 0;
BEGIN
  IF NOT EXISTS (SELECT FROM pending_scans x WHERE x.tenant_id = tenant AND x.ticket_id = ANY (tickets_in)) THEN RETURN 0; END IF;
  FOR one IN SELECT x.device, x.scan_key, x.gate FROM pending_scans x WHERE x.tenant_id = tenant AND x.ticket_id = ANY (tickets_in) ORDER BY x.gate COLLATE "C", x.at, x.device, x.scan_key LIMIT at_most LOOP
    site := split_part(one.gate, '/', 1);
    IF NOT one.gate = ANY (held) THEN
      -- The claim made the ledger.
      IF impatient THEN
        PERFORM 1 FROM ledgers l WHERE l.tenant_id = tenant AND l.gate = one.gate FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
      ELSE
        PERFORM 1 FROM ledgers l WHERE l.tenant_id = tenant AND l.gate = one.gate FOR UPDATE;
      END IF;
      held := held || one.gate;
    END IF;
    -- Under the ledger's lock nobody else settles it.
    SELECT * INTO p FROM pending_scans x WHERE x.tenant_id = tenant AND x.device = one.device AND x.scan_key = one.scan_key;
    CONTINUE WHEN NOT FOUND;
    event := event_of_pending_scan(site, p.device, p.event_id, p.ticket_id);
    CONTINUE WHEN event IS NULL;
    BEGIN
      SELECT x.units, encode(x.ticket_ref, 'hex') AS ref, e.version,
        (SELECT coalesce(sum(a.units_used), 0) FROM admissions a WHERE a.tenant_id = x.tenant_id AND a.event_id = x.event_id AND a.ticket_id = x.ticket_id AND a.verdict IN ('winner', 'reentry')) AS entered INTO t FROM tickets x
      JOIN events e ON e.tenant_id = x.tenant_id AND e.event_id = x.event_id
      WHERE x.tenant_id = tenant AND x.event_id = event AND x.ticket_id = p.ticket_id;
      about := jsonb_build_object('event_id', event, 'ticket_id', p.ticket_id, 'ticket_ref', t.ref, 'direction', p.direction);
      SELECT r.ledger, r.epoch, r.first_seq INTO placed FROM append_cloud_rows(site, CASE p.result WHEN 'ALLOW' THEN jsonb_build_array(
        about || jsonb_build_object('kind', 'grant', 'of', jsonb_build_array(p.epoch, p.seq), 'type', CASE WHEN p.direction = 'out' THEN 'exit' WHEN t.entered >= t.units THEN 'reentry' ELSE 'first_entry' END, 'units', coalesce(p.units, t.units), 'medium', 'opaque',
          'manifest_version', greatest(0, least(t.version, floor(extract(epoch FROM p.at))::bigint)), 'online', false, 'latency_us', 0, 'seen', '{}'::jsonb)
          || CASE WHEN p.device = '' THEN '{}' ELSE jsonb_build_object('device', p.device) END
          || CASE WHEN p.scan_id IS NULL THEN '{}' ELSE jsonb_build_object('scan_id', p.scan_id) END
          || CASE WHEN p.flags = '{}' THEN '{}' ELSE jsonb_build_object('flags', to_jsonb(p.flags)) END,
        about || jsonb_build_object('kind', 'passage', 'of_previous', true, 'outcome', 'passed') || CASE WHEN coalesce(p.units, t.units) = 1 THEN '{"unit": 1}'::jsonb ELSE '{}' END)
      ELSE jsonb_build_array(about || jsonb_build_object('kind', 'refusal', 'of', jsonb_build_array(p.epoch, p.seq), 'reason', CASE WHEN p.reason IS NULL THEN 'invalid' ELSE known_reason(p.reason) END,
          'explanation', left(coalesce(p.reason, 'refused by the device'), 200))
          || CASE WHEN p.device = '' THEN '{}' ELSE jsonb_build_object('device', p.device) END
          || CASE WHEN p.scan_id IS NULL THEN '{}' ELSE jsonb_build_object('scan_id', p.scan_id) END) END, p.at, p.bound_ms, p.clock, p.gate, p.offset_ms) AS r;
      IF p.device <> '' THEN
        INSERT INTO device_scans (tenant_id, device, scan_key, online, gate, epoch, seq, event_id, ticket_id, result, scanned_at, scan_count)
        VALUES (tenant, p.device, p.scan_key, false, placed.ledger, placed.epoch, placed.first_seq, event, p.ticket_id, p.result, p.scanned_at, p.scan_count);
      END IF;
      DELETE FROM pending_scans x WHERE x.tenant_id = tenant AND x.device = p.device AND x.scan_key = p.scan_key;
      settled := settled + 1;
    EXCEPTION WHEN OTHERS THEN
      UPDATE pending_scans x SET failed = left(SQLERRM, 512) WHERE x.tenant_id = tenant AND x.device = p.device AND x.scan_key = p.scan_key;
    END;
  END LOOP;
  RETURN settled;
END
$$;
