-- Unix milliseconds → time, kept within what a timestamptz and a reader can bear. NULL of NULL: least() and greatest() pass over it, and would name a bound instead.
CREATE OR REPLACE FUNCTION time_of_ms(ms double precision) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN ms IS NOT NULL THEN to_timestamp(greatest(0, least(ms, 253402300799000)) / 1000.0) END
$$;
