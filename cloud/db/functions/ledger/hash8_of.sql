-- Returns the first eight bytes of a hash as a number: with the place of a row, the identity of an admission.
CREATE OR REPLACE FUNCTION hash8_of(hash bytea) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT ('x' || encode(substring(hash FROM 1 FOR 8), 'hex'))::bit(64)::bigint $$;
