/**
 * A real PostgreSQL for tests: a new, migrated database in milliseconds, cloned from a template.
 *
 * One server for each test process, started at first use and stopped with it (DATABASE_URL: that
 * server instead). The template is named after the migrations, so it is made once for each state of them.
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { connectOwner, createDatabase, type Database } from '../cloud/db/database.ts';
import { migrate, schemaHashes } from '../cloud/db/migrate.ts';
import { type RunningPostgres, startPostgres } from './postgres.ts';
import { loginsOf, prepareDatabase } from './prepare-database.ts';

const TEMPLATE_LOCK = 0x5374_0001;

export interface FreshDatabase {
  /** A superuser's login, for tests that look at everything. No program serves by it: it refuses. */
  readonly url: string;
  /** For the programs under test: the login that serves, as docs/INSTALL.md makes it. */
  readonly servingUrl: string;
  /** The owner, which migrated. */
  readonly ownerUrl: string;
  /** The server's `postgres` database. */
  readonly adminUrl: string;
  /** A pool on `servingUrl`, whose `asOwner` is on `url`; closed by `drop`. */
  readonly database: Database;
  /** Ends every connection and removes the database. */
  drop(): Promise<void>;
}

let server: Promise<RunningPostgres> | undefined;

/** The server of this test process. fsync is off: rows survive kill -9 of any process, not a power cut. */
export function testPostgres(): Promise<RunningPostgres> {
  server ??= startPostgres({ fsync: false });
  return server;
}

/** A new database with every migration landed. Safe with any number of workers. */
export async function freshDatabase(): Promise<FreshDatabase> {
  const adminUrl = (await testPostgres()).url;
  const template = `stile_template_${createHash('sha256')
    .update(JSON.stringify([...schemaHashes()]))
    .digest('hex')
    .slice(0, 12)}`;
  const name = `stile_test_${randomBytes(6).toString('hex')}`;
  const admin = await connectOwner(adminUrl);
  try {
    await admin.query('SELECT pg_advisory_lock($1)', [TEMPLATE_LOCK]);
    const found = await admin.query('SELECT 1 FROM pg_database WHERE datname = $1 AND NOT datallowconn', [template]);
    if (found.rowCount === 0) {
      await admin.query(`DROP DATABASE IF EXISTS ${template} WITH (FORCE)`);
      await migrate((await prepareDatabase(adminUrl, template)).ownerUrl);
      // Complete from here on; nobody may connect, so that it can always be cloned.
      await admin.query(`ALTER DATABASE ${template} ALLOW_CONNECTIONS false`);
    }
    await admin.query('SELECT pg_advisory_unlock($1)', [TEMPLATE_LOCK]);
    await admin.query(`CREATE DATABASE ${name} OWNER stile_owner TEMPLATE ${template}`);
  } finally {
    await admin.close();
  }
  const url = databaseUrl(adminUrl, name);
  const { ownerUrl, servingUrl } = loginsOf(adminUrl, name);
  const serving = createDatabase({ url: servingUrl, name: 'stile-test' });
  const everything = createDatabase({ url, name: 'stile-test' });
  const database: Database = {
    ...serving,
    asOwner: everything.asOwner,
    close: async () => {
      await Promise.all([serving.close(), everything.close()]);
    },
  };
  return {
    url,
    servingUrl,
    ownerUrl,
    adminUrl,
    database,
    async drop() {
      await database.close();
      const again = await connectOwner(adminUrl);
      try {
        await again.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
      } finally {
        await again.close();
      }
    },
  };
}

function databaseUrl(adminUrl: string, name: string): string {
  const url = new URL(adminUrl);
  url.pathname = `/${name}`;
  return url.href;
}

export interface VenueOptions {
  /** Default: a name of its own, so that several venues fit in one database. */
  readonly site?: string;
  readonly gates?: readonly string[];
  readonly event?: string;
  /** How many tickets `T-1`, `T-2`, …; default 10. */
  readonly tickets?: number;
  readonly policies?: Readonly<Record<string, unknown>>;
  readonly maxScans?: number | null;
  readonly tier?: string;
  readonly zone?: string | null;
}

export interface TestTicket {
  readonly ticketId: string;
  readonly code: string;
  readonly ticketRef: string;
}
export interface Venue {
  readonly tenantId: string;
  readonly tenantName: string;
  readonly site: string;
  /** Full names, `<site>/<gate>`. */
  readonly gates: readonly string[];
  readonly eventId: string;
  /** Hex. */
  readonly salt: string;
  readonly tickets: readonly TestTicket[];
}

/** A tenant with a site, gates, an event assigned to all of them, and tickets of one tier. */
export async function makeVenue(url: string, options: VenueOptions = {}): Promise<Venue> {
  const tenantId = randomUUID();
  const site = options.site ?? `site-${randomBytes(4).toString('hex')}`;
  const gates = (options.gates ?? ['north', 'south']).map((gate) => `${site}/${gate}`);
  const eventId = options.event ?? 'EV1';
  const tier = options.tier ?? 'standard';
  const salt = randomBytes(32);
  const tickets = Array.from({ length: options.tickets ?? 10 }, (_, index): TestTicket => {
    const code = `${site}-${index + 1}-${randomBytes(16).toString('base64url')}`;
    return { ticketId: `T-${index + 1}`, code, ticketRef: createHash('sha256').update(salt).update(code).digest().subarray(0, 16).toString('hex') };
  });
  const owner = await connectOwner(url);
  try {
    await owner.query('BEGIN');
    await owner.query('SELECT set_tenant_context($1)', [tenantId]);
    await owner.query('INSERT INTO tenants (id, name) VALUES ($1, $2)', [tenantId, `tenant-${site}`]);
    await owner.query('INSERT INTO sites (tenant_id, site_id, name) VALUES ($1, $2, $2)', [tenantId, site]);
    await owner.query(
      "INSERT INTO devices (tenant_id, name, site_id, gate_id, enrolled_at) SELECT $1, g, split_part(g, '/', 1), split_part(g, '/', 2), now() FROM unnest($2::text[]) AS g",
      [tenantId, gates],
    );
    await owner.query('INSERT INTO events (tenant_id, event_id, site_id, name, salt, policies) VALUES ($1, $2, $3, $2, $4, $5)', [
      tenantId,
      eventId,
      site,
      salt,
      JSON.stringify(options.policies ?? {}),
    ]);
    await owner.query('INSERT INTO gate_assignments (tenant_id, gate, event_id) SELECT $1, g, $2 FROM unnest($3::text[]) AS g', [tenantId, eventId, gates]);
    await owner.query('INSERT INTO ticket_types (tenant_id, event_id, tier) VALUES ($1, $2, $3)', [tenantId, eventId, tier]);
    await owner.query(
      "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier, zone, max_scans) SELECT $1, $2, t.id, decode(t.ref, 'hex'), $3, $4, $5 FROM unnest($6::text[], $7::text[]) AS t (id, ref)",
      [
        tenantId,
        eventId,
        tier,
        options.zone ?? null,
        options.maxScans ?? null,
        tickets.map(({ ticketId }) => ticketId),
        tickets.map(({ ticketRef }) => ticketRef),
      ],
    );
    await owner.query('COMMIT');
  } finally {
    await owner.close();
  }
  return { tenantId, tenantName: `tenant-${site}`, site, gates, eventId, salt: salt.toString('hex'), tickets };
}
