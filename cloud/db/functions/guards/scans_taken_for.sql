-- A scan is not taken any more before its key is forgotten, so that a repeat never counts twice.
CREATE OR REPLACE FUNCTION scans_taken_for() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT interval '366 days'
$$;
