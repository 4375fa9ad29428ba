-- The time from which a scanner must send again what it keeps: the database went back to an older state, and it was not asked yet. NULL: nothing.
CREATE OR REPLACE FUNCTION resend_wanted_of(device text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT l.resend_since FROM database_lives l JOIN devices d ON d.tenant_id = current_tenant_id() AND d.name = device AND d.resend_asked IS DISTINCT FROM l.life
  WHERE l.ended_at IS NULL AND l.resend_since IS NOT NULL
$$;
