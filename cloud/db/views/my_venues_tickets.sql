-- requires: ticket_overview
CREATE OR REPLACE VIEW my_venues_tickets WITH (security_invoker = true) AS
  SELECT t.* FROM ticket_overview t JOIN events e ON e.tenant_id = t.tenant_id AND e.event_id = t.event_id
  WHERE EXISTS (SELECT FROM venues v WHERE v.tenant_id = e.tenant_id AND v.site_id = e.site_id AND v.owner_user_id = context_of('current_user_id'));

GRANT SELECT ON my_venues_tickets TO stile_service;
