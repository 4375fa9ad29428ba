-- What follows from the account, after every statement that touches a VIP's ticket. Never raises for what a reservation is.
CREATE OR REPLACE FUNCTION vip_follows_account() RETURNS trigger LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan SET enable_hashjoin = on SET enable_seqscan = on AS $$
DECLARE
  touched uuid[];
BEGIN
  IF NOT EXISTS (SELECT FROM after_change n WHERE n.vip) THEN RETURN NULL; END IF;
  INSERT INTO vip_scan_logs AS g (tenant_id, reservation_id, pass_id, event_id, ticket_id, scan_type, scanned_at, previous_entry_at, gate, epoch, seq)
  SELECT n.tenant_id, coalesce(p.reservation_id, l.reservation_id), p.pass_id, n.event_id, n.ticket_id, CASE a.verdict WHEN 'winner' THEN 'first_entry' ELSE 'reentry' END, a.at, a.before, a.gate, a.epoch, a.seq
  FROM after_change n
  LEFT JOIN vip_guest_passes p ON p.tenant_id = n.tenant_id AND p.event_id = n.event_id AND p.ticket_id = n.ticket_id
  LEFT JOIN vip_linked_tickets l ON l.tenant_id = n.tenant_id AND l.event_id = n.event_id AND l.ticket_id = n.ticket_id
  CROSS JOIN LATERAL (SELECT x.*, lag(x.at) OVER (ORDER BY x.at, x.gate COLLATE "C", x.epoch, x.seq) AS before FROM admissions x WHERE x.tenant_id = n.tenant_id AND x.event_id = n.event_id AND x.ticket_id = n.ticket_id AND x.verdict IN ('winner', 'reentry')) AS a
  WHERE n.vip ORDER BY a.at, a.gate, a.epoch, a.seq
  ON CONFLICT (tenant_id, gate, epoch, seq) DO UPDATE SET scan_type = excluded.scan_type, previous_entry_at = excluded.previous_entry_at, scanned_at = excluded.scanned_at, given_back = false
  WHERE (g.scan_type, g.previous_entry_at, g.scanned_at, g.given_back) IS DISTINCT FROM (excluded.scan_type, excluded.previous_entry_at, excluded.scanned_at, false);
  UPDATE vip_scan_logs g SET given_back = true FROM after_change n
  WHERE n.vip AND g.tenant_id = n.tenant_id AND g.event_id = n.event_id AND g.ticket_id = n.ticket_id AND g.scan_type <> 'refused' AND NOT g.given_back
    AND NOT EXISTS (SELECT FROM admissions a WHERE a.tenant_id = g.tenant_id AND a.gate = g.gate AND a.epoch = g.epoch AND a.seq = g.seq AND a.verdict IN ('winner', 'reentry'));

  PERFORM 1 FROM vip_guest_passes p WHERE (p.tenant_id, p.event_id, p.ticket_id) IN (SELECT n.tenant_id, n.event_id, n.ticket_id FROM after_change n WHERE n.vip) ORDER BY p.pass_id FOR NO KEY UPDATE;
  WITH changed AS (
    UPDATE vip_guest_passes p SET entries = n.scan_count, checked_in_at = n.first_scanned_at, last_entry_at = n.last_scanned_at,
      status = CASE WHEN n.status IN ('revoked', 'refunded', 'cancelled', 'expired') THEN 'revoked' WHEN n.scan_count > 0 THEN 'checked_in' ELSE 'issued' END
    FROM after_change n WHERE n.vip AND p.tenant_id = n.tenant_id AND p.event_id = n.event_id AND p.ticket_id = n.ticket_id
      AND (p.entries, p.checked_in_at, p.last_entry_at, p.status = 'revoked') IS DISTINCT FROM (n.scan_count, n.first_scanned_at, n.last_scanned_at, n.status IN ('revoked', 'refunded', 'cancelled', 'expired'))
    RETURNING p.reservation_id
  )
  SELECT array_agg(DISTINCT c.reservation_id) INTO touched FROM changed c;
  IF touched IS NULL THEN RETURN NULL; END IF;
  PERFORM 1 FROM vip_reservations r WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = ANY (touched) ORDER BY r.reservation_id FOR NO KEY UPDATE;
  -- Guests that are in stay counted when their pass is taken from them.
  UPDATE vip_reservations r SET checked_in_guests = c.guests, checked_in_at = c.first_at, status = CASE WHEN c.guests > 0 AND r.status IN ('confirmed', 'no_show') THEN 'checked_in' ELSE r.status END
  FROM (SELECT p.reservation_id, count(*) FILTER (WHERE p.entries > 0) AS guests, min(p.checked_in_at) AS first_at FROM vip_guest_passes p WHERE p.tenant_id = current_tenant_id() AND p.reservation_id = ANY (touched) GROUP BY 1) AS c
  WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = c.reservation_id
    AND ((r.checked_in_guests, r.checked_in_at) IS DISTINCT FROM (c.guests::integer, c.first_at) OR (c.guests > 0 AND r.status IN ('confirmed', 'no_show')));
  RETURN NULL;
END
$$;
