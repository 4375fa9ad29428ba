-- Public keys of an event's signed codes; they travel in its manifest. The private halves are files of whoever issues codes, never here.
CREATE TABLE code_keys (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  key_id text NOT NULL CHECK (key_id ~ '^[A-Za-z0-9_-]{1,32}$'),
  use text NOT NULL CHECK (use IN ('code', 'pretix')),
  -- Base64 of the DER SubjectPublicKeyInfo.
  spki text NOT NULL CHECK (length(spki) <= 256),
  not_after timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  -- Believed no more by anyone; the row stays, and goes on telling the gates that the event's codes are signed.
  revoked_at timestamptz,
  revoked_by text,
  revoked_reason text,
  PRIMARY KEY (tenant_id, event_id, key_id),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);

SELECT isolate_by_tenant('code_keys');
REVOKE DELETE ON code_keys FROM stile_service;
