CREATE OR REPLACE FUNCTION judge_tickets(events text[], ticket_ids text[]) RETURNS void LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  PERFORM lock_ticket_usage(events, ticket_ids);
  DECLARE
    deltas count_delta[] := store_verdicts(events, ticket_ids);
  BEGIN
    PERFORM copy_usage_to_tickets(events, ticket_ids);
    PERFORM add_counts(deltas);
  END;
END
$$;
