-- Who acts, why and from where, for this transaction. What is set stays until it is set again or the transaction ends.
CREATE OR REPLACE FUNCTION set_status_change_context(actor text, actor_type text DEFAULT 'user', reason text DEFAULT '', source text DEFAULT '') RETURNS void LANGUAGE sql AS $$
  SELECT set_config('app.current_user_id', coalesce(actor, ''), true), set_config('app.actor_type', coalesce(actor_type, ''), true),
      set_config('app.status_change_reason', coalesce(reason, ''), true), set_config('app.status_change_source', coalesce(source, ''), true)
$$;
