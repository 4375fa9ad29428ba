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
  -- Until then its certificate may be renewed although it has ended: staff let it back in.
  let_back_until timestamptz,
  -- Last word of each kind over MQTT: payloads as they came.
  state jsonb, state_at timestamptz, info jsonb, health jsonb, health_at timestamptz,
  -- The life of the database in which this scanner was asked to send again what it keeps.
  resend_asked uuid,
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
  FOREIGN KEY (tenant_id, device) REFERENCES devices (tenant_id, name),
  -- Alerts that the cloud raised itself: no gate can clear them.
  by_cloud boolean NOT NULL DEFAULT false
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
  CONSTRAINT tickets_ref_key UNIQUE (ticket_ref, event_id, tenant_id),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id),
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier),
  CHECK (valid_from IS NULL OR valid_until IS NULL OR valid_from <= valid_until),
  -- The ticket's state before its first entry, to return to if that is given back.
  status_before_entry ticket_status,
  -- When a ticket first lost its right to enter, if ever: only such tickets are asked for their history.
  rights_lost_at timestamptz,
  -- A linked ticket whose host's right has ended: for gates and scanners it is what it was. The account goes on counting entries that were right when they happened.
  vip_ended boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70);

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

-- A tenant sees itself.
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;

ALTER TABLE tenants FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON tenants USING (id = current_tenant_id()) WITH CHECK (id = current_tenant_id());

-- One row a ledger: the lock that makes (gate, epoch, seq) unique while the rows are partitioned by time. gate is <site>/<gate>, <site>/cloud, or
-- <site>/@<device> for what a scanner reported.
CREATE TABLE ledgers (
  tenant_id uuid NOT NULL,
  gate text NOT NULL CHECK (length(gate) <= 64),
  site_id text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  -- True: rows that repeat an original (again) stand for rows of this ledger.
  has_again boolean NOT NULL DEFAULT false,
  -- Rows of this ledger in forked_rows, open or closed: the bound of that table for one ledger.
  forks bigint NOT NULL DEFAULT 0,
  -- Of the cloud's own ledgers: the highest epoch that any gate showed. A new life of the database begins above it.
  seen_epoch bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant_id, gate),
  FOREIGN KEY (tenant_id, site_id) REFERENCES sites (tenant_id, site_id),
  CHECK (split_part(gate, '/', 1) = site_id)
);

-- Which rows of an epoch are stored. upto_seq: every row 1..upto_seq is, or its gate declared that nobody holds it any more (gone).
CREATE TABLE ledger_epochs (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL CHECK (epoch > 0),
  stored int8multirange NOT NULL DEFAULT '{}',
  upto_seq bigint NOT NULL DEFAULT 0,
  -- Of the cloud's own ledgers: up to where gates were told over MQTT.
  published_seq bigint NOT NULL DEFAULT 0,
  last_row_at timestamptz,
  -- Places that the gate pruned before they were stored. A row that arrives later and follows takes its place.
  gone int8multirange NOT NULL DEFAULT '{}',
  -- The hash of row upto_seq, which stands for the whole prefix. NULL: there is none, or it is gone and nobody knows its hash.
  upto_hash bytea,
  -- Of the cloud's own ledgers: the life of the database in which the epoch began.
  life uuid,
  PRIMARY KEY (tenant_id, gate, epoch),
  FOREIGN KEY (tenant_id, gate) REFERENCES ledgers (tenant_id, gate)
) WITH (fillfactor = 40);

-- One narrow line a row of a ledger: what queries ask for. The row itself is its JSON without its hash, as text (it must be kept whatever it says, and jsonb refuses
-- some strings): of a lone row here, of rows that came together in ledger_messages. The view ledger_rows has both.
-- Partitioned by arrival, so that no row ever comes into an old partition and it can be detached.
CREATE TABLE ledger_lines (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL,
  seq bigint NOT NULL CHECK (seq > 0),
  received_at timestamptz NOT NULL DEFAULT now(),
  kind text NOT NULL,
  -- False: of no known kind, or not as its kind should be. Kept, and says nothing.
  readable boolean NOT NULL,
  hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  -- NULL: in the message that begins at from_seq and came at the same time.
  entry text,
  from_seq bigint,
  -- When it happened, as far as was known when it arrived. Ranking uses admissions.at.
  at timestamptz NOT NULL,
  event_id text,
  ticket_id text,
  CHECK ((entry IS NULL) <> (from_seq IS NULL))
) PARTITION BY RANGE (received_at);

-- Rows of one epoch that came together and follow each other, kept once and compressed as a whole. Its rows' hashes can be had anew from predecessor; last_hash is
-- the last one's. predecessor is NULL where the row before it was not stored.
CREATE TABLE ledger_messages (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL,
  from_seq bigint NOT NULL CHECK (from_seq > 0),
  received_at timestamptz NOT NULL DEFAULT now(),
  predecessor bytea,
  last_hash bytea NOT NULL,
  entries text[] NOT NULL
) PARTITION BY RANGE (received_at);

CREATE INDEX ledger_messages_by_place ON ledger_messages (gate, epoch, from_seq);

-- lz4 takes a fifth of the time of the other method; few builds of PostgreSQL lack it.
DO $$
BEGIN
  ALTER TABLE ledger_messages ALTER COLUMN entries SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END
$$;

CREATE INDEX ledger_lines_refusals ON ledger_lines (tenant_id, at) WHERE kind = 'refusal';

-- Places where a row does not carry the hash of the one before it: flagged, never dropped.
CREATE TABLE ledger_breaks (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL,
  seq bigint NOT NULL,
  found_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, gate, epoch, seq),
  FOREIGN KEY (tenant_id, gate) REFERENCES ledgers (tenant_id, gate)
);

-- Of the places that are gone: the hash of a range's last row, as far as its gate still knew it.
CREATE TABLE ledger_gone (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL,
  seq bigint NOT NULL,
  hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  declared_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, gate, epoch, seq),
  FOREIGN KEY (tenant_id, gate) REFERENCES ledgers (tenant_id, gate)
);

-- Stored rows that repeat an original, by the original: (of_gate, of_epoch, of_seq, of_hash).
CREATE TABLE ledger_agains (
  tenant_id uuid NOT NULL,
  of_gate text NOT NULL, of_epoch bigint NOT NULL, of_seq bigint NOT NULL, of_hash bytea NOT NULL,
  gate text NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL,
  PRIMARY KEY (tenant_id, of_gate, of_epoch, of_seq, of_hash, gate, epoch, seq)
);

-- Rows that do not follow what is stored, whole. They count nowhere and are not acknowledged. Closed as soon as their original is counted.
CREATE TABLE forked_rows (
  tenant_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  gate text NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  -- Its original: its own key and hash, or what its again names.
  of_gate text NOT NULL, of_epoch bigint NOT NULL, of_seq bigint NOT NULL, of_hash bytea NOT NULL,
  kind text NOT NULL,
  entry text NOT NULL,
  times bigint NOT NULL DEFAULT 1,
  first_at timestamptz NOT NULL DEFAULT now(),
  last_at timestamptz NOT NULL DEFAULT now(),
  -- counted: the original is in the account. admitted: a person took it in. set_aside: a person decided that it never counts.
  closed text CHECK (closed IN ('counted', 'admitted', 'set_aside')),
  closed_at timestamptz,
  closed_by text,
  PRIMARY KEY (tenant_id, gate, epoch, seq, hash),
  FOREIGN KEY (tenant_id, gate) REFERENCES ledgers (tenant_id, gate)
);

CREATE INDEX forked_rows_open ON forked_rows (tenant_id, first_at, gate) WHERE closed IS NULL;
CREATE INDEX forked_rows_by_original ON forked_rows (of_gate, of_epoch, of_seq, tenant_id);

-- The life of this database, and those before it: a database that went back in time has a new one. One row is the present life.
CREATE TABLE database_lives (
  life uuid PRIMARY KEY,
  began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  why text NOT NULL,
  -- Scans answered since then may be held by no one: scanners send them again. NULL: the first life.
  resend_since timestamptz,
  -- Until a person confirmed the assignments of gates, no grant is judged foreign: a database that went back does not know the latest.
  assignments_confirmed_at timestamptz
);

CREATE UNIQUE INDEX database_lives_present ON database_lives ((true)) WHERE ended_at IS NULL;

INSERT INTO database_lives (life, why, assignments_confirmed_at) VALUES (gen_random_uuid(), 'made by migrate', now());

-- A boot of a gate: cloud time = boottime + offset ± bound, with the offset of the smallest bound (the lowest position on a tie).
-- Without any, it lies between its neighbours in the chain: after_at, before_at.
CREATE TABLE boots (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  boot_id text NOT NULL,
  boot_no bigint GENERATED ALWAYS AS IDENTITY,
  first_epoch bigint NOT NULL, first_seq bigint NOT NULL,
  last_epoch bigint NOT NULL, last_seq bigint NOT NULL,
  min_boottime_ms double precision NOT NULL,
  max_boottime_ms double precision NOT NULL,
  offset_ms double precision,
  bound_ms double precision,
  offset_epoch bigint, offset_seq bigint,
  after_at timestamptz, before_at timestamptz,
  PRIMARY KEY (tenant_id, gate, boot_id),
  FOREIGN KEY (tenant_id, gate) REFERENCES ledgers (tenant_id, gate)
) WITH (fillfactor = 40);

-- One row a ticket that was ever granted, whether the cloud knows the ticket or not: its lock, and what its admissions amount to.
CREATE TABLE ticket_usage (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  -- Entries that hold: the first and the re-entries.
  entries integer NOT NULL DEFAULT 0,
  first_at timestamptz,
  last_at timestamptz,
  -- False: the ticket is not (yet) in tickets.
  known boolean NOT NULL DEFAULT false,
  PRIMARY KEY (ticket_id, event_id, tenant_id)
) WITH (fillfactor = 90);

CREATE INDEX ticket_usage_unknown ON ticket_usage (tenant_id, event_id, ticket_id) WHERE NOT known;

-- One compact row a grant; outlives detached partitions. Not yet granted: a passage or settlement came before its grant.
CREATE TABLE admissions (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL,
  seq bigint NOT NULL,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  granted boolean NOT NULL DEFAULT false,
  ticket_ref bytea,
  direction text CHECK (direction IN ('in', 'out')),
  units smallint,
  manifest_version bigint,
  boot_no bigint,
  boottime_ms double precision,
  ts timestamptz,
  -- Where the corrected time lies, and the middle of it, which ranks. placed: by a measured offset.
  at_low timestamptz, at timestamptz, at_high timestamptz, placed boolean,
  -- The strongest word on the first unit, on the others by their number, and on all of them: 1 unknown, 2 stuck, 3 returned, 4 passed;
  -- above, settlements in their order (outcome_rank_of_settlement).
  word_1 bigint, words bigint[], word_all bigint,
  units_used smallint NOT NULL DEFAULT 0,
  units_uncertain smallint NOT NULL DEFAULT 0,
  outcome text CHECK (outcome IN ('open', 'passed', 'stuck', 'unknown', 'returned')),
  verdict text CHECK (verdict IN ('winner', 'reentry', 'exit', 'excess', 'annulled')),
  -- Of excess: the reason that would have refused it.
  cause text,
  -- Its interval overlaps another grant's of the ticket: the order between them is by the fixed rule.
  overlapping boolean NOT NULL DEFAULT false,
  PRIMARY KEY (gate, epoch, seq, tenant_id),
  -- Who scanned; NULL: the gate whose row it is. Kept here because admissions outlive the rows.
  scanner text,
  -- The first eight bytes of the original's hash; 0: a row spoke of it without. With the place of the original they are the identity of an admission.
  hash8 bigint NOT NULL DEFAULT 0,
  -- The place of the original, where it is not the row's own: of rows that repeat one (again), and of those that wait for their grant beside another row.
  original_gate text, original_epoch bigint, original_seq bigint
) WITH (fillfactor = 85);

CREATE INDEX admissions_by_original ON admissions (original_gate, original_epoch, original_seq, tenant_id) WHERE original_gate IS NOT NULL;

-- Admissions beyond a ticket's right, each exactly once.
CREATE TABLE conflicts (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  loser_gate text NOT NULL, loser_epoch bigint NOT NULL, loser_seq bigint NOT NULL,
  winner_gate text, winner_epoch bigint, winner_seq bigint,
  cause text NOT NULL,
  loser_at timestamptz NOT NULL,
  winner_at timestamptz,
  overlapping boolean NOT NULL,
  found_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq),
  -- True: a row of the cloud's ledger says so as it now stands.
  told boolean NOT NULL DEFAULT false
);

CREATE INDEX conflicts_by_time ON conflicts (tenant_id, event_id, loser_at);

-- Sums of each gate and event ('' where a row names none): grants = winners + reentries + exits + excess + annulled.
CREATE TABLE gate_counts (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  event_id text NOT NULL,
  grants bigint NOT NULL DEFAULT 0,
  winners bigint NOT NULL DEFAULT 0,
  reentries bigint NOT NULL DEFAULT 0,
  exits bigint NOT NULL DEFAULT 0,
  excess bigint NOT NULL DEFAULT 0,
  annulled bigint NOT NULL DEFAULT 0,
  -- People, by what is known of their passages.
  entered bigint NOT NULL DEFAULT 0,
  exited bigint NOT NULL DEFAULT 0,
  uncertain bigint NOT NULL DEFAULT 0,
  free_passages bigint NOT NULL DEFAULT 0,
  forced_passages bigint NOT NULL DEFAULT 0,
  overrides bigint NOT NULL DEFAULT 0,
  refusals bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant_id, gate, event_id),
  -- Passages that are nobody's ticket are counted by direction: out is never refused, so many of them leave (I7).
  -- free_out, forced_out and overrides_out are parts of free_passages, forced_passages and overrides.
  free_out bigint NOT NULL DEFAULT 0,
  forced_out bigint NOT NULL DEFAULT 0,
  overrides_out bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- What could not be taken in, with its reason. The same again only counts. tenant_id NULL: the sender is unknown.
CREATE TABLE quarantine (
  tenant_id uuid,
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL CHECK (length(topic) <= 256),
  reason text NOT NULL CHECK (reason IN ('unreadable', 'mismatch', 'unknown_device', 'revoked_device', 'oversized', 'wrong_version', 'clone', 'failed')),
  detail text NOT NULL DEFAULT '' CHECK (length(detail) <= 512),
  payload_sha256 bytea NOT NULL,
  payload_bytes integer NOT NULL,
  -- The first part of it, bounded by whoever writes it.
  payload bytea CHECK (octet_length(payload) <= 65536),
  times bigint NOT NULL DEFAULT 1,
  first_at timestamptz NOT NULL DEFAULT now(),
  last_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE NULLS NOT DISTINCT (tenant_id, topic, reason, payload_sha256)
);

-- The policies of an event at each of its versions: a grant is judged by those that its gate had.
CREATE TABLE event_policies (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  version bigint NOT NULL,
  policies jsonb NOT NULL,
  PRIMARY KEY (tenant_id, event_id, version),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);

ALTER TABLE quarantine ENABLE ROW LEVEL SECURITY;

ALTER TABLE quarantine FORCE ROW LEVEL SECURITY;

-- Without a tenant one sees, and writes, what belongs to none.
CREATE POLICY tenant_isolation ON quarantine USING (tenant_id IS NOT DISTINCT FROM current_tenant_id()) WITH CHECK (tenant_id IS NOT DISTINCT FROM current_tenant_id());

ALTER TABLE events NO FORCE ROW LEVEL SECURITY;

ALTER TABLE event_policies NO FORCE ROW LEVEL SECURITY;

ALTER TABLE events FORCE ROW LEVEL SECURITY;

ALTER TABLE event_policies FORCE ROW LEVEL SECURITY;

-- A partition a month; the default one takes what no month was made for, so that no row is ever refused for it.
CREATE TABLE ledger_lines_default PARTITION OF ledger_lines DEFAULT;

ALTER TABLE ledger_lines_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE ledger_lines_default FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON ledger_lines_default USING (tenant_id = current_tenant_id()) WITH CHECK (tenant_id = current_tenant_id());

CREATE TABLE ledger_messages_default PARTITION OF ledger_messages DEFAULT;

ALTER TABLE ledger_messages_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE ledger_messages_default FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON ledger_messages_default USING (tenant_id = current_tenant_id()) WITH CHECK (tenant_id = current_tenant_id());

-- One row as the readers of the wire hand it over: its key and hash, its JSON as text without the hash, and what could be read of it.
CREATE TYPE ledger_input AS (
  gate text, epoch bigint, seq bigint, hash text, kind text, readable boolean, entry text,
  ts timestamptz, boot_id text, boottime_ms double precision, offset_ms double precision, bound_ms double precision,
  event_id text, ticket_id text, ticket_ref text, direction text, units integer, manifest_version bigint,
  of_gate text, of_epoch bigint, of_seq bigint, unit integer, outcome text,
  again_gate text, again_epoch bigint, again_seq bigint, again_hash text, of_hash text
);

CREATE TYPE count_delta AS (
  gate text, event_id text, grants bigint, winners bigint, reentries bigint, exits bigint, excess bigint, annulled bigint,
  entered bigint, exited bigint, uncertain bigint, free_passages bigint, forced_passages bigint, overrides bigint, refusals bigint
);

CREATE FUNCTION outcome_rank_keep(words bigint[], unit integer, word bigint) RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  words[unit] := greatest(words[unit], word);
  RETURN words;
END
$$;

CREATE AGGREGATE outcome_rank_strongest(unit integer, word bigint) (SFUNC = outcome_rank_keep, STYPE = bigint[], INITCOND = '{}');

-- What a grant of several guests amounts to: units that count, units that may or may not have passed, and one word for all.
CREATE TYPE grant_sum AS (used integer, uncertain integer, outcome text);

-- One grant of a replay: where it stands, what was written of it, and what is to be.
CREATE TYPE replayed AS (
  event_id text, ticket_id text, gate text, epoch bigint, seq bigint, at timestamptz, direction text,
  was_verdict text, was_used integer, was_uncertain integer, changed boolean,
  verdict text, cause text, overlapping boolean, used integer, uncertain integer, outcome text
);

-- The door: rows of any gates of one tenant, appended and judged in one transaction.
CREATE TYPE boot_offset AS (offset_ms double precision, bound_ms double precision, epoch bigint, seq bigint);

CREATE TYPE ledger_grant AS (
  gate text, epoch bigint, seq bigint, event_id text, ticket_id text, granted boolean, ticket_ref bytea, direction text, units integer, manifest_version bigint,
  boot_no bigint, boottime_ms double precision, ts timestamptz, at_low timestamptz, at timestamptz, at_high timestamptz, placed boolean, word_1 bigint, words bigint[], word_all bigint,
  hash8 bigint, original_gate text, original_epoch bigint, original_seq bigint
);

CREATE INDEX ledger_epochs_unpublished ON ledger_epochs (tenant_id, gate) WHERE published_seq < upto_seq AND (gate LIKE '%/cloud' OR gate LIKE '%/@%');

-- Public halves of the keys that sign manifests and overlays. Of the installation, not of a tenant: a gate pins them at enrolment.
-- Keeps a second machine from making a key of its own by accident.
CREATE TABLE signing_keys (
  key_id text PRIMARY KEY CHECK (key_id ~ '^[A-Za-z0-9_-]{1,32}$'),
  spki text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  retired_at timestamptz
);

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
  PRIMARY KEY (tenant_id, idempotency_key, operation),
  -- Writes that happen once, for callers whose work is longer than a transaction (cloud/tickets/idempotency.ts is for those whose is not; the table is theirs both).
  attempts integer NOT NULL DEFAULT 1,
  failed_at timestamptz
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

-- Every certificate that this installation signed for a gate. It outlives the gate's row: a list of revoked certificates names it until it ends.
CREATE TABLE gate_certificates (
  tenant_id uuid NOT NULL REFERENCES tenants,
  serial text NOT NULL UNIQUE CHECK (serial ~ '^[0-9a-f]{2,40}$'),
  device text NOT NULL CHECK (length(device) <= 63),
  certificate_sha256 bytea NOT NULL CHECK (octet_length(certificate_sha256) = 32),
  issued_at timestamptz NOT NULL DEFAULT now(),
  not_after timestamptz NOT NULL,
  revoked_at timestamptz,
  revoked_for text CHECK (revoked_for IN ('revoked', 'replaced', 'removed')),
  -- When its live connection to the broker was ended, after the broker had the list that names it.
  session_ended_at timestamptz,
  PRIMARY KEY (tenant_id, serial),
  CHECK ((revoked_at IS NULL) = (revoked_for IS NULL))
);
CREATE INDEX gate_certificates_by_device ON gate_certificates (tenant_id, device);

ALTER TABLE tickets
  ADD COLUMN ticket_number text CHECK (ticket_number <> ''),
  ADD COLUMN user_id text CHECK (user_id <> ''),
  ADD COLUMN order_id text,
  ADD COLUMN payment_id text,
  ADD COLUMN currency text CHECK (currency ~ '^[A-Z]{3}$'),
  ADD COLUMN price_cents bigint CHECK (price_cents >= 0),
  ADD COLUMN face_value_cents bigint CHECK (face_value_cents >= 0),
  ADD COLUMN resale_price_cents bigint CHECK (resale_price_cents >= 0),
  ADD COLUMN max_resale_price_cents bigint CHECK (max_resale_price_cents >= 0),
  ADD COLUMN section text, ADD COLUMN seat_row text, ADD COLUMN seat text,
  ADD COLUMN is_transferable boolean NOT NULL DEFAULT true,
  ADD COLUMN transfer_count integer NOT NULL DEFAULT 0 CHECK (transfer_count >= 0),
  ADD COLUMN max_transfers integer CHECK (max_transfers > 0),
  ADD COLUMN is_nft boolean NOT NULL DEFAULT false,
  ADD COLUMN token_mint text CHECK (token_mint <> ''),
  ADD COLUMN status_reason text, ADD COLUMN status_changed_by text, ADD COLUMN status_changed_at timestamptz,
  ADD COLUMN purchased_at timestamptz,
  -- Somebody looked at it and found it right (ticket_validations); entering is first_scanned_at.
  ADD COLUMN validated_at timestamptz,
  ADD COLUMN deleted_at timestamptz,
  ADD CONSTRAINT tickets_resale_above_price CHECK (max_resale_price_cents IS NULL OR price_cents IS NULL OR max_resale_price_cents >= price_cents),
  ADD CONSTRAINT tickets_resale_within_limit CHECK (resale_price_cents IS NULL OR max_resale_price_cents IS NULL OR resale_price_cents <= max_resale_price_cents),
  ADD CONSTRAINT tickets_transfers_within_limit CHECK (max_transfers IS NULL OR transfer_count <= max_transfers),
  ADD CONSTRAINT tickets_mint_is_nft CHECK (token_mint IS NULL OR is_nft),
  -- What is away must not admit anybody.
  ADD CONSTRAINT tickets_deleted_opens_nothing CHECK (deleted_at IS NULL OR status IN ('available', 'revoked', 'refunded', 'expired', 'cancelled'));

-- None of these holds a column that a scan changes (status, counts), so that an entry still changes no index (0002). States are counted per event by its key.
CREATE UNIQUE INDEX tickets_number ON tickets (tenant_id, ticket_number) WHERE ticket_number IS NOT NULL;

CREATE UNIQUE INDEX tickets_token_mint ON tickets (tenant_id, token_mint) WHERE token_mint IS NOT NULL;

CREATE INDEX tickets_by_id ON tickets (tenant_id, ticket_id);

CREATE INDEX tickets_by_user ON tickets (tenant_id, user_id) WHERE user_id IS NOT NULL;

CREATE INDEX tickets_by_order ON tickets (tenant_id, order_id) WHERE order_id IS NOT NULL;

-- What people type when they look for a ticket. Names and addresses are not in the ticket.
CREATE FUNCTION ticket_text(ticket_id text, ticket_number text, section text, seat_row text, seat text, note text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN to_tsvector('simple'::regconfig, translate(coalesce(ticket_id, '') || ' ' || coalesce(ticket_number, '') || ' ' || coalesce(section, '') || ' ' || coalesce(seat_row, '') || ' ' || coalesce(seat, '') || ' ' || coalesce(note, ''), '-_:/.', '     '));

-- Tickets that have nothing but their id are found by that (tickets_by_id): a plain import fills no text index.
CREATE INDEX tickets_text ON tickets USING gin (ticket_text(ticket_id, ticket_number, section, seat_row, seat, note)) WHERE ticket_number IS NOT NULL OR seat IS NOT NULL OR note IS NOT NULL;

-- No foreign key: the history outlives the ticket.
CREATE TABLE ticket_state_history (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  previous_status ticket_status,
  new_status ticket_status NOT NULL,
  changed_by text,
  actor_type text NOT NULL CHECK (actor_type IN ('user', 'system', 'admin', 'service')),
  reason text,
  -- ledger: reconciliation, from what gates wrote. ticketing: the ticketing side's own statement. manual: a line without a change.
  source text NOT NULL,
  -- A change that no rule allows, taken because the ticketing side says so.
  irregular boolean NOT NULL DEFAULT false,
  changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_id, id)
);

-- What was asked at a door, and the answer. gate, epoch, seq: the row of the ledger that it became; none: an attempt that was only noted.
CREATE TABLE ticket_scans (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text,
  ticket_id text NOT NULL,
  result text NOT NULL CHECK (result IN ('ALLOW', 'DENY')),
  entry_type text CHECK (entry_type IN ('first_entry', 'reentry', 'exit')),
  reason text,
  source text NOT NULL CHECK (source IN ('online', 'offline', 'attempt')),
  device text,
  -- As the scanner says; kept as uuid too where it is one.
  scanned_by text,
  scanned_by_id uuid,
  scanned_at timestamptz NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  gate text, epoch bigint, seq bigint,
  PRIMARY KEY (tenant_id, id),
  CHECK ((gate IS NULL) = (seq IS NULL))
);

CREATE INDEX ticket_scans_by_ticket ON ticket_scans (tenant_id, ticket_id, scanned_at DESC);

-- A row of the ledger lets in once. That of a ticket's entries only one is the first: admissions_one_winner (0002).
CREATE UNIQUE INDEX unique_successful_scan ON ticket_scans (tenant_id, gate, epoch, seq) WHERE result = 'ALLOW';

-- VIP: reservations with their guests' passes, and general tickets that are linked to one.
--
-- A pass is a ticket with vip = true, so gates admit it, and let it in again, without asking. Whether it is here follows from the account alone: when
-- reconciliation changes the ticket, the trigger below brings pass, reservation and scan log to what the account says, whoever scanned it: a gate, or
-- process_vip_scan_with_reentry. Order of locks: event, ledger, ticket, pass, reservation.
CREATE TABLE vip_reservations (
  tenant_id uuid NOT NULL,
  reservation_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  -- A table, a box: never a person.
  label text NOT NULL DEFAULT '',
  host_user_id text,
  guest_count integer NOT NULL CHECK (guest_count BETWEEN 1 AND 500),
  checked_in_guests integer NOT NULL DEFAULT 0 CHECK (checked_in_guests BETWEEN 0 AND guest_count),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'confirmed', 'checked_in', 'completed', 'cancelled', 'no_show')),
  checked_in_at timestamptz,
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, reservation_id),
  UNIQUE (tenant_id, event_id, reservation_id),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);

-- guest_number 0: the host. The token is not here: its salted hash is the ticket's ticket_ref.
CREATE TABLE vip_guest_passes (
  tenant_id uuid NOT NULL,
  pass_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  reservation_id uuid NOT NULL,
  guest_number integer NOT NULL CHECK (guest_number >= 0),
  ticket_id text NOT NULL,
  status text NOT NULL DEFAULT 'issued' CHECK (status IN ('issued', 'checked_in', 'revoked')),
  entries integer NOT NULL DEFAULT 0,
  checked_in_at timestamptz,
  last_entry_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, pass_id),
  UNIQUE (tenant_id, reservation_id, guest_number),
  UNIQUE (tenant_id, event_id, ticket_id),
  FOREIGN KEY (tenant_id, event_id, reservation_id) REFERENCES vip_reservations (tenant_id, event_id, reservation_id),
  FOREIGN KEY (tenant_id, event_id, ticket_id) REFERENCES tickets (tenant_id, event_id, ticket_id)
);

-- General tickets with the host's right to come in again.
CREATE TABLE vip_linked_tickets (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  reservation_id uuid NOT NULL,
  -- What the ticket was before, to return to.
  was_vip boolean NOT NULL DEFAULT false,
  linked_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_id),
  FOREIGN KEY (tenant_id, event_id, reservation_id) REFERENCES vip_reservations (tenant_id, event_id, reservation_id),
  FOREIGN KEY (tenant_id, event_id, ticket_id) REFERENCES tickets (tenant_id, event_id, ticket_id)
);

CREATE INDEX vip_linked_tickets_by_reservation ON vip_linked_tickets (tenant_id, reservation_id);

-- Every entry of a VIP, once for its row of the ledger, and refusals at the VIP door.
CREATE TABLE vip_scan_logs (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  reservation_id uuid,
  -- NULL: a linked general ticket.
  pass_id uuid,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  scan_type text NOT NULL CHECK (scan_type IN ('first_entry', 'reentry', 'refused')),
  reason text,
  scanned_at timestamptz NOT NULL,
  previous_entry_at timestamptz,
  scanned_by text,
  scanned_by_id uuid,
  -- The account no longer counts it: the entry was given back.
  given_back boolean NOT NULL DEFAULT false,
  gate text NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL,
  PRIMARY KEY (tenant_id, id),
  UNIQUE (tenant_id, gate, epoch, seq)
);

CREATE INDEX vip_scan_logs_by_ticket ON vip_scan_logs (tenant_id, event_id, ticket_id, scanned_at DESC);

CREATE INDEX vip_scan_logs_by_reservation ON vip_scan_logs (tenant_id, reservation_id, scanned_at DESC);

-- Selling: what there is of each ticket type, who reserves it, what is held back, prices, bundles, discounts, the waiting list, refunds.
--
-- users, venues and orders belong to other services: here they are in the smallest form that stands alone, and nothing refers to them by a foreign key.
-- Availability is one row a ticket type, changed under its lock by triggers: quantity = available + reserved + sold + held, never below nothing.
CREATE TABLE users (
  tenant_id uuid NOT NULL REFERENCES tenants,
  user_id text NOT NULL CHECK (user_id <> ''),
  -- As last counted by the functions below; user_ticket_stats counts at once.
  tickets_owned integer NOT NULL DEFAULT 0,
  tickets_bought integer NOT NULL DEFAULT 0,
  spent_cents bigint NOT NULL DEFAULT 0,
  events_attended integer NOT NULL DEFAULT 0,
  counted_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, user_id)
);

CREATE TABLE venues (
  tenant_id uuid NOT NULL REFERENCES tenants,
  venue_id text NOT NULL CHECK (venue_id <> ''),
  site_id text,
  name text NOT NULL,
  owner_user_id text,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, venue_id),
  FOREIGN KEY (tenant_id, site_id) REFERENCES sites (tenant_id, site_id)
);

CREATE TABLE orders (
  tenant_id uuid NOT NULL REFERENCES tenants,
  order_id text NOT NULL CHECK (order_id <> ''),
  user_id text,
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'paid', 'cancelled', 'refunded')),
  total_cents bigint NOT NULL DEFAULT 0 CHECK (total_cents >= 0),
  currency text CHECK (currency ~ '^[A-Z]{3}$'),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, order_id)
);

CREATE INDEX orders_by_user ON orders (tenant_id, user_id);

-- quantity NULL: as many as there are.
ALTER TABLE ticket_types
  ADD COLUMN description text NOT NULL DEFAULT '',
  ADD COLUMN currency text CHECK (currency ~ '^[A-Z]{3}$'),
  ADD COLUMN price_cents bigint CHECK (price_cents >= 0),
  ADD COLUMN max_resale_price_cents bigint CHECK (max_resale_price_cents >= 0),
  ADD COLUMN quantity integer CHECK (quantity >= 0),
  ADD COLUMN reserved_quantity integer NOT NULL DEFAULT 0 CHECK (reserved_quantity >= 0),
  ADD COLUMN sold_quantity integer NOT NULL DEFAULT 0 CHECK (sold_quantity >= 0),
  ADD COLUMN held_quantity integer NOT NULL DEFAULT 0 CHECK (held_quantity >= 0),
  ADD COLUMN available_quantity integer GENERATED ALWAYS AS (quantity - reserved_quantity - sold_quantity - held_quantity) STORED CHECK (available_quantity >= 0),
  ADD COLUMN max_per_order integer CHECK (max_per_order > 0),
  ADD COLUMN sale_starts_at timestamptz,
  ADD COLUMN sale_ends_at timestamptz,
  ADD COLUMN row_version bigint NOT NULL DEFAULT 1,
  ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now(),
  ADD CONSTRAINT ticket_types_sale_in_order CHECK (sale_starts_at IS NULL OR sale_ends_at IS NULL OR sale_starts_at <= sale_ends_at),
  ADD CONSTRAINT ticket_types_resale_above_price CHECK (max_resale_price_cents IS NULL OR price_cents IS NULL OR max_resale_price_cents >= price_cents);

CREATE TABLE ticket_price_history (
  tenant_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  tier text NOT NULL,
  old_price_cents bigint,
  new_price_cents bigint,
  currency text,
  changed_by text,
  reason text,
  changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id),
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier)
);

CREATE INDEX ticket_price_history_by_type ON ticket_price_history (tenant_id, event_id, tier, id);

CREATE TABLE reservations (
  tenant_id uuid NOT NULL,
  reservation_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  tier text NOT NULL,
  user_id text,
  order_id text,
  quantity integer NOT NULL CHECK (quantity BETWEEN 1 AND 1000),
  status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'confirmed', 'expired', 'cancelled')),
  expires_at timestamptz NOT NULL DEFAULT now() + interval '15 minutes',
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, reservation_id),
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier)
);

CREATE INDEX reservations_due ON reservations (tenant_id, event_id, tier, expires_at) WHERE status = 'active';

CREATE INDEX reservations_by_user ON reservations (tenant_id, user_id) WHERE user_id IS NOT NULL;

CREATE TABLE reservation_history (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  reservation_id uuid NOT NULL,
  previous_status text,
  new_status text NOT NULL,
  changed_by text,
  reason text,
  changed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, reservation_id, id)
);

-- Held back from sale: for sponsors, for the house, for a seat that is broken.
CREATE TABLE ticket_holds (
  tenant_id uuid NOT NULL,
  hold_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  tier text NOT NULL,
  quantity integer NOT NULL CHECK (quantity > 0),
  reason text NOT NULL,
  held_by text,
  released_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, hold_id),
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier)
);

CREATE INDEX ticket_holds_open ON ticket_holds (tenant_id, event_id, tier) WHERE released_at IS NULL;

-- To be told to people, by whoever can reach them: ids only, no addresses.
CREATE TABLE ticket_notifications (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  kind text NOT NULL CHECK (kind <> ''),
  user_id text,
  event_id text,
  ticket_id text,
  detail jsonb NOT NULL DEFAULT '{}',
  due_at timestamptz NOT NULL DEFAULT now(),
  attempts integer NOT NULL DEFAULT 0,
  last_error text,
  sent_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id)
);

CREATE INDEX ticket_notifications_due ON ticket_notifications (tenant_id, due_at) WHERE sent_at IS NULL;

CREATE TABLE waitlist (
  tenant_id uuid NOT NULL,
  waitlist_id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  tier text NOT NULL,
  user_id text NOT NULL,
  quantity integer NOT NULL DEFAULT 1 CHECK (quantity > 0),
  status text NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'offered', 'accepted', 'expired', 'cancelled')),
  offered_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, waitlist_id),
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier)
);

CREATE UNIQUE INDEX waitlist_once ON waitlist (tenant_id, event_id, tier, user_id) WHERE status IN ('waiting', 'offered');

CREATE TABLE ticket_bundles (
  tenant_id uuid NOT NULL,
  bundle_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  name text NOT NULL CHECK (name <> ''),
  price_cents bigint NOT NULL CHECK (price_cents >= 0),
  currency text CHECK (currency ~ '^[A-Z]{3}$'),
  active boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, bundle_id),
  UNIQUE (tenant_id, event_id, bundle_id),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);

CREATE TABLE ticket_bundle_items (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  bundle_id uuid NOT NULL,
  tier text NOT NULL,
  quantity integer NOT NULL CHECK (quantity > 0),
  PRIMARY KEY (tenant_id, event_id, bundle_id, tier),
  FOREIGN KEY (tenant_id, event_id, bundle_id) REFERENCES ticket_bundles (tenant_id, event_id, bundle_id) ON DELETE CASCADE,
  FOREIGN KEY (tenant_id, event_id, tier) REFERENCES ticket_types (tenant_id, event_id, tier)
);

CREATE TABLE discounts (
  tenant_id uuid NOT NULL REFERENCES tenants,
  discount_id uuid NOT NULL DEFAULT gen_random_uuid(),
  code text NOT NULL CHECK (code <> '' AND code = upper(code)),
  event_id text,
  percent numeric(5, 2) CHECK (percent > 0 AND percent <= 100),
  amount_cents bigint CHECK (amount_cents > 0),
  min_order_cents bigint NOT NULL DEFAULT 0 CHECK (min_order_cents >= 0),
  max_uses integer CHECK (max_uses > 0),
  uses integer NOT NULL DEFAULT 0 CHECK (uses >= 0 AND (max_uses IS NULL OR uses <= max_uses)),
  valid_from timestamptz,
  valid_until timestamptz,
  active boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, discount_id),
  UNIQUE (tenant_id, code),
  CHECK ((percent IS NULL) <> (amount_cents IS NULL)),
  CHECK (valid_from IS NULL OR valid_until IS NULL OR valid_from <= valid_until)
);

CREATE TABLE order_discounts (
  tenant_id uuid NOT NULL,
  order_id text NOT NULL,
  discount_id uuid NOT NULL,
  -- Worked out when it is written.
  amount_cents bigint NOT NULL DEFAULT 0 CHECK (amount_cents >= 0),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, order_id, discount_id),
  FOREIGN KEY (tenant_id, order_id) REFERENCES orders (tenant_id, order_id),
  FOREIGN KEY (tenant_id, discount_id) REFERENCES discounts (tenant_id, discount_id)
);

-- What happens to a ticket between people: transfers, refunds, validations; and the audit of every change of its rights.
--
-- Order of locks: event, ticket, then the transfer or refund. What gates must hear goes through the event's version and the outbox.
CREATE TABLE ticket_transfers (
  tenant_id uuid NOT NULL,
  transfer_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  from_user_id text,
  to_user_id text,
  to_email text,
  -- SHA-256 of transfer_id and the code: the codes are told to the two people and kept nowhere.
  transfer_code_sha256 bytea CHECK (octet_length(transfer_code_sha256) = 32),
  acceptance_code_sha256 bytea CHECK (octet_length(acceptance_code_sha256) = 32),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'accepted', 'rejected', 'cancelled', 'completed', 'expired')),
  reason text,
  expires_at timestamptz NOT NULL DEFAULT now() + interval '3 days',
  tx_signature text,
  blockchain_confirmed boolean NOT NULL DEFAULT false,
  blockchain_confirmed_at timestamptz,
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, transfer_id),
  FOREIGN KEY (tenant_id, event_id, ticket_id) REFERENCES tickets (tenant_id, event_id, ticket_id),
  CHECK (to_user_id IS NOT NULL OR to_email IS NOT NULL),
  CHECK (from_user_id IS DISTINCT FROM to_user_id OR from_user_id IS NULL)
);

CREATE UNIQUE INDEX ticket_transfers_one_open ON ticket_transfers (tenant_id, event_id, ticket_id) WHERE status IN ('pending', 'accepted');

CREATE INDEX ticket_transfers_by_ticket ON ticket_transfers (tenant_id, event_id, ticket_id, created_at);

CREATE INDEX ticket_transfers_to ON ticket_transfers (tenant_id, to_user_id) WHERE status = 'pending';

CREATE TABLE refunds (
  tenant_id uuid NOT NULL,
  refund_id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  order_id text,
  amount_cents bigint NOT NULL CHECK (amount_cents >= 0),
  currency text CHECK (currency ~ '^[A-Z]{3}$'),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'completed', 'failed')),
  reason text NOT NULL DEFAULT '',
  requested_by text,
  decided_by text,
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, refund_id),
  FOREIGN KEY (tenant_id, event_id, ticket_id) REFERENCES tickets (tenant_id, event_id, ticket_id)
);

CREATE UNIQUE INDEX refunds_one_open ON refunds (tenant_id, event_id, ticket_id) WHERE status NOT IN ('rejected', 'failed');

-- Somebody looked at a ticket (and at who holds it) and said what it is. Not an entry.
CREATE TABLE ticket_validations (
  tenant_id uuid NOT NULL,
  validation_id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  result text NOT NULL CHECK (result IN ('valid', 'invalid')),
  method text NOT NULL DEFAULT 'manual' CHECK (method IN ('manual', 'scan', 'identity')),
  note text NOT NULL DEFAULT '',
  validated_by text,
  validated_by_id uuid,
  validated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_id, validation_id),
  FOREIGN KEY (tenant_id, event_id, ticket_id) REFERENCES tickets (tenant_id, event_id, ticket_id)
);

-- Every change of a ticket's rights, by whoever writes it: what it was and what it became. Entries are not changes of rights: they are in the ledgers.
CREATE TABLE ticket_audit_log (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  action text NOT NULL CHECK (action IN ('update', 'delete')),
  actor text,
  actor_type text NOT NULL,
  source text,
  old_values jsonb NOT NULL,
  new_values jsonb NOT NULL DEFAULT '{}',
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, event_id, ticket_id, id)
);

-- A blockchain beside the ledger of rights: what was sent to it, what came of it. Nothing here decides who may enter.
CREATE TABLE pending_transactions (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  event_id text,
  ticket_id text,
  tx_signature text NOT NULL CHECK (tx_signature <> ''),
  tx_type text NOT NULL CHECK (tx_type IN ('mint', 'transfer', 'burn', 'metadata_update', 'verify')),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'confirming', 'confirmed', 'failed', 'expired', 'replaced')),
  blockhash text,
  last_valid_block_height bigint CHECK (last_valid_block_height >= 0),
  slot bigint CHECK (slot >= 0),
  block_time timestamptz,
  error_code text,
  error_message text,
  retry_count integer NOT NULL DEFAULT 0 CHECK (retry_count >= 0),
  max_retries integer NOT NULL DEFAULT 5 CHECK (max_retries >= 0),
  last_retry_at timestamptz,
  payload jsonb NOT NULL DEFAULT '{}',
  submitted_at timestamptz NOT NULL DEFAULT now(),
  confirmed_at timestamptz,
  row_version bigint NOT NULL DEFAULT 1,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id),
  UNIQUE (tenant_id, tx_signature),
  CHECK (retry_count <= max_retries)
);

CREATE INDEX pending_transactions_open ON pending_transactions (tenant_id, status, submitted_at) WHERE status IN ('pending', 'confirming');

-- One at a time for a ticket.
CREATE UNIQUE INDEX pending_transactions_one_open ON pending_transactions (tenant_id, event_id, ticket_id) WHERE status IN ('pending', 'confirming') AND ticket_id IS NOT NULL AND tx_type <> 'verify';

CREATE TABLE blockchain_sync_log (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  tx_signature text,
  event_id text,
  ticket_id text,
  what text NOT NULL CHECK (what IN ('submitted', 'confirmed', 'failed', 'retried', 'mismatch', 'expired', 'replaced')),
  detail jsonb NOT NULL DEFAULT '{}',
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id)
);

CREATE INDEX blockchain_sync_log_by_signature ON blockchain_sync_log (tenant_id, tx_signature);

-- Somebody reached for what is not theirs. Kept also where no tenant is set: then only who has none set sees it.
CREATE TABLE tenant_access_violations (
  tenant_id uuid,
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  attempted_tenant_id uuid,
  what text NOT NULL CHECK (what <> ''),
  actor text,
  detail jsonb NOT NULL DEFAULT '{}',
  database_role text NOT NULL DEFAULT current_user,
  at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX tenant_access_violations_by_time ON tenant_access_violations (tenant_id, at DESC);

ALTER TABLE tenant_access_violations ENABLE ROW LEVEL SECURITY;

ALTER TABLE tenant_access_violations FORCE ROW LEVEL SECURITY;

CREATE POLICY tenant_isolation ON tenant_access_violations USING (tenant_id IS NOT DISTINCT FROM current_tenant_id()) WITH CHECK (tenant_id IS NOT DISTINCT FROM current_tenant_id());

-- A message that came with this nonce was taken.
CREATE TABLE webhook_nonces (
  tenant_id uuid NOT NULL REFERENCES tenants,
  source text NOT NULL CHECK (source <> ''),
  nonce text NOT NULL CHECK (length(nonce) BETWEEN 1 AND 200),
  received_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, source, nonce)
);

CREATE INDEX webhook_nonces_by_expiry ON webhook_nonces (tenant_id, expires_at);

-- What a user may spend, in cents, in rolling windows; NULL: no limit of that kind. In order.
CREATE TABLE spending_limits (
  tenant_id uuid NOT NULL REFERENCES tenants,
  user_id text NOT NULL,
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  per_transaction_cents bigint CHECK (per_transaction_cents >= 0),
  per_day_cents bigint CHECK (per_day_cents >= 0),
  per_week_cents bigint CHECK (per_week_cents >= 0),
  per_month_cents bigint CHECK (per_month_cents >= 0),
  row_version bigint NOT NULL DEFAULT 1,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, user_id, currency),
  -- least() passes over what is not set.
  CONSTRAINT spending_limits_in_order CHECK (coalesce(per_transaction_cents <= least(per_day_cents, per_week_cents, per_month_cents), true) AND coalesce(per_day_cents <= least(per_week_cents, per_month_cents), true) AND coalesce(per_week_cents <= per_month_cents, true))
);

CREATE TABLE spending_transactions (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  user_id text NOT NULL,
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  amount_cents bigint NOT NULL CHECK (amount_cents > 0),
  order_id text,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id)
);

CREATE INDEX spending_transactions_by_user ON spending_transactions (tenant_id, user_id, currency, at DESC);

CREATE TABLE account_lockout_events (
  tenant_id uuid NOT NULL REFERENCES tenants,
  id bigint GENERATED ALWAYS AS IDENTITY,
  user_id text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('failed_attempt', 'locked', 'unlocked')),
  failed_count integer NOT NULL DEFAULT 0 CHECK (failed_count >= 0),
  locked_until timestamptz,
  actor text,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, user_id, id),
  CHECK ((kind = 'locked') = (locked_until IS NOT NULL))
);

-- Acts that several people must agree to. One rejection is enough to stop one; nobody agrees to their own.
CREATE TABLE multisig_approval_requests (
  tenant_id uuid NOT NULL REFERENCES tenants,
  request_id uuid NOT NULL DEFAULT gen_random_uuid(),
  operation text NOT NULL CHECK (operation <> ''),
  payload jsonb NOT NULL DEFAULT '{}',
  requested_by text NOT NULL,
  required_approvals integer NOT NULL CHECK (required_approvals BETWEEN 1 AND 20),
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'expired', 'executed')),
  expires_at timestamptz NOT NULL DEFAULT now() + interval '1 day',
  executed_at timestamptz,
  row_version bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, request_id)
);

CREATE TABLE multisig_approvals (
  tenant_id uuid NOT NULL, request_id uuid NOT NULL, approver text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, request_id, approver),
  FOREIGN KEY (tenant_id, request_id) REFERENCES multisig_approval_requests (tenant_id, request_id)
);

CREATE TABLE multisig_rejections (
  tenant_id uuid NOT NULL, request_id uuid NOT NULL, approver text NOT NULL,
  reason text NOT NULL CHECK (reason <> ''),
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, request_id, approver),
  FOREIGN KEY (tenant_id, request_id) REFERENCES multisig_approval_requests (tenant_id, request_id)
);

-- Scans that came over HTTP: one row for each, keyed so that a repeat is known, naming the row of the cloud's ledger that it became.
-- Written under the lock of that ledger (ledgers), so two machines never take the same scan at once.
CREATE TABLE device_scans (
  tenant_id uuid NOT NULL,
  device text NOT NULL,
  -- 'id <scan_id>', or 'at <ticket_id> <scanned_at in Unix ms> <result>' where the scanner gave none.
  scan_key text NOT NULL CHECK (length(scan_key) BETWEEN 4 AND 160),
  online boolean NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL,
  seq bigint NOT NULL,
  event_id text,
  ticket_id text,
  result text NOT NULL CHECK (result IN ('ALLOW', 'DENY')),
  scanned_at timestamptz NOT NULL,
  -- What the scanner had counted: kept as it said, never added to anything.
  scan_count integer CHECK (scan_count >= 0),
  -- Online: what was asked (event, direction and salted hash of the code, hashed), and the answer as it was given, JSON as text.
  asked_sha256 bytea CHECK (octet_length(asked_sha256) = 32),
  answer text,
  received_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, device, scan_key),
  FOREIGN KEY (tenant_id, device) REFERENCES devices (tenant_id, name),
  CHECK (online = (asked_sha256 IS NOT NULL AND answer IS NOT NULL))
);

CREATE INDEX device_scans_by_row ON device_scans (tenant_id, gate, epoch, seq);

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

-- Whoever reads changes says after which version: that is what makes this index his alone.
CREATE INDEX tickets_by_change ON tickets (tenant_id, event_id, changed_version) WHERE changed_version > 0;

-- A tenant that the statistics don't list is taken for one without rows, and its whole event is then read first. Without statistics of this column every
-- tenant is taken for a two-hundredth of the table: enough to look tickets up one by one.
ALTER TABLE tickets ALTER COLUMN tenant_id SET STATISTICS 0;

ALTER TABLE ticket_usage ALTER COLUMN tenant_id SET STATISTICS 0;

ALTER TABLE admissions ALTER COLUMN tenant_id SET STATISTICS 0;

-- Noted with the change, judged in a transaction of its own: whoever writes a ticket holds its row, and reconciliation takes the compact row first.
-- No key of the ticket: two who note the same must not wait for each other.
CREATE TABLE judgements_due (
  tenant_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  PRIMARY KEY (tenant_id, id)
);

-- Alerts of the cloud that somebody cleared. No foreign key: what was done outlives the gate.
CREATE TABLE cleared_alerts (
  tenant_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  device text NOT NULL,
  alert_id text NOT NULL,
  alert jsonb NOT NULL,
  raised_at timestamptz NOT NULL,
  cleared_at timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL CHECK (actor <> ''),
  reason text NOT NULL CHECK (reason <> ''),
  PRIMARY KEY (tenant_id, id)
);

CREATE INDEX conflicts_untold ON conflicts (tenant_id, found_at) WHERE NOT told;

-- Conflicts that were told and are none any more.
CREATE TABLE withdrawn_conflicts (
  tenant_id uuid NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id text NOT NULL,
  ticket_id text NOT NULL,
  loser_gate text NOT NULL, loser_epoch bigint NOT NULL, loser_seq bigint NOT NULL,
  cause text NOT NULL,
  PRIMARY KEY (tenant_id, id)
);

CREATE FUNCTION scan_keys_kept_for() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN interval '400 days';

CREATE INDEX device_scans_by_age ON device_scans (tenant_id, received_at);

CREATE INDEX ticket_scans_by_age ON ticket_scans (tenant_id, received_at);

CREATE INDEX ticket_notifications_by_age ON ticket_notifications (tenant_id, created_at);

CREATE INDEX ledger_lines_by_place ON ledger_lines (gate, epoch, seq);

CREATE INDEX ledger_lines_by_ticket ON ledger_lines (ticket_id, tenant_id) WHERE ticket_id IS NOT NULL AND kind <> 'grant';

CREATE UNIQUE INDEX admissions_one_winner ON admissions (ticket_id, event_id, tenant_id, (CASE WHEN verdict = 'winner' THEN true END));

-- What a scanner says that it counted may be any whole number.
ALTER TABLE device_scans ALTER COLUMN scan_count TYPE bigint;

-- Claims that wait for their tickets: what scanners and doors reported of tickets that were not known. gate, epoch, seq: the row of the claim.
CREATE TABLE pending_scans (
  tenant_id uuid NOT NULL,
  -- Empty: a door in SQL at which no device stands.
  device text NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL,
  seq bigint NOT NULL,
  result text NOT NULL CHECK (result IN ('ALLOW', 'DENY')),
  reason text,
  -- Where a code was shown and no ticket id; ticket_id follows when the ticket appears.
  ticket_ref bytea CHECK (octet_length(ticket_ref) = 16),
  -- As in device_scans: the scan keeps its key when it is settled, so that a repeat is known before and after.
  scan_key text NOT NULL CHECK (length(scan_key) BETWEEN 4 AND 160),
  -- NULL: the scanner did not say; the ticket is looked for in the events of the device's site.
  event_id text,
  ticket_id text,
  direction text NOT NULL CHECK (direction IN ('in', 'out')),
  -- NULL: as many as the ticket is for.
  units integer CHECK (units BETWEEN 1 AND 100),
  scan_id text,
  scan_count bigint CHECK (scan_count >= 0),
  flags text[] NOT NULL DEFAULT '{}',
  scanned_at timestamptz NOT NULL,
  -- When it happened, whose clock says so and how sure that is.
  at timestamptz NOT NULL,
  clock text NOT NULL,
  bound_ms integer NOT NULL,
  -- at minus what the device's own clock showed.
  offset_ms bigint NOT NULL DEFAULT 0,
  -- Why it could not be settled, if that was tried.
  failed text CHECK (length(failed) <= 512),
  received_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, device, scan_key),
  CHECK (ticket_id IS NOT NULL OR (ticket_ref IS NOT NULL AND event_id IS NOT NULL))
);

CREATE INDEX pending_scans_by_ticket ON pending_scans (tenant_id, ticket_id);

CREATE INDEX pending_scans_by_ref ON pending_scans (tenant_id, event_id, ticket_ref) WHERE ticket_id IS NULL;

CREATE INDEX pending_scans_by_age ON pending_scans (tenant_id, received_at);

-- Row security: every tenant's table, forced, by its tenant_id.
SELECT isolate_by_tenant(tab) FROM unnest(ARRAY[
  'sites',
  'devices',
  'device_alerts',
  'events',
  'gate_assignments',
  'ticket_types',
  'tickets',
  'ticket_tombstones',
  'ledgers',
  'ledger_epochs',
  'ledger_lines',
  'ledger_messages',
  'ledger_breaks',
  'ledger_gone',
  'ledger_agains',
  'forked_rows',
  'boots',
  'ticket_usage',
  'admissions',
  'conflicts',
  'gate_counts',
  'event_policies',
  'outbox',
  'manifests',
  'manifest_pieces',
  'event_publications',
  'ticket_actions',
  'idempotency_keys',
  'operator_tokens',
  'enrolment_tokens',
  'gate_certificates',
  'ticket_state_history',
  'ticket_scans',
  'vip_reservations',
  'vip_guest_passes',
  'vip_linked_tickets',
  'vip_scan_logs',
  'users',
  'venues',
  'orders',
  'ticket_price_history',
  'reservations',
  'reservation_history',
  'ticket_holds',
  'ticket_notifications',
  'waitlist',
  'ticket_bundles',
  'ticket_bundle_items',
  'discounts',
  'order_discounts',
  'ticket_transfers',
  'refunds',
  'ticket_validations',
  'ticket_audit_log',
  'pending_transactions',
  'blockchain_sync_log',
  'webhook_nonces',
  'spending_limits',
  'spending_transactions',
  'account_lockout_events',
  'multisig_approval_requests',
  'multisig_approvals',
  'multisig_rejections',
  'device_scans',
  'code_keys',
  'judgements_due',
  'cleared_alerts',
  'withdrawn_conflicts',
  'pending_scans'
]::regclass[]) AS tab;

-- What the service may do beyond, and may not.
REVOKE EXECUTE ON FUNCTION isolate_by_tenant(regclass) FROM PUBLIC;
GRANT SELECT ON tenants TO stile_service;
-- Before a tenant is known: ids only, by names that topics and tokens carry.
GRANT SELECT ON devices, sites, tenants TO stile_resolver;
REVOKE UPDATE, DELETE ON ledger_lines, ledger_messages FROM stile_service;
GRANT SELECT, INSERT, UPDATE ON quarantine TO stile_service;
REVOKE DELETE ON forked_rows FROM stile_service;
GRANT SELECT ON forked_rows, ledgers TO stile_resolver;
-- Rows that do not follow leave the account by one function alone (set_rows_apart).
GRANT SELECT, DELETE ON ledger_lines TO stile_resolver;
-- The life of the database is everybody's to read, and renewed by a function (renew_database_life).
GRANT SELECT ON database_lives TO stile_service, stile_resolver;
GRANT INSERT, UPDATE ON database_lives TO stile_resolver;
GRANT SELECT ON ledger_epochs, ticket_usage, tickets TO stile_resolver;
GRANT SELECT, INSERT ON signing_keys TO stile_service;
-- Tenants are made from the command line; the policy of 0001 lets a transaction insert its own tenant and no other.
GRANT INSERT ON tenants TO stile_service;
-- Before a tenant is known: ids only.
GRANT SELECT, UPDATE ON outbox TO stile_resolver;
GRANT SELECT ON operator_tokens, enrolment_tokens, gate_certificates, gate_assignments, events, manifests TO stile_resolver;
REVOKE UPDATE, DELETE ON ticket_state_history FROM stile_service;
REVOKE UPDATE ON vip_linked_tickets FROM stile_service;
REVOKE UPDATE, DELETE ON ticket_price_history, reservation_history, order_discounts FROM stile_service;
REVOKE DELETE ON reservations, ticket_holds FROM stile_service;
REVOKE UPDATE, DELETE ON ticket_validations, ticket_audit_log FROM stile_service;
REVOKE DELETE ON ticket_transfers, refunds FROM stile_service;
REVOKE UPDATE, DELETE ON blockchain_sync_log FROM stile_service;
REVOKE DELETE ON pending_transactions FROM stile_service;
GRANT SELECT, INSERT ON tenant_access_violations TO stile_service;
REVOKE UPDATE, DELETE ON spending_transactions, account_lockout_events, multisig_approvals, multisig_rejections FROM stile_service;
REVOKE DELETE ON multisig_approval_requests FROM stile_service;
REVOKE UPDATE, DELETE ON device_scans FROM stile_service;
REVOKE DELETE ON code_keys, gate_certificates FROM stile_service;
GRANT SELECT ON judgements_due TO stile_resolver;
REVOKE UPDATE, DELETE ON cleared_alerts FROM stile_service;
GRANT SELECT ON conflicts, withdrawn_conflicts TO stile_resolver;
-- Keys that are young nobody may take away.
GRANT DELETE ON device_scans TO stile_service;
CREATE POLICY only_what_is_old ON device_scans AS RESTRICTIVE FOR DELETE USING (tenant_id = current_tenant_id() AND received_at < now() - scan_keys_kept_for());
-- The owner sees no row of any tenant.
GRANT SELECT ON ledger_lines, ledger_messages TO stile_resolver;
-- Whose rows are seen and written is asked once a statement, not once a row: the tables that every row of a ledger touches.
DO $$
DECLARE
  tab text;
BEGIN
  FOREACH tab IN ARRAY ARRAY['ledgers', 'ledger_epochs', 'ledger_lines', 'ledger_messages', 'boots', 'ticket_usage', 'admissions', 'conflicts', 'gate_counts', 'tickets', 'ticket_state_history'] LOOP
    EXECUTE format('ALTER POLICY tenant_isolation ON %I USING (tenant_id = (SELECT current_tenant_id())) WITH CHECK (tenant_id = (SELECT current_tenant_id()))', tab);
  END LOOP;
END
$$;
-- A row's time is what its boot says of it, and may be known better later (place_rows): the rest of a row never changes.
GRANT UPDATE (at) ON ledger_lines TO stile_service;
GRANT SELECT ON pending_scans TO stile_resolver;
