-- A set at a time: an ingest changes a thousand tickets in one statement.
CREATE OR REPLACE FUNCTION log_ticket_status_change() RETURNS trigger LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan
  SET enable_hashjoin = on AS $$
BEGIN
  INSERT INTO ticket_state_history (tenant_id, event_id, ticket_id, previous_status, new_status, changed_by, actor_type, reason, source, irregular)
  SELECT n.tenant_id, n.event_id, n.ticket_id, o.status, n.status, s.actor, s.actor_type,
    CASE WHEN NOT l.from_ledger THEN s.reason WHEN n.status = 'checked_in' THEN 'first entry' ELSE 'the entry was given back' END,
    CASE WHEN l.from_ledger THEN 'ledger' ELSE coalesce(s.source, 'database') END,
    NOT l.from_ledger AND NOT n.status = ANY (next_ticket_statuses(o.status))
  FROM after_change n JOIN before_change o ON o.tenant_id = n.tenant_id AND o.event_id = n.event_id AND o.ticket_id = n.ticket_id AND o.status <> n.status
  CROSS JOIN LATERAL (SELECT (n.status = 'checked_in' AND n.status_before_entry = o.status) IS TRUE OR (o.status = 'checked_in' AND n.status = o.status_before_entry AND n.status_before_entry IS NULL) IS TRUE AS from_ledger) AS l
  CROSS JOIN (SELECT context_of('current_user_id') AS actor, actor_type_now() AS actor_type, context_of('status_change_reason') AS reason, context_of('status_change_source') AS source) AS s
  ORDER BY n.event_id, n.ticket_id;
  RETURN NULL;
END
$$;
