-- The account: rows as gates wrote them, and what follows from them. Tables only; 0003 holds the functions.
--
-- Order of locks everywhere: gate (ledgers), ticket (ticket_usage), counts (gate_counts); each sorted.

-- One row a ledger: the lock that makes (gate, epoch, seq) unique while the rows are partitioned by time. gate is <site>/<gate> or <site>/cloud.
CREATE TABLE ledgers (
  tenant_id uuid NOT NULL,
  gate text NOT NULL CHECK (length(gate) <= 63),
  site_id text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, gate),
  FOREIGN KEY (tenant_id, site_id) REFERENCES sites (tenant_id, site_id),
  CHECK (split_part(gate, '/', 1) = site_id)
);

-- Which rows of an epoch are stored. upto_seq: every row 1..upto_seq is.
CREATE TABLE ledger_epochs (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL CHECK (epoch > 0),
  stored int8multirange NOT NULL DEFAULT '{}',
  upto_seq bigint NOT NULL DEFAULT 0,
  -- Of the cloud's own ledgers: up to where gates were told over MQTT.
  published_seq bigint NOT NULL DEFAULT 0,
  last_row_at timestamptz,
  PRIMARY KEY (tenant_id, gate, epoch),
  FOREIGN KEY (tenant_id, gate) REFERENCES ledgers (tenant_id, gate)
);

-- Rows as they came. entry is the row's JSON without its hash, as text: it must be kept whatever it says, and jsonb refuses some strings.
-- Partitioned by arrival, so that no row ever comes into an old partition and it can be detached. The columns repeat what queries need.
CREATE TABLE ledger_rows (
  tenant_id uuid NOT NULL,
  gate text NOT NULL,
  epoch bigint NOT NULL,
  seq bigint NOT NULL CHECK (seq > 0),
  received_at timestamptz NOT NULL DEFAULT now(),
  kind text NOT NULL,
  -- False: of no known kind, or not as its kind should be. Kept, and says nothing.
  readable boolean NOT NULL,
  hash bytea NOT NULL CHECK (octet_length(hash) = 32),
  entry text NOT NULL,
  -- When it happened, as far as was known when it arrived. Ranking uses admissions.at.
  at timestamptz NOT NULL,
  event_id text,
  ticket_id text,
  PRIMARY KEY (tenant_id, gate, epoch, seq, received_at)
) PARTITION BY RANGE (received_at);
CREATE INDEX ledger_rows_by_ticket ON ledger_rows (tenant_id, ticket_id) WHERE ticket_id IS NOT NULL;
CREATE INDEX ledger_rows_refusals ON ledger_rows (tenant_id, at) WHERE kind = 'refusal';

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
);

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
  PRIMARY KEY (tenant_id, event_id, ticket_id)
) WITH (fillfactor = 90);
CREATE INDEX ticket_usage_unknown ON ticket_usage (tenant_id, event_id, ticket_id) WHERE NOT known;

-- Every first entry changes the state: without this index, that changes no index at all (and few states tell tickets apart).
DROP INDEX tickets_by_status;
ALTER TABLE tickets SET (fillfactor = 85);

-- The ticket's state before its first entry, to return to if that is given back.
ALTER TABLE tickets ADD COLUMN status_before_entry ticket_status;

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
  -- above, settlements in their order (word_of_settlement).
  word_1 bigint, words bigint[], word_all bigint,
  units_used smallint NOT NULL DEFAULT 0,
  units_uncertain smallint NOT NULL DEFAULT 0,
  outcome text CHECK (outcome IN ('open', 'passed', 'stuck', 'unknown', 'returned')),
  verdict text CHECK (verdict IN ('winner', 'reentry', 'exit', 'excess', 'annulled')),
  -- Of excess: the reason that would have refused it.
  cause text,
  -- Its interval overlaps another grant's of the ticket: the order between them is by the fixed rule.
  overlapping boolean NOT NULL DEFAULT false,
  PRIMARY KEY (tenant_id, gate, epoch, seq)
) WITH (fillfactor = 85);
CREATE INDEX admissions_by_ticket ON admissions (tenant_id, event_id, ticket_id);
CREATE UNIQUE INDEX admissions_one_winner ON admissions (tenant_id, event_id, ticket_id) WHERE verdict = 'winner';

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
  PRIMARY KEY (tenant_id, event_id, ticket_id, loser_gate, loser_epoch, loser_seq)
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
  PRIMARY KEY (tenant_id, gate, event_id)
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

-- Alerts that the cloud raised itself: no gate can clear them.
ALTER TABLE device_alerts ADD COLUMN by_cloud boolean NOT NULL DEFAULT false;

-- The policies of an event at each of its versions: a grant is judged by those that its gate had.
CREATE TABLE event_policies (
  tenant_id uuid NOT NULL,
  event_id text NOT NULL,
  version bigint NOT NULL,
  policies jsonb NOT NULL,
  PRIMARY KEY (tenant_id, event_id, version),
  FOREIGN KEY (tenant_id, event_id) REFERENCES events (tenant_id, event_id)
);

SELECT isolate_by_tenant(tab) FROM unnest(ARRAY['ledgers', 'ledger_epochs', 'ledger_rows', 'ledger_breaks', 'boots', 'ticket_usage', 'admissions', 'conflicts', 'gate_counts', 'event_policies']::regclass[]) AS tab;
REVOKE UPDATE, DELETE ON ledger_rows FROM stile_service;

ALTER TABLE quarantine ENABLE ROW LEVEL SECURITY;
ALTER TABLE quarantine FORCE ROW LEVEL SECURITY;
-- Without a tenant one sees, and writes, what belongs to none.
CREATE POLICY tenant_isolation ON quarantine USING (tenant_id IS NOT DISTINCT FROM current_tenant_id()) WITH CHECK (tenant_id IS NOT DISTINCT FROM current_tenant_id());
GRANT SELECT, INSERT, UPDATE ON quarantine TO stile_service;

CREATE FUNCTION remember_event_policies() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND NEW.policies = OLD.policies THEN RETURN NULL; END IF;
  INSERT INTO event_policies (tenant_id, event_id, version, policies) VALUES (NEW.tenant_id, NEW.event_id, NEW.version, NEW.policies)
  ON CONFLICT (tenant_id, event_id, version) DO UPDATE SET policies = excluded.policies;
  RETURN NULL;
END
$$;
CREATE TRIGGER events_remember_policies AFTER INSERT OR UPDATE ON events FOR EACH ROW EXECUTE FUNCTION remember_event_policies();
ALTER TABLE events NO FORCE ROW LEVEL SECURITY;
ALTER TABLE event_policies NO FORCE ROW LEVEL SECURITY;
INSERT INTO event_policies (tenant_id, event_id, version, policies) SELECT tenant_id, event_id, version, policies FROM events;
ALTER TABLE events FORCE ROW LEVEL SECURITY;
ALTER TABLE event_policies FORCE ROW LEVEL SECURITY;

-- A partition a month; the default one takes what no month was made for, so that no row is ever refused for it.
CREATE TABLE ledger_rows_default PARTITION OF ledger_rows DEFAULT;
ALTER TABLE ledger_rows_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger_rows_default FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON ledger_rows_default USING (tenant_id = current_tenant_id()) WITH CHECK (tenant_id = current_tenant_id());

-- Makes the partitions of this month and the next ones. For the owner, at every migrate. A month whose rows went to the default partition stays there.
CREATE FUNCTION make_ledger_partitions(months integer DEFAULT 6) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  begins date;
  part text;
  made integer := 0;
BEGIN
  FOR i IN 0 .. least(greatest(months, 0), 24) LOOP
    begins := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i))::date;
    part := 'ledger_rows_' || to_char(begins, 'YYYYMM');
    CONTINUE WHEN to_regclass(part) IS NOT NULL;
    -- The server looks through the default partition itself: the owner sees no row there.
    BEGIN
      EXECUTE format('CREATE TABLE %I PARTITION OF ledger_rows FOR VALUES FROM (%L) TO (%L)', part, begins::text || ' 00:00:00+00', (begins + interval '1 month')::date::text || ' 00:00:00+00');
    EXCEPTION WHEN check_violation THEN CONTINUE;
    END;
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', part);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', part);
    EXECUTE format('CREATE POLICY tenant_isolation ON %I USING (tenant_id = current_tenant_id()) WITH CHECK (tenant_id = current_tenant_id())', part);
    made := made + 1;
  END LOOP;
  RETURN made;
END
$$;
REVOKE EXECUTE ON FUNCTION make_ledger_partitions(integer) FROM PUBLIC;
SELECT make_ledger_partitions();
