CREATE OR REPLACE FUNCTION remember_event_policies() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND NEW.policies = OLD.policies THEN RETURN NULL; END IF;
  INSERT INTO event_policies (tenant_id, event_id, version, policies) VALUES (NEW.tenant_id, NEW.event_id, NEW.version, NEW.policies)
  ON CONFLICT (tenant_id, event_id, version) DO UPDATE SET policies = excluded.policies;
  RETURN NULL;
END
$$;
