-- Tests, and nothing else: a setting that no program of ours makes, and a database that says so by its name.
CREATE OR REPLACE FUNCTION is_test_database() RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT coalesce(current_setting('stile.test_mode', true), '') = 'on' AND current_database() ~ '^(stile_)?test'
$$;
