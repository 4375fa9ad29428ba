-- Begins a new life of the database, after it went back in time; only where `expected` is still the present one, so that of several who notice one begins it. Answers
-- the present life.
CREATE OR REPLACE FUNCTION renew_database_life(expected uuid, reason text) RETURNS uuid
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
  AS $$
DECLARE
  present uuid;
BEGIN
  UPDATE database_lives SET ended_at = clock_timestamp() WHERE ended_at IS NULL AND life = expected;
  IF FOUND THEN
    INSERT INTO database_lives (life, why, resend_since)
    VALUES (gen_random_uuid(), left(reason, 200), least(clock_timestamp() - interval '24 hours', coalesce((SELECT max(e.last_row_at) FROM ledger_epochs e), clock_timestamp())));
  END IF;
  SELECT l.life INTO present FROM database_lives l WHERE l.ended_at IS NULL;
  RETURN present;
END
$$;

ALTER FUNCTION renew_database_life(uuid, text) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION renew_database_life(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION renew_database_life(uuid, text) TO stile_service;
