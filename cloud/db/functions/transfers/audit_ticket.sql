CREATE OR REPLACE FUNCTION audit_ticket() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  -- Hashes of codes, counts and versions say nothing to people.
  old_row jsonb := to_jsonb(OLD) - '{tenant_id,ticket_ref,row_version,changed_version,updated_at,created_at,scan_count,first_scanned_at,last_scanned_at,status_before_entry,status_changed_at,status_changed_by,status_reason}'::text[];
  new_row jsonb;
BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO ticket_audit_log (tenant_id, event_id, ticket_id, action, actor, actor_type, source, old_values)
    VALUES (OLD.tenant_id, OLD.event_id, OLD.ticket_id, 'delete', context_of('current_user_id'), actor_type_now(), context_of('status_change_source'), jsonb_strip_nulls(old_row));
    RETURN NULL;
  END IF;
  new_row := to_jsonb(NEW);
  INSERT INTO ticket_audit_log (tenant_id, event_id, ticket_id, action, actor, actor_type, source, old_values, new_values)
  SELECT NEW.tenant_id, NEW.event_id, NEW.ticket_id, 'update', context_of('current_user_id'), actor_type_now(), context_of('status_change_source'),
    coalesce(jsonb_object_agg(o.key, o.value), '{}') || CASE WHEN NEW.ticket_ref <> OLD.ticket_ref THEN '{"code": "old"}' ELSE '{}' END::jsonb,
    coalesce(jsonb_object_agg(o.key, new_row -> o.key), '{}') || CASE WHEN NEW.ticket_ref <> OLD.ticket_ref THEN '{"code": "new"}' ELSE '{}' END::jsonb
  FROM jsonb_each(old_row) AS o WHERE o.value IS DISTINCT FROM new_row -> o.key;
  RETURN NULL;
END
$$;
