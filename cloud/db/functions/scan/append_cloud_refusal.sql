CREATE OR REPLACE FUNCTION append_cloud_refusal(t tickets, site text, at timestamptz, bound_ms integer, clock text, device text, reason text, message text, OUT gate text, OUT epoch bigint, OUT seq bigint) LANGUAGE sql AS $$
  SELECT r.ledger, r.epoch, r.first_seq FROM append_cloud_rows(site, jsonb_build_array(jsonb_build_object('kind', 'refusal', 'reason', reason, 'explanation', left(message, 200), 'event_id', t.event_id, 'ticket_id', t.ticket_id,
    'ticket_ref', encode(t.ticket_ref, 'hex'), 'direction', 'in') || CASE WHEN device IS NULL THEN '{}' ELSE jsonb_build_object('device', device) END), at, bound_ms, clock, cloud_ledger_of(site, device)) AS r
$$;
