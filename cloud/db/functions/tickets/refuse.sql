-- Tickets in full: what was sold and for how much, the twelve states with their allowed changes, and every change with who, why and from where.
--
-- A refusal of the database that people should read has an SQLSTATE `ST` + an HTTP status (ST404, ST409 …), a code in CONSTRAINT and a sentence in MESSAGE.
CREATE OR REPLACE FUNCTION refuse(http_status integer, code text, message text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'ST' || http_status, CONSTRAINT = code, MESSAGE = message;
END
$$;
