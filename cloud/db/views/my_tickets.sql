-- requires: ticket_overview
-- What one holder, or the owner of a venue, may see. For programs that speak for one person (app.current_user_id).
CREATE OR REPLACE VIEW my_tickets WITH (security_invoker = true) AS SELECT t.* FROM ticket_overview t WHERE t.user_id = context_of('current_user_id') AND t.deleted_at IS NULL;

GRANT SELECT ON my_tickets TO stile_service;
