CREATE OR REPLACE FUNCTION record_boots(gate_list text[], gates text[], epochs bigint[], seqs bigint[], boot_ids text[], boottimes double precision[], offsets double precision[], bounds double precision[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  moved bigint[];
  more bigint[];
BEGIN
  WITH alike AS (
    SELECT r.gate, r.boot_id, r.epoch, r.offset_ms, r.bound_ms, min(r.seq) AS low, max(r.seq) AS high, min(r.boottime_ms) AS min_ms, max(r.boottime_ms) AS max_ms
    FROM (SELECT gates[i] AS gate, boot_ids[i] AS boot_id, epochs[i] AS epoch, seqs[i] AS seq, boottimes[i] AS boottime_ms, offsets[i] AS offset_ms, bounds[i] AS bound_ms FROM generate_series(1, cardinality(gates)) AS i) AS r
    WHERE r.boot_id IS NOT NULL AND r.boottime_ms IS NOT NULL GROUP BY r.gate, r.boot_id, r.epoch, r.offset_ms, r.bound_ms
  ), seen AS (
    SELECT f.gate, f.boot_id, min(ARRAY[f.epoch, f.low]) AS first, max(ARRAY[f.epoch, f.high]) AS last, min(f.min_ms) AS min_ms, max(f.max_ms) AS max_ms,
      (array_agg(ROW(f.offset_ms, f.bound_ms, f.epoch, f.low)::boot_offset ORDER BY f.bound_ms, f.epoch, f.low) FILTER (WHERE f.offset_ms IS NOT NULL AND f.bound_ms IS NOT NULL))[1] AS best
    FROM alike AS f GROUP BY f.gate, f.boot_id
  ), kept AS (
    INSERT INTO boots AS b (tenant_id, gate, boot_id, first_epoch, first_seq, last_epoch, last_seq, min_boottime_ms, max_boottime_ms, offset_ms, bound_ms, offset_epoch, offset_seq)
    SELECT tenant, s.gate, s.boot_id, s.first[1], s.first[2], s.last[1], s.last[2], s.min_ms, s.max_ms, (s.best).offset_ms, (s.best).bound_ms, (s.best).epoch, (s.best).seq FROM seen s ORDER BY s.gate, s.boot_id
    ON CONFLICT (tenant_id, gate, boot_id) DO UPDATE SET
      first_epoch = CASE WHEN (excluded.first_epoch, excluded.first_seq) < (b.first_epoch, b.first_seq) THEN excluded.first_epoch ELSE b.first_epoch END,
      first_seq = CASE WHEN (excluded.first_epoch, excluded.first_seq) < (b.first_epoch, b.first_seq) THEN excluded.first_seq ELSE b.first_seq END,
      last_epoch = CASE WHEN (excluded.last_epoch, excluded.last_seq) > (b.last_epoch, b.last_seq) THEN excluded.last_epoch ELSE b.last_epoch END,
      last_seq = CASE WHEN (excluded.last_epoch, excluded.last_seq) > (b.last_epoch, b.last_seq) THEN excluded.last_seq ELSE b.last_seq END,
      min_boottime_ms = least(b.min_boottime_ms, excluded.min_boottime_ms), max_boottime_ms = greatest(b.max_boottime_ms, excluded.max_boottime_ms),
      offset_ms = CASE WHEN excluded.bound_ms IS NOT NULL AND (b.bound_ms IS NULL OR (excluded.bound_ms, excluded.offset_epoch, excluded.offset_seq) < (b.bound_ms, b.offset_epoch, b.offset_seq)) THEN excluded.offset_ms ELSE b.offset_ms END,
      bound_ms = CASE WHEN excluded.bound_ms IS NOT NULL AND (b.bound_ms IS NULL OR (excluded.bound_ms, excluded.offset_epoch, excluded.offset_seq) < (b.bound_ms, b.offset_epoch, b.offset_seq)) THEN excluded.bound_ms ELSE b.bound_ms END,
      offset_epoch = CASE WHEN excluded.bound_ms IS NOT NULL AND (b.bound_ms IS NULL OR (excluded.bound_ms, excluded.offset_epoch, excluded.offset_seq) < (b.bound_ms, b.offset_epoch, b.offset_seq)) THEN excluded.offset_epoch ELSE b.offset_epoch END,
      offset_seq = CASE WHEN excluded.bound_ms IS NOT NULL AND (b.bound_ms IS NULL OR (excluded.bound_ms, excluded.offset_epoch, excluded.offset_seq) < (b.bound_ms, b.offset_epoch, b.offset_seq)) THEN excluded.offset_seq ELSE b.offset_seq END
    RETURNING b.gate, b.boot_id, b.boot_no, b.offset_epoch, b.offset_seq, (b.xmax::text <> '0') AS known
  )
  SELECT coalesce(array_agg(k.boot_no), '{}') INTO moved FROM kept k JOIN seen s ON s.gate = k.gate AND s.boot_id = k.boot_id
  WHERE k.known AND (k.offset_epoch, k.offset_seq) = ((s.best).epoch, (s.best).seq);

  -- A boot without any offset lies between its nearest neighbours in the chain that have one.
  IF NOT EXISTS (SELECT FROM boots b WHERE b.tenant_id = tenant AND b.gate = ANY (gate_list) AND b.offset_ms IS NULL) THEN RETURN moved; END IF;
  WITH placed AS (
    SELECT b.boot_no,
      (SELECT time_of_ms(n.offset_ms + n.max_boottime_ms - n.bound_ms) FROM boots n WHERE n.tenant_id = tenant AND n.gate = b.gate AND n.offset_ms IS NOT NULL AND (n.last_epoch, n.last_seq) < (b.first_epoch, b.first_seq) ORDER BY n.last_epoch DESC, n.last_seq DESC LIMIT 1) AS after_at,
      (SELECT time_of_ms(n.offset_ms + n.min_boottime_ms + n.bound_ms) FROM boots n WHERE n.tenant_id = tenant AND n.gate = b.gate AND n.offset_ms IS NOT NULL AND (n.first_epoch, n.first_seq) > (b.last_epoch, b.last_seq) ORDER BY n.first_epoch, n.first_seq LIMIT 1) AS before_at
    FROM boots b WHERE b.tenant_id = tenant AND b.offset_ms IS NULL AND b.gate = ANY (gate_list)
  ), changed AS (
    UPDATE boots b SET after_at = p.after_at, before_at = CASE WHEN p.before_at IS NULL THEN NULL ELSE greatest(p.before_at, p.after_at) END FROM placed p
    WHERE b.tenant_id = tenant AND b.boot_no = p.boot_no AND b.gate = ANY (gate_list) AND (b.after_at, b.before_at) IS DISTINCT FROM (p.after_at, CASE WHEN p.before_at IS NULL THEN NULL ELSE greatest(p.before_at, p.after_at) END)
    RETURNING b.boot_no
  )
  SELECT coalesce(array_agg(boot_no), '{}') INTO more FROM changed;
  RETURN moved || more;
END
$$;
