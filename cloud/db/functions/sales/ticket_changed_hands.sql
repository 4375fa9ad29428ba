-- A ticket that changes hands changes both people's counts. Entries don't come by here: see user_ticket_stats.
CREATE OR REPLACE FUNCTION ticket_changed_hands() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  whose text;
BEGIN
  IF TG_OP = 'INSERT' THEN
    FOR whose IN SELECT DISTINCT n.user_id FROM appeared n WHERE n.user_id IS NOT NULL ORDER BY 1 LOOP PERFORM update_user_ticket_stats(whose); END LOOP;
    RETURN NULL;
  END IF;
  FOR whose IN SELECT DISTINCT w FROM unnest(ARRAY[OLD.user_id, NEW.user_id]) AS w WHERE w IS NOT NULL ORDER BY 1 LOOP PERFORM update_user_ticket_stats(whose); END LOOP;
  RETURN NULL;
END
$$;
