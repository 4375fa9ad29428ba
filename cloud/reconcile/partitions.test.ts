/** Months of the ledgers' rows are taken out of use: nothing that follows from them goes with them. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { connectOwner, type DatabaseClient } from '../db/database.ts';
import { settle } from './cloud-ledger.ts';
import { siteLedger } from './queries.ts';
import { reconcile } from './reconcile.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

test('rows of an old month are detached by the owner: what they amount to stays, one that comes again is known, the chain goes on', async () => {
  const venue = await makeVenue(fresh.url);
  const [north, south] = [testLedger(venue, 0), testLedger(venue, 1)];
  const inTenant = <T>(work: (client: DatabaseClient) => Promise<T>): Promise<T> => fresh.database.withTenant(venue.tenantId, work);
  north.passage(north.grant(venue.tickets[0] as TestTicket, 0), 900, 'passed');
  south.grant(venue.tickets[0] as TestTicket, 15_000);
  await inTenant((client) => reconcile(client, [...north.rows(), ...south.rows()]));
  await inTenant((client) => settle(client, { of: [north.gate, 1, 1], outcome: 'passed', actor: 'op-1', reason: 'seen', force: true }));
  const admin = await connectOwner(fresh.url);
  // No superuser: what hides rows from it must not hide them from what it does.
  const owner = await connectOwner(fresh.ownerUrl);
  try {
    const month = "date_trunc('month', now() AT TIME ZONE 'UTC') - interval '5 months'";
    const { rows: named } = await owner.query<{ part: string; begins: string; ends: string }>(
      `SELECT 'ledger_lines_' || to_char(${month}, 'YYYYMM') AS part, (${month})::date::text AS begins, (${month} + interval '1 month')::date::text AS ends`,
    );
    const { part, begins, ends } = named[0] as { part: string; begins: string; ends: string };
    // As it was five months ago: the rows came then.
    for (const table of ['ledger_lines', 'ledger_messages']) {
      await owner.query(
        `CREATE TABLE ${part?.replace('ledger_lines', table)} PARTITION OF ${table} FOR VALUES FROM ('${begins} 00:00:00+00') TO ('${ends} 00:00:00+00')`,
      );
      await admin.query(`UPDATE ${table} SET received_at = '${begins} 12:00:00+00'`);
    }
    const detach = (day: string) => owner.query<{ part: string }>('SELECT detach_ledger_rows($1) AS part', [day]);
    await expect(detach(new Date().toISOString().slice(0, 10))).rejects.toThrow('is too young');
    await expect(detach('2001-01-01')).rejects.toThrow('there are no rows of 2001-01');
    await expect(detach(begins)).rejects.toThrow("1 rows of the cloud's ledgers in it were not told");
    await admin.query('UPDATE ledger_epochs SET published_seq = upto_seq');
    expect((await detach(begins)).rows).toEqual([{ part }]);
    expect((await owner.query(`SELECT count(*)::integer AS n FROM ${part}`)).rows).toEqual([{ n: 4 }]);
    await expect(inTenant((client) => client.query('SELECT detach_ledger_rows(now()::date)'))).rejects.toThrow('permission denied');

    const verdicts = async () => (await inTenant((client) => client.query('SELECT verdict FROM admissions ORDER BY at'))).rows;
    expect(await verdicts()).toEqual([{ verdict: 'winner' }, { verdict: 'excess' }]);
    // Sent again by a gate that was restored: known, though the row itself is gone.
    expect(await inTenant((client) => reconcile(client, [...north.rows(), ...south.rows()]))).toMatchObject({ stored: 0, duplicates: 3 });
    north.passage(north.grant(venue.tickets[1] as TestTicket, 60_000), 61_000, 'passed');
    expect(await inTenant((client) => reconcile(client, north.rows()))).toMatchObject({ stored: 2, duplicates: 2, breaks: [] });
    // The cloud's own chain goes on, for the hash of its last row is kept; its word on an old grant counts.
    const settled = await inTenant((client) => settle(client, { of: [north.gate, 1, 1], outcome: 'returned', actor: 'op-1', reason: 'he left', force: true }));
    expect(settled).toMatchObject({ ok: true, rows: [{ seq: 2 }] });
    expect(await verdicts()).toEqual([{ verdict: 'annulled' }, { verdict: 'winner' }, { verdict: 'winner' }]);
    // A gate that knows the ledgers as far as its list counts them gets all that came since.
    const since = await inTenant((client) => siteLedger(client, venue.site, { [north.gate]: [1, 2], [south.gate]: [1, 1] }));
    expect(since.rows.map(({ gate }) => gate)).toEqual([`${venue.site}/cloud`, north.gate, north.gate]);
  } finally {
    await owner.close();
    await admin.close();
  }
});

test('B4: the owner, who sees no row, makes the months that come, and leaves a month whose rows are in the default partition', async () => {
  const venue = await makeVenue(fresh.url);
  const north = testLedger(venue, 0);
  north.grant(venue.tickets[0] as TestTicket, 0);
  await fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()));
  const [admin, owner] = [await connectOwner(fresh.url), await connectOwner(fresh.ownerUrl)];
  try {
    const { rows } = await admin.query<{ full: string; empty: string; day: string }>(
      "SELECT 'ledger_lines_' || to_char(m + interval '2 months', 'YYYYMM') AS full, 'ledger_lines_' || to_char(m + interval '3 months', 'YYYYMM') AS empty, (m + interval '2 months' + interval '3 days')::text AS day FROM date_trunc('month', now() AT TIME ZONE 'UTC') AS m",
    );
    const { full, empty, day } = rows[0] as (typeof rows)[number];
    await admin.query(`DROP TABLE ${full}, ${empty}`);
    for (const table of ['ledger_lines', 'ledger_messages']) await admin.query(`UPDATE ${table} SET received_at = '${day}Z' WHERE gate = '${north.gate}'`);
    expect((await owner.query('SELECT make_ledger_partitions() AS made')).rows).toEqual([{ made: 1 }]);
    expect((await owner.query('SELECT to_regclass($1) IS NOT NULL AS full, to_regclass($2) IS NOT NULL AS empty', [full, empty])).rows).toEqual([
      { full: false, empty: true },
    ]);
  } finally {
    await owner.close();
    await admin.close();
  }
});
