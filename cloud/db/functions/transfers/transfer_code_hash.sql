-- Offers a ticket to somebody. The codes come in hashed (transfer_code_hash).
CREATE OR REPLACE FUNCTION transfer_code_hash(transfer uuid, code text) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT sha256(convert_to(transfer::text || '/' || code, 'UTF8'))
$$;
