import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { unpublishedCloudRows } from './cloud-ledger.ts';
import { publishConflicts } from './conflict-publisher.ts';
import { reconcile } from './reconcile.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

test('a conflict is told once, by a row of the cloud that gates of the site read; withdrawn when it is none any more', async () => {
  const venue = await makeVenue(fresh.url);
  const within = <T>(work: Parameters<typeof fresh.database.withTenant<T>>[1]) => fresh.database.withTenant(venue.tenantId, work);
  const tell = () => within((client) => publishConflicts(client, venue.site));
  const [north, south] = [testLedger(venue, 0), testLedger(venue, 1)];
  const first = north.grant(venue.tickets[0] as TestTicket, 1_000);
  south.grant(venue.tickets[0] as TestTicket, 60_000);
  await within((client) => reconcile(client, [...north.rows(), ...south.rows()]));
  // Young ones wait: while gates catch up, many come and go.
  expect(await tell()).toBe(0);
  await within((client) => client.query("UPDATE conflicts SET found_at = found_at - interval '3 seconds'"));
  const { rows: sites } = await fresh.database.withoutTenant((client) => client.query('SELECT * FROM sites_with_unpublished_conflicts(10)'));
  expect(sites).toEqual([{ tenant_id: venue.tenantId, site_id: venue.site }]);
  expect((await Promise.all([tell(), tell()])).sort()).toEqual([0, 1]);
  expect(await tell()).toBe(0);
  const told = async () => (await within((client) => unpublishedCloudRows(client))).flatMap(({ entries }) => entries);
  expect(await told()).toMatchObject([
    {
      kind: 'conflict',
      seq: 1,
      of: [venue.gates[1], 1, 1],
      verdict: 'excess',
      cause: 'already_redeemed',
      ticket_id: 'T-1',
      direction: 'in',
      winner: [venue.gates[0], 1, 1],
    },
  ]);
  // It changes no usage, and the row is as readable as any.
  expect((await within((client) => client.query('SELECT readable FROM ledger_rows WHERE kind = $1', ['conflict']))).rows).toEqual([{ readable: true }]);
  const back = north.passage(first, 9_000, 'returned');
  await within((client) => reconcile(client, north.rows([back])));
  expect(await tell()).toBe(1);
  expect(await tell()).toBe(0);
  expect((await told()).at(-1)).toMatchObject({ kind: 'conflict', seq: 2, of: [venue.gates[1], 1, 1], verdict: 'withdrawn' });
});
