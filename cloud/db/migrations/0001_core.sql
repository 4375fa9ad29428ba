-- The ground that everything stands on: who may speak (tenants, sites, devices), what for (events, ticket types, tickets).
--
-- Style of every migration: forward only; snake_case; text ids where another system chooses them, uuid where we do; every key begins
-- with the tenant; every tenant table has FORCED row-level security on current_tenant_id(), for their owner too: a migration that changes rows
-- takes FORCE away for its own transaction. Roles are made once for the whole server, by its administrator (cloud/db/logins.ts):
--   stile_service   what the programs SET ROLE to; owns nothing, cannot bypass row security
--   stile_resolver  cannot log in, bypasses row security; owns only functions that answer ids
-- Only a superuser that migrates a server without them makes them here.

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'stile_service') THEN
    CREATE ROLE stile_service NOLOGIN NOINHERIT NOBYPASSRLS NOCREATEDB NOCREATEROLE;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'stile_resolver') THEN
    CREATE ROLE stile_resolver NOLOGIN NOINHERIT BYPASSRLS NOCREATEDB NOCREATEROLE;
  END IF;
END
$$;

GRANT USAGE ON SCHEMA public TO stile_service, stile_resolver;
-- Who is given a function must be able to make one there.
GRANT CREATE ON SCHEMA public TO stile_resolver;

-- The tenant of this transaction, from SET LOCAL app.current_tenant_id; NULL where none is set, so that nothing is visible.
CREATE FUNCTION current_tenant_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
  RETURN nullif(current_setting('app.current_tenant_id', true), '')::uuid;

-- For this transaction alone: a pooled connection takes it to nobody.
CREATE FUNCTION set_tenant_context(tenant uuid) RETURNS void LANGUAGE sql
  BEGIN ATOMIC SELECT set_config('app.current_tenant_id', tenant::text, true); END;

CREATE FUNCTION clear_tenant_context() RETURNS void LANGUAGE sql
  BEGIN ATOMIC SELECT set_config('app.current_tenant_id', '', true); END;

CREATE TABLE tenants (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name text NOT NULL UNIQUE CHECK (name <> ''),
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Site ids are unique in an installation: a topic names its site without its tenant.
CREATE TABLE sites (
  tenant_id uuid NOT NULL REFERENCES tenants,
  site_id text PRIMARY KEY CHECK (site_id ~ '^[a-z0-9][a-z0-9-]{0,30}$' AND site_id <> 'cloud'),
  name text NOT NULL DEFAULT '',
  time_zone text NOT NULL DEFAULT 'UTC',
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (tenant_id, site_id)
);

-- Everything that may speak: gates, and scanners of the forerunners' kind. name is <site>/<gate>.
CREATE TABLE devices (
  tenant_id uuid NOT NULL REFERENCES tenants,
  name text PRIMARY KEY CHECK (length(name) <= 63),
  site_id text NOT NULL,
  gate_id text NOT NULL CHECK (gate_id ~ '^[a-z0-9][a-z0-9-]{0,30}$' AND gate_id <> 'cloud'),
  kind text NOT NULL DEFAULT 'gate' CHECK (kind IN ('gate', 'scanner')),
  enrolled_at timestamptz,
  revoked_at timestamptz,
  -- SHA-256 of the certificate, and of the device's HTTP token: never the token itself.
  certificate_sha256 bytea,
  token_sha256 bytea UNIQUE,
  -- Last word of each kind over MQTT: payloads as they came.
  state jsonb, state_at timestamptz, info jsonb, health jsonb, health_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (tenant_id, name),
  FOREIGN KEY (tenant_id, site_id) REFERENCES sites (tenant_id, site_id),
  CHECK (name = site_id || '/' || gate_id)
);

CREATE TABLE device_alerts (
  tenant_id uuid NOT NULL,
  device text NOT NULL,
  alert_id text NOT NULL,
  alert jsonb NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, device, alert_id),
  FOREIGN KEY (tenant_id, device) REFERENCES devices (tenant_id, name)
);

CREATE TABLE events (
  tenant_id uuid NOT NULL REFERENCES tenants,
  event_id text NOT NULL CHECK (event_id <> ''),
  site_id text,
  name text NOT NULL,
  starts_at timestamptz,
  ends_at timestamptz,
  time_zone text NOT NULL DEFAULT 'UTC',
  -- Before every code is hashed. Random; never changes once tickets exist.
  salt bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
  -- EventPolicies of rules/policy.ts, checked before it is written.
  policies jsonb NOT NULL DEFAULT '{}',
  -- Rises with every change that gates must see (overlay versions); manifests are built at some of these.
  version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id),
  FOREIGN KEY (tenant_id, site_id) REFERENCES sites (tenant_id, site_id),
  CHECK (ends_at IS NULL OR starts_at IS NULL OR starts_at <= ends_at)
);

-- Which events a gate holds, and what it serves (NULL: all).
CREATE TABLE gate_assignments (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  event_id text NOT NULL,
  zones text[],
  tiers text[],
  assigned_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, gate, event_id),
  FOREIGN KEY (tenant_id, gate) REFERENCES devices (tenant_id, name),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);

CREATE TABLE ticket_types (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  tier text NOT NULL CHECK (tier <> ''),
  name text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, tier),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);

CREATE TYPE ticket_status AS ENUM (
  'available', 'reserved', 'sold', 'minted', 'active', 'transferred', 'checked_in', 'used', 'revoked', 'refunded', 'expired', 'cancelled'
);

CREATE TABLE tickets (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  ticket_id text NOT NULL CHECK (ticket_id <> ''),
  -- First 16 bytes of SHA-256(salt of the event || code); the code itself is never stored.
  ticket_ref bytea NOT NULL CHECK (octet_length(ticket_ref) = 16),
  tier text NOT NULL,
  zone text,
  status ticket_status NOT NULL DEFAULT 'sold',
  blocked boolean NOT NULL DEFAULT false,
  approved boolean NOT NULL DEFAULT true,
  max_scans integer CHECK (max_scans > 0),
  units integer NOT NULL DEFAULT 1 CHECK (units BETWEEN 1 AND 100),
  valid_from timestamptz,
  valid_until timestamptz,
  vip boolean NOT NULL DEFAULT false,
  note text,
  -- What reconciliation has counted: stored, never added to by a caller.
  scan_count integer NOT NULL DEFAULT 0 CHECK (scan_count >= 0),
  first_scanned_at timestamptz,
  last_scanned_at timestamptz,
  -- The event's version at which this row last changed for the gates: makes deltas.
  changed_version bigint NOT NULL DEFAULT 1,
  -- Optimistic lock for the ticketing side.
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_id),
  UNIQUE (tenant_id, event_id, ticket_ref),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id),
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier),
  CHECK (valid_from IS NULL OR valid_until IS NULL OR valid_from <= valid_until)
);
CREATE INDEX tickets_by_change ON tickets (tenant_id, event_id, changed_version);
CREATE INDEX tickets_by_status ON tickets (tenant_id, status);

-- Refs that open nothing any more (a transferred ticket's old code, a removed ticket).
CREATE TABLE ticket_tombstones (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  ticket_ref bytea NOT NULL CHECK (octet_length(ticket_ref) = 16),
  ticket_id text,
  reason text NOT NULL CHECK (reason IN ('invalid', 'revoked', 'canceled')),
  changed_version bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_ref),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);
CREATE INDEX ticket_tombstones_by_change ON ticket_tombstones (tenant_id, event_id, changed_version);

-- Row-level security: one call for each tenant table, here and in every later migration.
CREATE FUNCTION isolate_by_tenant(tab regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', tab);
  EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', tab);
  EXECUTE format('CREATE POLICY tenant_isolation ON %s USING (tenant_id = current_tenant_id()) WITH CHECK (tenant_id = current_tenant_id())', tab);
  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO stile_service', tab);
END
$$;
REVOKE EXECUTE ON FUNCTION isolate_by_tenant(regclass) FROM PUBLIC;

SELECT isolate_by_tenant(tab) FROM unnest(ARRAY['sites', 'devices', 'device_alerts', 'events', 'gate_assignments', 'ticket_types', 'tickets', 'ticket_tombstones']::regclass[]) AS tab;

-- A tenant sees itself.
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON tenants USING (id = current_tenant_id()) WITH CHECK (id = current_tenant_id());
GRANT SELECT ON tenants TO stile_service;

-- Before a tenant is known: ids only, by names that topics and tokens carry.
GRANT SELECT ON devices, sites, tenants TO stile_resolver;
CREATE FUNCTION resolve_device(device_name text) RETURNS TABLE (tenant_id uuid, revoked boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.tenant_id, d.revoked_at IS NOT NULL FROM devices d WHERE d.name = device_name $$;
CREATE FUNCTION resolve_device_token(token_hash bytea) RETURNS TABLE (tenant_id uuid, device text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.tenant_id, d.name FROM devices d WHERE d.token_sha256 = token_hash AND d.revoked_at IS NULL $$;
CREATE FUNCTION resolve_site(site text) RETURNS uuid
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT s.tenant_id FROM sites s WHERE s.site_id = site $$;
CREATE FUNCTION resolve_tenant(tenant_name text) RETURNS uuid
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT t.id FROM tenants t WHERE t.name = tenant_name $$;
ALTER FUNCTION resolve_device(text) OWNER TO stile_resolver;
ALTER FUNCTION resolve_device_token(bytea) OWNER TO stile_resolver;
ALTER FUNCTION resolve_site(text) OWNER TO stile_resolver;
ALTER FUNCTION resolve_tenant(text) OWNER TO stile_resolver;
REVOKE EXECUTE ON FUNCTION resolve_device(text), resolve_device_token(bytea), resolve_site(text), resolve_tenant(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION resolve_device(text), resolve_device_token(bytea), resolve_site(text), resolve_tenant(text) TO stile_service;
