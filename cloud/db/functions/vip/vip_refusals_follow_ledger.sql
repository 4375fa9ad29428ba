CREATE OR REPLACE FUNCTION vip_refusals_follow_ledger(gates text[], epochs bigint[], seqs bigint[], kinds text[], readables boolean[], entries text[], ats timestamptz[], event_ids text[], ticket_ids text[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on AS $$
BEGIN
  INSERT INTO vip_scan_logs (tenant_id, reservation_id, pass_id, event_id, ticket_id, scan_type, reason, scanned_at, previous_entry_at, gate, epoch, seq)
  SELECT t.tenant_id, coalesce(p.reservation_id, l.reservation_id), p.pass_id, t.event_id, t.ticket_id, 'refused', substring(r.entry FROM '"reason":"([a-z_]{1,32})"'), r.at, t.last_scanned_at, r.gate, r.epoch, r.seq
  FROM unnest(gates, epochs, seqs, kinds, readables, entries, ats, event_ids, ticket_ids) AS r (gate, epoch, seq, kind, readable, entry, at, event_id, ticket_id)
  CROSS JOIN LATERAL (SELECT * FROM tickets x WHERE x.tenant_id = current_tenant_id() AND x.event_id = r.event_id AND x.ticket_id = r.ticket_id LIMIT 1) AS t
  LEFT JOIN LATERAL (SELECT * FROM vip_guest_passes x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id LIMIT 1) AS p ON true
  LEFT JOIN LATERAL (SELECT * FROM vip_linked_tickets x WHERE x.tenant_id = t.tenant_id AND x.event_id = t.event_id AND x.ticket_id = t.ticket_id LIMIT 1) AS l ON true
  WHERE r.kind = 'refusal' AND r.readable AND t.vip
  ORDER BY r.gate, r.epoch, r.seq
  ON CONFLICT DO NOTHING;
END
$$;
