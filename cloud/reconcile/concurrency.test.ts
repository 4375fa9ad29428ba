/** Many at once on real PostgreSQL: one winner a ticket, no deadlock, no row twice; and nothing across tenants. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { connectOwner, createDatabase, type Database } from '../db/database.ts';
import { settle } from './cloud-ledger.ts';
import { reconcile } from './reconcile.ts';
import type { LedgerRow } from './row.ts';

let fresh: FreshDatabase;
let wide: Database;
beforeAll(async () => {
  fresh = await freshDatabase();
  wide = createDatabase({ url: fresh.servingUrl, maxConnections: 16 });
});
afterAll(async () => {
  await wide.close();
  await fresh.drop();
});

test('400 tickets, each granted at 8 gates at once: one winner each, seven in excess, counts exact, no deadlock', { timeout: 120_000 }, async () => {
  const venue = await makeVenue(fresh.url, { tickets: 400, gates: Array.from({ length: 8 }, (_, n) => `g${n}`) });
  const ledgers = venue.gates.map((_, index) => testLedger(venue, index));
  for (const [index, ledger] of ledgers.entries()) {
    // Every gate in an order of its own.
    for (let n = 0; n < 400; n++) ledger.grant(venue.tickets[(n * (2 * index + 3)) % 400] as TestTicket, n * 50 + index);
  }
  await Promise.all(
    ledgers.map(async (ledger) => {
      const rows = ledger.rows();
      for (let at = 0; at < rows.length; at += 50) await wide.withTenant(venue.tenantId, (client) => reconcile(client, rows.slice(at, at + 50)));
    }),
  );
  const { rows } = await wide.withTenant(venue.tenantId, (client) =>
    client.query(`SELECT count(*) AS grants, count(*) FILTER (WHERE verdict = 'winner') AS winners, count(DISTINCT ticket_id) FILTER (WHERE verdict = 'winner') AS tickets,
    count(*) FILTER (WHERE verdict = 'excess') AS excess, (SELECT count(*) FROM conflicts) AS conflicts, (SELECT sum(scan_count) FROM tickets) AS scans, (SELECT sum(winners) FROM gate_counts)::integer AS counted FROM admissions`),
  );
  expect(rows).toEqual([{ grants: 3200, winners: 400, tickets: 400, excess: 2800, conflicts: 2800, scans: 400, counted: 400 }]);
  // Of each ticket the earliest won.
  const late = await wide.withTenant(venue.tenantId, (client) =>
    client.query("SELECT 1 FROM admissions w JOIN admissions x USING (tenant_id, event_id, ticket_id) WHERE w.verdict = 'winner' AND x.at < w.at"),
  );
  expect(late.rowCount).toBe(0);
  if (process.env['FIGURES'] !== undefined)
    console.log('\nfigure: 400 tickets granted at 8 cut-off gates at once: 400 winners, 2,800 named as conflicts, 0 second winners');
});

test('the same backlogs replayed by several ingesters at once, with settlements between, deadlock never and count once', { timeout: 120_000 }, async () => {
  const venue = await makeVenue(fresh.url, { tickets: 100, gates: ['a', 'b', 'c', 'd'] });
  const ledgers = venue.gates.map((_, index) => testLedger(venue, index));
  for (const [index, ledger] of ledgers.entries())
    for (let n = 0; n < 100; n++) {
      const grant = ledger.grant(venue.tickets[(n * 7 + index * 13) % 100] as TestTicket, n * 1_000 + index);
      ledger.passage(grant, n * 1_000 + 500, n % 5 === 0 ? 'returned' : 'passed');
    }
  const all = ledgers.flatMap((ledger) => ledger.rows());
  let seed = 1;
  const random = () => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed;
  };
  const ingester = async () => {
    for (let round = 0; round < 12; round++) {
      const rows: LedgerRow[] = Array.from({ length: 120 }, () => all[random() % all.length] as LedgerRow);
      await wide.withTenant(venue.tenantId, (client) => reconcile(client, rows));
    }
  };
  const operator = async () => {
    for (let n = 0; n < 12; n++)
      await wide.withTenant(venue.tenantId, (client) =>
        settle(client, {
          of: [venue.gates[n % 4] as string, 1, 1 + 2 * n],
          outcome: n % 2 === 0 ? 'returned' : 'passed',
          actor: 'op',
          reason: 'test',
          force: true,
        }),
      );
  };
  await Promise.all([ingester(), ingester(), ingester(), ingester(), operator()]);
  await wide.withTenant(venue.tenantId, (client) => reconcile(client, all));
  const { rows } = await wide.withTenant(venue.tenantId, (client) =>
    client.query(
      `SELECT count(*) AS rows, (SELECT count(*) FROM admissions WHERE granted) AS grants, (SELECT sum(grants - winners - reentries - exits - excess - annulled) FROM gate_counts)::integer AS off FROM ledger_rows WHERE gate NOT LIKE '%/cloud'`,
    ),
  );
  expect(rows).toEqual([{ rows: 800, grants: 400, off: 0 }]);
});

test('a word on a grant that comes in between, from another ledger and about another ticket, hides nothing', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 3 });
  const [mine, other] = [venue.tickets[0] as TestTicket, venue.tickets[1] as TestTicket];
  const north = testLedger(venue, 0);
  const grant = north.grant(mine, 1_000);
  north.grant(venue.tickets[2] as TestTicket, 2_000);
  const word = { gate: north.gate, epoch: 1, seq: grant.seq };
  // As a settlement writes it: the grant's row, without the grant. It is there unseen while the grant is looked for, and seen when the grant is written.
  const holder = await connectOwner(fresh.url);
  await holder.query('BEGIN');
  await holder.query('SELECT set_tenant_context($1)', [venue.tenantId]);
  await holder.query('INSERT INTO ticket_usage (tenant_id, event_id, ticket_id, known) VALUES ($1, $2, $3, true)', [
    venue.tenantId,
    venue.eventId,
    other.ticketId,
  ]);
  await holder.query('INSERT INTO admissions (tenant_id, gate, epoch, seq, event_id, ticket_id, word_all) VALUES ($1, $2, $3, $4, $5, $6, 4)', [
    venue.tenantId,
    word.gate,
    word.epoch,
    word.seq,
    venue.eventId,
    other.ticketId,
  ]);
  const taken = wide.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()));
  const waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid' AND pid <> pg_backend_pid() AND database IS NULL";
  for (let tries = 0; tries < 500 && (await wide.asOwner((client) => client.query(waits))).rowCount === 0; tries++)
    await new Promise((later) => setTimeout(later, 20));
  await holder.query('COMMIT');
  await holder.close();
  expect(await taken).toMatchObject({ stored: 2, duplicates: 0 });
  const tables = await wide.withTenant(venue.tenantId, async (client) => [
    (await client.query('SELECT ticket_id, granted, outcome, verdict FROM admissions ORDER BY seq')).rows,
    (await client.query('SELECT ticket_id, entries FROM ticket_usage ORDER BY 1')).rows,
    (await client.query("SELECT ticket_id FROM tickets WHERE status = 'checked_in' ORDER BY 1")).rows,
    (await client.query('SELECT grants, winners FROM gate_counts')).rows,
  ]);
  expect(tables).toEqual([
    [
      { ticket_id: mine.ticketId, granted: true, outcome: 'passed', verdict: 'winner' },
      { ticket_id: venue.tickets[2]?.ticketId, granted: true, outcome: 'open', verdict: 'winner' },
    ],
    [
      { ticket_id: mine.ticketId, entries: 1 },
      { ticket_id: other.ticketId, entries: 0 },
      { ticket_id: venue.tickets[2]?.ticketId, entries: 1 },
    ],
    [{ ticket_id: mine.ticketId }, { ticket_id: venue.tickets[2]?.ticketId }],
    [{ grants: 2, winners: 2 }],
  ]);
});

test('rows of a tenant are there for that tenant alone, by every table and function', async () => {
  const [ours, theirs] = [await makeVenue(fresh.url), await makeVenue(fresh.url)];
  for (const venue of [ours, theirs]) {
    const [north, south] = [testLedger(venue, 0), testLedger(venue, 1)];
    north.grant(venue.tickets[0] as TestTicket, 0);
    for (let n = 0; n < 5; n++) south.grant(venue.tickets[0] as TestTicket, 5_000 + n);
    await wide.withTenant(venue.tenantId, (client) => reconcile(client, [...north.rows(), ...south.rows()]));
  }
  const tables = [
    'ledgers',
    'ledger_epochs',
    'ledger_lines',
    'ledger_messages',
    'ledger_rows',
    'boots',
    'ticket_usage',
    'admissions',
    'conflicts',
    'gate_counts',
    'event_policies',
  ];
  for (const table of tables) {
    const own = (await wide.withTenant(ours.tenantId, (client) => client.query<{ tenant_id: string }>(`SELECT tenant_id FROM ${table}`))).rows;
    expect([table, own.length > 0, own.every(({ tenant_id }) => tenant_id === ours.tenantId)]).toEqual([table, true, true]);
    expect([table, (await wide.withoutTenant((client) => client.query(`SELECT 1 FROM ${table}`))).rowCount]).toEqual([table, 0]);
  }
  // Rows in another tenant's name: its site is not ours.
  const stolen = testLedger(theirs, 0, 2);
  stolen.grant(theirs.tickets[1] as TestTicket, 0);
  await expect(wide.withTenant(ours.tenantId, (client) => reconcile(client, stolen.rows()))).rejects.toThrow('foreign key');
  await expect(wide.withoutTenant((client) => reconcile(client, stolen.rows()))).rejects.toThrow('no tenant is set');
  await expect(
    wide.withTenant(ours.tenantId, (client) => client.query("INSERT INTO gate_counts (tenant_id, gate, event_id) VALUES ($1, 'x/y', '')", [theirs.tenantId])),
  ).rejects.toThrow('row-level security');
  for (const change of ["UPDATE ledger_lines SET entry = '{}'", "UPDATE ledger_messages SET entries = '{}'", 'UPDATE ledger_rows SET seq = 1'])
    await expect(wide.withTenant(ours.tenantId, (client) => client.query(change))).rejects.toThrow('permission denied');
  for (const table of ['ledger_lines', 'ledger_messages', 'ledger_rows'])
    await expect(wide.withTenant(ours.tenantId, (client) => client.query(`DELETE FROM ${table}`))).rejects.toThrow('permission denied');
  const partitions = await wide.asOwner((client) =>
    client.query<{ name: string }>(
      "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'ledger_lines'::regclass OR inhparent = 'ledger_messages'::regclass",
    ),
  );
  expect(partitions.rows.length).toBeGreaterThan(5);
  for (const { name } of partitions.rows)
    await expect(wide.withTenant(ours.tenantId, (client) => client.query(`SELECT 1 FROM ${name}`))).rejects.toThrow('permission denied');
});

test('every table with a tenant has forced row security, and the service owns nothing', async () => {
  const owner = await connectOwner(fresh.url);
  try {
    const bare =
      await owner.query(`SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
      WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))`);
    expect(bare.rows).toEqual([]);
    const owned = await owner.query(
      "SELECT c.relname FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname = 'stile_service' UNION ALL SELECT p.proname FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner WHERE r.rolname = 'stile_service'",
    );
    expect(owned.rows).toEqual([]);
    const { rows } = await owner.query("SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = 'stile_service'");
    expect(rows).toEqual([{ rolsuper: false, rolbypassrls: false, rolcreaterole: false }]);
  } finally {
    await owner.close();
  }
});

test('an old partition can be detached: its rows still count, and still come only once', async () => {
  const venue = await makeVenue(fresh.url);
  const north = testLedger(venue, 0);
  north.grant(venue.tickets[0] as TestTicket, 0);
  await wide.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()));
  const owner = await connectOwner(fresh.url);
  const { rows } = await owner.query<{ part: string }>('SELECT tableoid::regclass::text AS part FROM ledger_lines WHERE gate = $1', [north.gate]);
  await owner.query(`ALTER TABLE ledger_lines DETACH PARTITION ${rows[0]?.part}`);
  await owner.close();
  expect(await wide.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()))).toEqual({ stored: 0, duplicates: 1, forked: [], breaks: [] });
  expect((await wide.withTenant(venue.tenantId, (client) => client.query('SELECT verdict FROM admissions'))).rows).toEqual([{ verdict: 'winner' }]);
  // And a row after it: the hash of the prefix outlives its rows.
  north.grant(venue.tickets[1] as TestTicket, 1_000);
  expect(await wide.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()))).toEqual({ stored: 1, duplicates: 1, forked: [], breaks: [] });
});
