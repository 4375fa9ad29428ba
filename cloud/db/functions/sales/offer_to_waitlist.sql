-- Tells whoever waits longest and can be served, in order, as far as it reaches. An offer holds nothing: first come, first served.
CREATE OR REPLACE FUNCTION offer_to_waitlist(event text, tier text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  -- What is left, NULL: as many as there are.
  remaining integer := (SELECT x.available_quantity FROM ticket_types x WHERE x.tenant_id = current_tenant_id() AND x.event_id = event AND x.tier = offer_to_waitlist.tier);
  w waitlist;
  offered integer := 0;
BEGIN
  FOR w IN SELECT * FROM waitlist x WHERE x.tenant_id = current_tenant_id() AND x.event_id = event AND x.tier = offer_to_waitlist.tier AND x.status = 'waiting' ORDER BY x.waitlist_id LIMIT 100 FOR UPDATE SKIP LOCKED LOOP
    EXIT WHEN w.quantity > remaining;
    UPDATE waitlist x SET status = 'offered', offered_at = now() WHERE x.tenant_id = w.tenant_id AND x.waitlist_id = w.waitlist_id;
    INSERT INTO ticket_notifications (tenant_id, kind, user_id, event_id, detail) VALUES (w.tenant_id, 'waitlist_offer', w.user_id, event, jsonb_build_object('tier', w.tier, 'quantity', w.quantity));
    remaining := remaining - w.quantity;
    offered := offered + 1;
  END LOOP;
  RETURN offered;
END
$$;
