CREATE OR REPLACE FUNCTION next_vip_statuses(status text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE status WHEN 'pending' THEN '{confirmed,cancelled}' WHEN 'confirmed' THEN '{checked_in,cancelled,no_show}' WHEN 'checked_in' THEN '{completed,cancelled}' WHEN 'no_show' THEN '{checked_in}' ELSE '{}' END::text[]
$$;
