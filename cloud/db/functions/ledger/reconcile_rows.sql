-- The same, for rows as records in the order of their ledgers: what SQL itself appends. The chain within is computed here.
CREATE OR REPLACE FUNCTION reconcile_rows(input ledger_input[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  done jsonb;
BEGIN
  done := (SELECT reconcile_columns(array_agg(i.gate), array_agg(i.epoch), array_agg(i.seq), array_agg(decode(i.hash, 'hex')), array_agg(i.kind), array_agg(i.readable), array_agg(i.entry), array_agg(i.ts), array_agg(i.boot_id), array_agg(i.boottime_ms),
    array_agg(i.offset_ms), array_agg(i.bound_ms), array_agg(i.event_id), array_agg(i.ticket_id), array_agg(decode(i.ticket_ref, 'hex')), array_agg(i.direction), array_agg(i.units), array_agg(i.manifest_version),
    array_agg(i.of_gate), array_agg(i.of_epoch), array_agg(i.of_seq), array_agg(i.unit), array_agg(i.outcome),
    array_agg(i.again_gate), array_agg(i.again_epoch), array_agg(i.again_seq), array_agg(decode(i.again_hash, 'hex')), array_agg(decode(i.of_hash, 'hex')), array_agg(i.chained))
    FROM (
      SELECT r.*, CASE WHEN r.seq = 1 THEN row_follows(sha256(convert_to(format('%s/%s', r.gate, r.epoch), 'UTF8')), r.entry, decode(r.hash, 'hex'))
        ELSE row_follows(lag(decode(r.hash, 'hex')) OVER (PARTITION BY r.gate, r.epoch, r.seq - r.p ORDER BY r.p), r.entry, decode(r.hash, 'hex')) END AS chained
      FROM (SELECT x.*, row_number() OVER (ORDER BY x.gate, x.epoch, x.seq) AS p FROM (SELECT DISTINCT ON (y.gate, y.epoch, y.seq) y.* FROM unnest(input) AS y ORDER BY y.gate, y.epoch, y.seq) AS x) AS r ORDER BY r.p) AS i);
  IF done -> 'apart' <> '[]' THEN RAISE EXCEPTION 'stored rows do not follow the ones that SQL wrote'; END IF;
  RETURN done;
END
$$;
