CREATE OR REPLACE FUNCTION actor_type_now() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN context_of('actor_type') IN ('user', 'system', 'admin', 'service') THEN context_of('actor_type') WHEN context_of('current_user_id') IS NULL THEN 'system' ELSE 'user' END
$$;
