CREATE OR REPLACE FUNCTION record_unknown_tickets(events text[], ticket_ids text[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_custom_plan SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off SET jit = off AS $$
BEGIN
  UPDATE ticket_usage u SET known = false FROM unnest(events, ticket_ids) AS k (event_id, ticket_id) WHERE u.tenant_id = current_tenant_id() AND u.event_id = k.event_id AND u.ticket_id = k.ticket_id;
END
$$;
