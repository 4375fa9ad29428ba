-- Returns whether a row's hash is that of its predecessor's and its own text (contract/hash-chain.ts).
CREATE OR REPLACE FUNCTION row_follows(previous bytea, entry text, hash bytea) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT sha256(convert_to(encode(previous, 'hex') || entry, 'UTF8')) = hash $$;
