CREATE OR REPLACE FUNCTION context_of(setting text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT nullif(current_setting('app.' || setting, true), '')
$$;
