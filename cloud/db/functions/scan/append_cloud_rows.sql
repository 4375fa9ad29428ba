-- Appends rows to <site>/cloud, or to in_ledger (a scanner's, cloud_ledger_of), and judges them: what appendCloudRows in cloud/reconcile/cloud-ledger.ts does, for callers in SQL. entries: objects as
-- contract/ledger.ts says, without what the ledger adds (seq, hash, times); of_previous: this row speaks of the one before it. clock: whose time that
-- was (rows of one clock share one bound, the smallest). clock_ahead_ms: at minus what that clock showed.
CREATE OR REPLACE FUNCTION append_cloud_rows(site text, entries jsonb, at timestamptz DEFAULT clock_timestamp(), bound_ms integer DEFAULT 0, clock text DEFAULT 'cloud', in_ledger text DEFAULT NULL, clock_ahead_ms bigint DEFAULT 0, OUT ledger text, OUT epoch bigint, OUT first_seq bigint) LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid := current_tenant_id();
  at_ms bigint := greatest(0, floor(extract(epoch FROM at) * 1000));
  previous text;
  number bigint;
  entry jsonb;
  body text;
  input ledger_input[] := '{}';
  stored bigint;
BEGIN
  IF tenant IS NULL THEN RAISE EXCEPTION 'no tenant is set: rows belong to a tenant' USING ERRCODE = 'insufficient_privilege'; END IF;
  ledger := coalesce(in_ledger, site || '/cloud');
  INSERT INTO ledgers (tenant_id, gate, site_id) VALUES (tenant, ledger, site) ON CONFLICT DO NOTHING;
  PERFORM 1 FROM ledgers l WHERE l.tenant_id = tenant AND l.gate = ledger FOR UPDATE;
  SELECT t.epoch, t.seq, t.hash INTO epoch, number, previous FROM cloud_ledger_tail(ledger) AS t;
  previous := coalesce(previous, encode(sha256(convert_to(format('%s/%s', ledger, epoch), 'UTF8')), 'hex'));
  first_seq := number + 1;
  FOR entry IN SELECT e.value FROM jsonb_array_elements(entries) WITH ORDINALITY AS e (value, place) ORDER BY e.place LOOP
    number := number + 1;
    IF entry ? 'of_previous' THEN entry := (entry - 'of_previous') || jsonb_build_object('of', jsonb_build_array(epoch, number - 1, previous)); END IF;
    entry := entry || jsonb_build_object('seq', number, 'ts', to_char(to_timestamp(at_ms / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'boot_id', clock, 'boottime_ms', greatest(0, at_ms - clock_ahead_ms), 'clock_offset_ms', at_ms - greatest(0, at_ms - clock_ahead_ms), 'clock_bound_ms', bound_ms);
    body := canonical_json(entry);
    previous := encode(sha256(convert_to(previous || body, 'UTF8')), 'hex');
    input := input || jsonb_populate_record(NULL::ledger_input, entry || jsonb_build_object('gate', ledger, 'epoch', epoch, 'hash', previous, 'readable', true, 'entry', body, 'offset_ms', entry -> 'clock_offset_ms', 'bound_ms', bound_ms)
      || CASE entry ->> 'kind' WHEN 'passage' THEN jsonb_build_object('of_epoch', entry -> 'of' -> 0, 'of_seq', entry -> 'of' -> 1, 'of_hash', entry -> 'of' -> 2)
        WHEN 'settlement' THEN jsonb_build_object('of_gate', entry -> 'of' -> 0, 'of_epoch', entry -> 'of' -> 1, 'of_seq', entry -> 'of' -> 2, 'of_hash', entry -> 'of' -> 3) ELSE '{}' END);
  END LOOP;
  stored := reconcile_rows(input) ->> 'stored';
  IF stored <> cardinality(input) THEN RAISE EXCEPTION '% of % rows of % are new: its epoch was written by somebody else', stored, cardinality(input), ledger; END IF;
END
$$;
