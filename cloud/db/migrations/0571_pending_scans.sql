-- Scans of tickets that the cloud does not know yet: kept, and settled at their own time when the ticket appears.

-- What a scanner says that it counted may be any whole number.
ALTER TABLE device_scans ALTER COLUMN scan_count TYPE bigint;

CREATE TABLE pending_scans (
  tenant_id uuid NOT NULL,
  device text NOT NULL,
  -- As in device_scans: the scan keeps its key when it is settled, so that a repeat is known before and after.
  scan_key text NOT NULL CHECK (length(scan_key) BETWEEN 4 AND 160),
  -- NULL: the scanner did not say; the ticket is looked for in the events of the device's site.
  event_id text,
  ticket_id text NOT NULL,
  direction text NOT NULL CHECK (direction IN ('in', 'out')),
  -- NULL: as many as the ticket is for.
  units integer CHECK (units BETWEEN 1 AND 100),
  scan_id text,
  scan_count bigint CHECK (scan_count >= 0),
  flags text[] NOT NULL DEFAULT '{}',
  scanned_at timestamptz NOT NULL,
  -- When it happened, whose clock says so and how sure that is.
  at timestamptz NOT NULL,
  clock text NOT NULL,
  bound_ms integer NOT NULL,
  -- Why it could not be settled, if that was tried.
  failed text CHECK (length(failed) <= 512),
  received_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, device, scan_key),
  FOREIGN KEY (tenant_id, device) REFERENCES devices (tenant_id, name)
);
CREATE INDEX pending_scans_by_ticket ON pending_scans (tenant_id, ticket_id);
CREATE INDEX pending_scans_by_age ON pending_scans (tenant_id, received_at);
SELECT isolate_by_tenant('pending_scans');
GRANT SELECT ON pending_scans TO stile_resolver;

-- Scans of one device that may wait; further ones are answered ERROR, put into quarantine, and are the scanner's to send again.
CREATE FUNCTION pending_scans_at_most() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 10000 $$;

-- The event whose ticket a waiting scan is of: the one that it names, else the only one at the device's site, of those that the device is assigned first.
CREATE FUNCTION event_of_pending_scan(device_name text, event text, ticket text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN count(*) FILTER (WHERE f.assigned) = 1 THEN min(f.event_id) FILTER (WHERE f.assigned) WHEN count(*) = 1 THEN min(f.event_id) END FROM (
    SELECT e.event_id, EXISTS (SELECT FROM gate_assignments g WHERE g.tenant_id = e.tenant_id AND g.gate = device_name AND g.event_id = e.event_id) AS assigned
    FROM events e JOIN tickets t ON t.tenant_id = e.tenant_id AND t.event_id = e.event_id AND t.ticket_id = ticket
    WHERE e.tenant_id = current_tenant_id() AND e.site_id = split_part(device_name, '/', 1) AND (event IS NULL OR e.event_id = event)) AS f
$$;

-- Settles what waits for these tickets, as admissions at the scans' own times; answers how many. impatient: where another has a site's ledger, its scans are
-- left for the next time (whoever inserts tickets has their locks already, and must not wait for a ledger). One that cannot be settled undoes no other.
CREATE FUNCTION settle_pending_scans(tickets_in text[], impatient boolean DEFAULT false, at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
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
  FOR one IN SELECT x.device, x.scan_key, split_part(x.device, '/', 1) AS site FROM pending_scans x WHERE x.tenant_id = tenant AND x.ticket_id = ANY (tickets_in) ORDER BY split_part(x.device, '/', 1), x.at, x.device, x.scan_key LIMIT at_most LOOP
    site := one.site;
    IF NOT site = ANY (held) THEN
      -- Whoever kept the scan made the ledger.
      IF impatient THEN
        PERFORM 1 FROM ledgers l WHERE l.tenant_id = tenant AND l.gate = site || '/cloud' FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
      ELSE
        PERFORM lock_cloud_ledger(site);
      END IF;
      held := held || site;
    END IF;
    -- Under the ledger's lock nobody else settles it.
    SELECT * INTO p FROM pending_scans x WHERE x.tenant_id = tenant AND x.device = one.device AND x.scan_key = one.scan_key;
    CONTINUE WHEN NOT FOUND;
    event := event_of_pending_scan(p.device, p.event_id, p.ticket_id);
    CONTINUE WHEN event IS NULL;
    BEGIN
      SELECT x.units, encode(x.ticket_ref, 'hex') AS ref, e.version,
        (SELECT coalesce(sum(a.units_used), 0) FROM admissions a WHERE a.tenant_id = x.tenant_id AND a.event_id = x.event_id AND a.ticket_id = x.ticket_id AND a.verdict IN ('winner', 'reentry')) AS entered INTO t FROM tickets x
      JOIN events e ON e.tenant_id = x.tenant_id AND e.event_id = x.event_id
      WHERE x.tenant_id = tenant AND x.event_id = event AND x.ticket_id = p.ticket_id;
      about := jsonb_build_object('event_id', event, 'ticket_id', p.ticket_id, 'ticket_ref', t.ref, 'direction', p.direction);
      SELECT r.ledger, r.epoch, r.first_seq INTO placed FROM append_cloud_rows(site, jsonb_build_array(
        about || jsonb_build_object('kind', 'grant', 'type', CASE WHEN p.direction = 'out' THEN 'exit' WHEN t.entered >= t.units THEN 'reentry' ELSE 'first_entry' END, 'units', coalesce(p.units, t.units), 'medium', 'opaque',
          'manifest_version', greatest(0, least(t.version, floor(extract(epoch FROM p.at))::bigint)), 'online', false, 'latency_us', 0, 'seen', '{}'::jsonb, 'device', p.device)
          || CASE WHEN p.scan_id IS NULL THEN '{}' ELSE jsonb_build_object('scan_id', p.scan_id) END
          || CASE WHEN p.flags = '{}' THEN '{}' ELSE jsonb_build_object('flags', to_jsonb(p.flags)) END,
        about || jsonb_build_object('kind', 'passage', 'of_previous', true, 'outcome', 'passed') || CASE WHEN coalesce(p.units, t.units) = 1 THEN '{"unit": 1}'::jsonb ELSE '{}' END), p.at, p.bound_ms, p.clock) AS r;
      INSERT INTO device_scans (tenant_id, device, scan_key, online, gate, epoch, seq, event_id, ticket_id, result, scanned_at, scan_count)
      VALUES (tenant, p.device, p.scan_key, false, placed.ledger, placed.epoch, placed.first_seq, event, p.ticket_id, 'ALLOW', p.scanned_at, p.scan_count);
      DELETE FROM pending_scans x WHERE x.tenant_id = tenant AND x.device = p.device AND x.scan_key = p.scan_key;
      settled := settled + 1;
    EXCEPTION WHEN OTHERS THEN
      UPDATE pending_scans x SET failed = left(SQLERRM, 512) WHERE x.tenant_id = tenant AND x.device = p.device AND x.scan_key = p.scan_key;
    END;
  END LOOP;
  RETURN settled;
END
$$;

-- By every door that makes tickets, at once. In a large batch the rest is left for whoever settles regularly, and for the next scan of such a ticket.
CREATE FUNCTION tickets_settle_pending_scans() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wanted text[];
BEGIN
  IF NOT EXISTS (SELECT FROM pending_scans p WHERE p.tenant_id = current_tenant_id()) THEN RETURN NULL; END IF;
  SELECT array_agg(DISTINCT p.ticket_id) INTO wanted FROM pending_scans p JOIN appeared n ON n.tenant_id = p.tenant_id AND n.ticket_id = p.ticket_id WHERE p.tenant_id = current_tenant_id();
  IF wanted IS NOT NULL THEN PERFORM settle_pending_scans(wanted, true, 200); END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER tickets_settle_scans_that_wait AFTER INSERT ON tickets REFERENCING NEW TABLE AS appeared FOR EACH STATEMENT EXECUTE FUNCTION tickets_settle_pending_scans();

-- What was left: tickets that are there while scans wait for them. Regularly, tenant by tenant.
CREATE FUNCTION settle_scans_left_waiting(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  wanted text[];
BEGIN
  SELECT array_agg(k.ticket_id) INTO wanted FROM (
    SELECT DISTINCT p.ticket_id FROM pending_scans p WHERE p.tenant_id = current_tenant_id() AND p.failed IS NULL AND event_of_pending_scan(p.device, p.event_id, p.ticket_id) IS NOT NULL LIMIT at_most) AS k;
  RETURN CASE WHEN wanted IS NULL THEN 0 ELSE settle_pending_scans(wanted, false, at_most) END;
END
$$;
CREATE FUNCTION tenants_with_waiting_scans(wanted integer) RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT DISTINCT p.tenant_id FROM pending_scans p
    WHERE p.failed IS NULL AND EXISTS (SELECT FROM tickets t WHERE t.tenant_id = p.tenant_id AND t.ticket_id = p.ticket_id AND (p.event_id IS NULL OR t.event_id = p.event_id)) LIMIT wanted $$;
ALTER FUNCTION tenants_with_waiting_scans(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION tenants_with_waiting_scans(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenants_with_waiting_scans(integer) TO stile_service;

-- Puts scans of one device into quarantine, as many as may stand there; answers of each whether it does. The same again only counts.
CREATE FUNCTION quarantine_scans(device text, reasons text[], details text[], payloads text[]) RETURNS boolean[] LANGUAGE plpgsql AS $$
DECLARE
  most CONSTANT integer := 1000;
  tenant uuid := current_tenant_id();
  named text := 'offline/reconcile ' || device;
  room integer;
  kept boolean[];
BEGIN
  SELECT most - count(*) INTO room FROM (SELECT 1 FROM quarantine q WHERE q.tenant_id = tenant AND q.topic = named LIMIT most) AS few;
  WITH given AS (
    SELECT g.place, g.reason, left(g.detail, 512) AS detail, convert_to(g.payload, 'UTF8') AS bytes, sha256(convert_to(g.payload, 'UTF8')) AS hash FROM unnest(reasons, details, payloads) WITH ORDINALITY AS g (reason, detail, payload, place)
  ), each_once AS (
    SELECT g.reason, g.hash, min(g.place) AS place, count(*) AS times, (array_agg(g.detail ORDER BY g.place))[1] AS detail, (array_agg(g.bytes ORDER BY g.place))[1] AS bytes,
      EXISTS (SELECT FROM quarantine q WHERE q.tenant_id = tenant AND q.topic = named AND q.reason = g.reason AND q.payload_sha256 = g.hash) AS there
    FROM given g GROUP BY g.reason, g.hash
  ), taken AS (
    SELECT e.*, e.there OR row_number() OVER (PARTITION BY e.there ORDER BY e.place) <= room AS fits FROM each_once e
  ), written AS (
    INSERT INTO quarantine AS q (tenant_id, topic, reason, detail, payload_sha256, payload_bytes, payload, times)
    SELECT tenant, named, t.reason, t.detail, t.hash, octet_length(t.bytes), substring(t.bytes FOR 65536), t.times FROM taken t WHERE t.fits ORDER BY t.reason, t.hash
    ON CONFLICT (tenant_id, topic, reason, payload_sha256) DO UPDATE SET times = q.times + excluded.times, last_at = now()
  )
  SELECT array_agg(t.fits ORDER BY g.place) INTO kept FROM given g JOIN taken t ON t.reason = g.reason AND t.hash = g.hash;
  RETURN kept;
END
$$;
