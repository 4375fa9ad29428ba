-- Takes what a gate says that it holds of its site's ledgers: {ledger: {epoch: [seq, hash]}}. Answers {ahead: whether a gate holds rows of a ledger that the cloud wrote
-- in its present life, or of an epoch nobody showed before, which this database does not hold: it went back in time; wants: [[ledger, epoch, from, to]], what it
-- lacks of these ledgers, at most so many}.
CREATE OR REPLACE FUNCTION take_heads(of_site text, heads jsonb, at_most integer) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  now_life uuid := (SELECT l.life FROM database_lives l WHERE l.ended_at IS NULL);
  ahead boolean;
  wants jsonb;
BEGIN
  WITH shown AS (
    SELECT h.key AS ledger, e.key::bigint AS epoch, (e.value ->> 0)::bigint AS seq, h.key LIKE '%/cloud' OR h.key LIKE '%/@%' AS of_cloud
    FROM jsonb_each(heads) AS h CROSS JOIN LATERAL jsonb_each(h.value) AS e WHERE split_part(h.key, '/', 1) = of_site
  ), held AS (
    SELECT s.*, x.upto_seq, x.life, l.seen_epoch FROM shown s
    LEFT JOIN ledger_epochs x ON x.tenant_id = tenant AND x.gate = s.ledger AND x.epoch = s.epoch
    LEFT JOIN ledgers l ON l.tenant_id = tenant AND l.gate = s.ledger
  )
  SELECT coalesce(bool_or(h.of_cloud AND h.seq > coalesce(h.upto_seq, 0) AND (h.life = now_life OR (h.upto_seq IS NULL AND h.epoch > coalesce(h.seen_epoch, 0)))), false),
    (SELECT coalesce(jsonb_agg(jsonb_build_array(w.ledger, w.epoch, w.from_seq, w.to_seq)), '[]') FROM (
      SELECT y.ledger, y.epoch, coalesce(y.upto_seq, 0) + 1 AS from_seq, y.seq AS to_seq FROM held y WHERE y.seq > coalesce(y.upto_seq, 0) ORDER BY y.of_cloud DESC, y.ledger, y.epoch LIMIT at_most) AS w)
  INTO ahead, wants FROM held h;
  INSERT INTO ledgers AS l (tenant_id, gate, site_id, seen_epoch)
  SELECT tenant, k.ledger, of_site, k.epoch FROM (SELECT h.key AS ledger, max(e.key::bigint) AS epoch FROM jsonb_each(heads) AS h CROSS JOIN LATERAL jsonb_each(h.value) AS e
    WHERE split_part(h.key, '/', 1) = of_site AND (h.key LIKE '%/cloud' OR h.key LIKE '%/@%') GROUP BY h.key) AS k ORDER BY k.ledger
  ON CONFLICT (tenant_id, gate) DO UPDATE SET seen_epoch = excluded.seen_epoch WHERE l.seen_epoch < excluded.seen_epoch;
  RETURN jsonb_build_object('ahead', ahead, 'wants', wants);
END
$$;
