-- How rights reach the gates: the outbox, the manifests that were built, what was published, and who may ask.

-- Public halves of the keys that sign manifests and overlays. Of the installation, not of a tenant: a gate pins them at enrolment.
-- Keeps a second machine from making a key of its own by accident.
CREATE TABLE signing_keys (
  key_id text PRIMARY KEY CHECK (key_id ~ '^[A-Za-z0-9_-]{1,32}$'),
  spki text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  retired_at timestamptz
);
GRANT SELECT, INSERT ON signing_keys TO stile_service;
-- Tenants are made from the command line; the policy of 0001 lets a transaction insert its own tenant and no other.
GRANT INSERT ON tenants TO stile_service;

-- A version that rises past every published one, also after the database was restored from an old copy: never below the clock.
CREATE FUNCTION next_event_version(current_version bigint) RETURNS bigint LANGUAGE sql VOLATILE
  RETURN greatest(current_version + 1, extract(epoch FROM clock_timestamp())::bigint);

-- Something that gates must be told: `event` (its tickets or policies changed), `gate` (its assignment changed). A mark, not a message:
-- what to say is read when it is published, so a burst becomes one overlay. Deleted once published.
CREATE TABLE outbox (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  kind text NOT NULL CHECK (kind IN ('event', 'gate')),
  key text NOT NULL,
  -- The event's manifest file must be built anew before the gates are told.
  build boolean NOT NULL DEFAULT false,
  due_at timestamptz NOT NULL DEFAULT now(),
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id)
);
CREATE INDEX outbox_due ON outbox (due_at, id);

CREATE FUNCTION notify_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('stile_outbox', '');
  RETURN NULL;
END
$$;
CREATE TRIGGER outbox_notify AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION notify_outbox();

-- Manifest files, ready-made, in pieces: any machine that serves has them, and a range of one is read without the rest.
CREATE TABLE manifests (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  version bigint NOT NULL CHECK (version > 0),
  sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
  size_bytes bigint NOT NULL CHECK (size_bytes > 0),
  ticket_count integer NOT NULL,
  generated_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  -- Up to which row of each ledger the file counts usage.
  upto jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, version),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);
CREATE TABLE manifest_pieces (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  version bigint NOT NULL,
  piece integer NOT NULL,
  bytes bytea NOT NULL,
  PRIMARY KEY (tenant_id, event_id, version, piece),
  FOREIGN KEY (tenant_id, event_id, version) REFERENCES manifests (tenant_id, event_id, version) ON DELETE CASCADE
);
ALTER TABLE manifest_pieces ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- Up to which version of an event the gates were told. One row an event; locked while it is published, so versions leave in order.
CREATE TABLE event_publications (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  published_version bigint NOT NULL DEFAULT 0,
  published_at timestamptz,
  PRIMARY KEY (tenant_id, event_id),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);

-- What the ticketing side and operators did to a ticket, with who and why.
CREATE TABLE ticket_actions (
  tenant_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  action text NOT NULL,
  actor text,
  reason text NOT NULL DEFAULT '',
  detail jsonb NOT NULL DEFAULT '{}',
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id)
);
CREATE INDEX ticket_actions_by_ticket ON ticket_actions (tenant_id, event_id, ticket_id, id);

-- The answer to a write, kept so that the same write sent again changes nothing.
CREATE TABLE idempotency_keys (
  tenant_id uuid NOT NULL REFERENCES tenants,
  idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 128),
  operation text NOT NULL,
  request_sha256 bytea NOT NULL CHECK (octet_length(request_sha256) = 32),
  locked_at timestamptz,
  locked_by text,
  lock_expires_at timestamptz,
  response_status integer,
  response_body jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL DEFAULT now() + interval '24 hours',
  PRIMARY KEY (tenant_id, idempotency_key, operation)
);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);

-- Operators' and the ticketing side's tokens: SHA-256 only. actor NULL: a service that speaks for its own users and names them itself.
CREATE TABLE operator_tokens (
  tenant_id uuid NOT NULL REFERENCES tenants,
  token_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(token_sha256) = 32),
  name text NOT NULL CHECK (name <> ''),
  actor text,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  PRIMARY KEY (tenant_id, name)
);

-- One-use tokens that buy a gate its certificate.
CREATE TABLE enrolment_tokens (
  tenant_id uuid NOT NULL,
  token_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(token_sha256) = 32),
  device text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  used_at timestamptz,
  PRIMARY KEY (tenant_id, token_sha256),
  FOREIGN KEY (tenant_id, device) REFERENCES devices (tenant_id, name)
);

SELECT isolate_by_tenant(tab) FROM unnest(ARRAY['outbox', 'manifests', 'manifest_pieces', 'event_publications', 'ticket_actions', 'idempotency_keys', 'operator_tokens', 'enrolment_tokens']::regclass[]) AS tab;

-- Before a tenant is known: ids only.
GRANT SELECT, UPDATE ON outbox TO stile_resolver;
GRANT SELECT ON operator_tokens, enrolment_tokens, gate_assignments, events, manifests TO stile_resolver;
CREATE FUNCTION next_outbox(wanted integer) RETURNS TABLE (tenant_id uuid, id bigint)
  LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT o.tenant_id, o.id FROM outbox o WHERE o.due_at <= now() ORDER BY o.due_at, o.id LIMIT wanted FOR UPDATE SKIP LOCKED $$;
CREATE FUNCTION resolve_operator_token(token_hash bytea) RETURNS TABLE (tenant_id uuid, name text, actor text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT o.tenant_id, o.name, o.actor FROM operator_tokens o WHERE o.token_sha256 = token_hash AND o.revoked_at IS NULL AND (o.expires_at IS NULL OR o.expires_at > now()) $$;
CREATE FUNCTION resolve_enrolment_token(token_hash bytea) RETURNS TABLE (tenant_id uuid, device text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT e.tenant_id, e.device FROM enrolment_tokens e WHERE e.token_sha256 = token_hash AND e.used_at IS NULL AND e.expires_at > now() $$;
-- Assigned events whose newest manifest is missing or older than half its life, so that no gate's list runs out while the cloud is up.
CREATE FUNCTION manifests_to_renew(wanted integer) RETURNS TABLE (tenant_id uuid, event_id text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$
    SELECT e.tenant_id, e.event_id FROM events e
    WHERE EXISTS (SELECT FROM gate_assignments a WHERE a.tenant_id = e.tenant_id AND a.event_id = e.event_id)
      AND (e.ends_at IS NULL OR e.ends_at > now() - interval '1 day')
      AND NOT EXISTS (SELECT FROM manifests m WHERE m.tenant_id = e.tenant_id AND m.event_id = e.event_id AND now() < m.generated_at + (m.expires_at - m.generated_at) / 2)
      AND NOT EXISTS (SELECT FROM outbox o WHERE o.tenant_id = e.tenant_id AND o.kind = 'event' AND o.key = e.event_id AND o.build)
    LIMIT wanted;
  $$;
CREATE FUNCTION tenants_with_gates() RETURNS TABLE (tenant_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT DISTINCT a.tenant_id FROM gate_assignments a $$;
ALTER FUNCTION tenants_with_gates() OWNER TO stile_resolver;
ALTER FUNCTION next_outbox(integer) OWNER TO stile_resolver;
ALTER FUNCTION resolve_operator_token(bytea) OWNER TO stile_resolver;
ALTER FUNCTION resolve_enrolment_token(bytea) OWNER TO stile_resolver;
ALTER FUNCTION manifests_to_renew(integer) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION next_outbox(integer), resolve_operator_token(bytea), resolve_enrolment_token(bytea), manifests_to_renew(integer), tenants_with_gates() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION next_outbox(integer), resolve_operator_token(bytea), resolve_enrolment_token(bytea), manifests_to_renew(integer), tenants_with_gates() TO stile_service;
