-- As ticketRef in cloud/tickets/codes/code-hash.ts: a scanner's marks before the code are taken off.
CREATE OR REPLACE FUNCTION ticket_ref_of(event text, code text) RETURNS bytea LANGUAGE sql STABLE
  AS $$ SELECT substring(sha256(e.salt || convert_to(regexp_replace(code, '^((\][A-Za-z][0-9A-Za-z]|\\[0-9]{6})\s*){1,4}', ''), 'UTF8')) FOR 16) FROM events e WHERE e.tenant_id = current_tenant_id() AND e.event_id = event $$;
