-- Locks these tickets' compact rows, sorted.
CREATE OR REPLACE FUNCTION lock_ticket_usage(events text[], ticket_ids text[]) RETURNS void LANGUAGE plpgsql
  SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off
  SET plan_cache_mode = force_custom_plan
  SET enable_nestloop = on AS $$
BEGIN
  PERFORM 1 FROM (SELECT DISTINCT * FROM unnest(events, ticket_ids) AS k (event_id, ticket_id)) AS k
  JOIN ticket_usage u ON u.tenant_id = current_tenant_id() AND u.event_id = k.event_id AND u.ticket_id = k.ticket_id
  ORDER BY u.event_id, u.ticket_id FOR UPDATE OF u;
END
$$;
