-- Judges what is due, at most so many tickets; answers how many. Marks that another judges are left to him.
CREATE OR REPLACE FUNCTION re_evaluate_due_tickets(at_most integer DEFAULT 1000) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  events text[];
  ticket_ids text[];
BEGIN
  WITH due AS (
    SELECT d.id FROM judgements_due d WHERE d.tenant_id = current_tenant_id() ORDER BY d.id LIMIT at_most FOR UPDATE SKIP LOCKED
  ), done AS (
    DELETE FROM judgements_due d USING due WHERE d.tenant_id = current_tenant_id() AND d.id = due.id RETURNING d.event_id, d.ticket_id
  )
  SELECT array_agg(x.event_id), array_agg(x.ticket_id) INTO events, ticket_ids FROM (SELECT DISTINCT * FROM done) AS x;
  IF events IS NULL THEN RETURN 0; END IF;
  PERFORM judge_tickets(events, ticket_ids);
  RETURN cardinality(events);
END
$$;
