-- The event whose ticket a waiting scan is of: the one that it names, else the only one at the device's site, of those that the device is assigned first.
CREATE OR REPLACE FUNCTION event_of_pending_scan(site text, device_name text, event text, ticket text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN count(*) FILTER (WHERE f.assigned) = 1 THEN min(f.event_id) FILTER (WHERE f.assigned) WHEN count(*) = 1 THEN min(f.event_id) END FROM (
    SELECT e.event_id, EXISTS (SELECT FROM gate_assignments g WHERE g.tenant_id = e.tenant_id AND g.gate = device_name AND g.event_id = e.event_id) AS assigned
    FROM events e JOIN tickets t ON t.tenant_id = e.tenant_id AND t.event_id = e.event_id AND t.ticket_id = ticket
    WHERE e.tenant_id = current_tenant_id() AND e.site_id = site AND (event IS NULL OR e.event_id = event)) AS f
$$;
