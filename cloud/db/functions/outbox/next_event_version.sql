-- A version that rises past every published one, also after the database was restored from an old copy: never below the clock.
CREATE OR REPLACE FUNCTION next_event_version(current_version bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT greatest(current_version + 1, extract(epoch FROM clock_timestamp())::bigint)
$$;
