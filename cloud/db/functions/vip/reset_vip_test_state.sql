-- For tests: a reservation as if nobody had come. The account's own way: every entry is settled as returned; the state, which goes back for nobody else,
-- is confirmed again, and the log is emptied.
CREATE OR REPLACE FUNCTION reset_vip_test_state(reservation uuid) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  settled integer;
  site text;
  words jsonb;
BEGIN
  IF NOT is_test_database() THEN PERFORM refuse(403, 'FORBIDDEN', 'reset_vip_test_state is for tests: it needs stile.test_mode = on and a database whose name begins with test or stile_test'); END IF;
  SELECT e.site_id, jsonb_agg(jsonb_build_object('kind', 'settlement', 'of', jsonb_build_array(a.gate, a.epoch, a.seq), 'outcome', 'returned', 'actor', 'system', 'reason', 'reset for a test',
      'event_id', a.event_id, 'ticket_id', a.ticket_id, 'ticket_ref', encode(a.ticket_ref, 'hex'), 'direction', a.direction) ORDER BY a.at), count(*) INTO site, words, settled
  FROM admissions a JOIN events e ON e.tenant_id = a.tenant_id AND e.event_id = a.event_id
  WHERE a.tenant_id = current_tenant_id() AND a.granted AND a.units_used > 0 AND (a.event_id, a.ticket_id) IN (SELECT p.event_id, p.ticket_id FROM vip_guest_passes p WHERE p.tenant_id = a.tenant_id AND p.reservation_id = reservation) GROUP BY e.site_id;
  IF words IS NOT NULL THEN PERFORM append_cloud_rows(site, words); END IF;
  PERFORM set_config('app.vip_reset', 'on', true);
  UPDATE vip_reservations r SET status = 'confirmed' WHERE r.tenant_id = current_tenant_id() AND r.reservation_id = reservation;
  PERFORM set_config('app.vip_reset', '', true);
  DELETE FROM vip_scan_logs g WHERE g.tenant_id = current_tenant_id() AND g.reservation_id = reservation;
  RETURN coalesce(settled, 0);
END
$$;
