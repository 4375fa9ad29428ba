-- Scans of one device that may wait; further ones are answered ERROR, put into quarantine, and are the scanner's to send again.
CREATE OR REPLACE FUNCTION pending_scans_at_most() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 10000 $$;
