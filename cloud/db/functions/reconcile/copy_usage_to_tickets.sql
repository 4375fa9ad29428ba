CREATE OR REPLACE FUNCTION copy_usage_to_tickets(other_events text[], other_tickets text[], first_events text[] DEFAULT '{}', first_tickets text[] DEFAULT '{}', first_ats timestamptz[] DEFAULT '{}',
    OUT unknown_events text[], OUT unknown_tickets text[], OUT lost_events text[], OUT lost_tickets text[]) LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off SET jit = off AS $$
DECLARE
  tenant uuid := current_tenant_id();
  actor text := context_of('current_user_id');
  why text := context_of('status_change_reason');
  written bigint;
BEGIN
  WITH done AS (
    UPDATE tickets t SET
      scan_count = u.entries, first_scanned_at = u.first_at, last_scanned_at = u.last_at,
      status = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN 'checked_in'
        WHEN u.entries = 0 AND t.status = 'checked_in' AND t.status_before_entry IS NOT NULL THEN t.status_before_entry ELSE t.status END,
      status_before_entry = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN t.status WHEN u.entries = 0 THEN NULL ELSE t.status_before_entry END,
      status_changed_at = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN now() ELSE t.status_changed_at END,
      status_changed_by = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN actor ELSE t.status_changed_by END,
      status_reason = CASE WHEN u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred') THEN why ELSE t.status_reason END
    FROM usage_to_copy(other_events, other_tickets, first_events, first_tickets, first_ats) AS u
    WHERE t.tenant_id = tenant AND t.event_id = u.event_id AND t.ticket_id = u.ticket_id
      AND ((t.scan_count, t.first_scanned_at, t.last_scanned_at) IS DISTINCT FROM (u.entries, u.first_at, u.last_at)
        OR (u.entries > 0 AND t.status IN ('sold', 'minted', 'active', 'transferred')) OR (u.entries = 0 AND t.status_before_entry IS NOT NULL))
    RETURNING u.first, t.event_id, t.ticket_id, t.rights_lost_at
  )
  SELECT count(*), array_agg(d.event_id) FILTER (WHERE d.rights_lost_at IS NOT NULL), array_agg(d.ticket_id) FILTER (WHERE d.rights_lost_at IS NOT NULL) INTO written, lost_events, lost_tickets FROM done d WHERE d.first;
  IF written < cardinality(first_tickets) THEN
    SELECT array_agg(f.event_id), array_agg(f.ticket_id) INTO unknown_events, unknown_tickets FROM unnest(first_events, first_tickets) AS f (event_id, ticket_id)
    LEFT JOIN LATERAL (SELECT true AS there FROM tickets t WHERE t.tenant_id = tenant AND t.event_id = f.event_id AND t.ticket_id = f.ticket_id LIMIT 1) AS k ON true WHERE k.there IS NULL;
  END IF;
END
$$;
