-- What the account would make of an entry now, by its own replay: the entry is put in, judged, and taken out again. Needs the ticket's lock.
CREATE OR REPLACE FUNCTION preview_entry(t tickets, site text, at timestamptz, device text, OUT verdict text, OUT cause text)
  -- Always one ticket: its plan need not be made anew.
  LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  foreseen CONSTANT bigint := 9223372036854775807;
BEGIN
  INSERT INTO admissions (tenant_id, gate, epoch, seq, event_id, ticket_id, granted, ticket_ref, direction, units, manifest_version, at_low, at, at_high, placed, scanner)
  SELECT t.tenant_id, cloud_ledger_of(site, device), foreseen, foreseen, t.event_id, t.ticket_id, true, t.ticket_ref, 'in', t.units, e.version, preview_entry.at, preview_entry.at, preview_entry.at, true, device FROM events e WHERE e.tenant_id = t.tenant_id AND e.event_id = t.event_id;
  SELECT r.verdict, r.cause INTO verdict, cause FROM evaluate_tickets(ARRAY[t.event_id], ARRAY[t.ticket_id]) AS r WHERE r.seq = foreseen;
  DELETE FROM admissions a WHERE a.tenant_id = t.tenant_id AND a.gate = cloud_ledger_of(site, device) AND a.epoch = foreseen AND a.seq = foreseen;
END
$$;
