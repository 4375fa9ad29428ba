CREATE OR REPLACE FUNCTION next_transfer_statuses(status text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE status WHEN 'pending' THEN '{accepted,rejected,cancelled,expired}' WHEN 'accepted' THEN '{completed,cancelled,expired}' ELSE '{}' END::text[]
$$;
