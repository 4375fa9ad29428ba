-- Puts scans of one device into quarantine, as many as may stand there; answers of each whether it does. The same again only counts.
CREATE OR REPLACE FUNCTION quarantine_scans(device text, reasons text[], details text[], payloads text[]) RETURNS boolean[] LANGUAGE plpgsql AS $$
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
