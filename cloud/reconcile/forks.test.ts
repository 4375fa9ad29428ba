/** Stores that go back in time, at the cloud: rows that do not follow, rows that are sent again, and what counts of them (ACCOUNT.md, amended; T1). */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { BOOT_MS, type TestEntry, type TestLedger, testLedger } from '../../testkit/ledgers.ts';
import type { DatabaseClient } from '../db/database.ts';
import { acksFor, declareGone } from './acks.ts';
import { admitForkedRow, openForkedRows, setForkedRowAside } from './forked-rows.ts';
import { occupancy, siteLedger } from './queries.ts';
import { type Reconciled, reconcile } from './reconcile.ts';
import type { LedgerRow } from './row.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

interface Stage {
  readonly venue: Venue;
  readonly ticket: (n: number) => TestTicket;
  readonly in: <T>(work: (client: DatabaseClient) => Promise<T>) => Promise<T>;
  readonly take: (ledger: TestLedger, from?: number, to?: number) => Promise<Reconciled>;
  readonly ask: (sql: string) => Promise<Record<string, unknown>[]>;
  /** Tickets with their entries that hold. */
  readonly entries: () => Promise<Record<string, number>>;
}
async function stage(): Promise<Stage> {
  const venue = await makeVenue(fresh.url, { tickets: 12 });
  const within: Stage['in'] = (work) => fresh.database.withTenant(venue.tenantId, work);
  const ask: Stage['ask'] = async (sql) => (await within((client) => client.query(sql))).rows;
  return {
    venue,
    in: within,
    ticket: (n) => venue.tickets[n - 1] as TestTicket,
    take: (ledger, from = 1, to = ledger.entries.length) => within((client) => reconcile(client, ledger.rows(ledger.entries.slice(from - 1, to)))),
    ask,
    entries: async () =>
      Object.fromEntries(
        (await ask('SELECT ticket_id, entries FROM ticket_usage WHERE entries > 0 ORDER BY 1')).map((row) => [row['ticket_id'], row['entries']]),
      ),
  };
}
/** Two stores with the same first rows: a card, and its image that was put back. */
function twins(s: Stage, common: (ledger: TestLedger) => void): [TestLedger, TestLedger] {
  const pair: [TestLedger, TestLedger] = [testLedger(s.venue, 0), testLedger(s.venue, 0)];
  for (const ledger of pair) common(ledger);
  return pair;
}
/** Sends a row again in another epoch, as a store that went back does. */
const again = (into: TestLedger, epoch: number, entry: TestEntry): TestEntry => {
  const { seq, hash, kind, ts: _ts, ...fields } = entry;
  return into.add(kind, entry['boottime_ms'] as number, { again: [epoch, seq, hash], ...fields });
};
const forks = 'SELECT epoch, seq, closed FROM forked_rows ORDER BY epoch, seq, id';
const ackOf = async (s: Stage, gate: string) => (await s.in((client) => acksFor(client, [gate]))).get(gate)?.epochs;

test('T1: rows of a store that went back do not replace stored ones, and count once they are sent again', async () => {
  const s = await stage();
  const [before, back] = twins(s, (ledger) => ledger.grant(s.ticket(1), 1_000));
  before.grant(s.ticket(2), 2_000);
  for (const n of [3, 4]) back.grant(s.ticket(n), n * 1_000);
  await s.take(before);
  expect(await s.take(back)).toEqual({
    stored: 0,
    duplicates: 1,
    forked: [
      [back.gate, 1, 2],
      [back.gate, 1, 3],
    ],
    breaks: [],
  });
  expect(await s.entries()).toEqual({ 'T-1': 1, 'T-2': 1 });
  expect(await ackOf(s, before.gate)).toEqual([{ epoch: 1, upto_seq: 2, hash: before.entries[1]?.hash, last: 2, missing: [], gone: [] }]);
  expect(await s.ask("SELECT alert_id, alert ->> 'message' LIKE '2 rows%' AS named FROM device_alerts")).toEqual([{ alert_id: 'ledger', named: true }]);

  const later = testLedger(s.venue, 0, 2);
  for (const entry of back.entries) again(later, 1, entry);
  expect(await s.take(later)).toMatchObject({ stored: 3, forked: [] });
  // Every admission of both stores, once.
  expect(await s.entries()).toEqual({ 'T-1': 1, 'T-2': 1, 'T-3': 1, 'T-4': 1 });
  expect(await s.ask(forks)).toEqual([
    { epoch: 1, seq: 2, closed: 'counted' },
    { epoch: 1, seq: 3, closed: 'counted' },
  ]);
  expect(await s.ask('SELECT alert_id FROM device_alerts')).toEqual([]);
  expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({ inside: 4, entries: 4 });
  // A late copy of the forks is closed when it comes.
  await s.take(back);
  expect(await s.ask('SELECT count(*) AS n FROM forked_rows WHERE closed IS NULL')).toEqual([{ n: 0 }]);
});

test('T1: a row behind a fork is not stored, though its own place is free', async () => {
  const s = await stage();
  const [before, back] = twins(s, (ledger) => ledger.grant(s.ticket(1), 1_000));
  before.grant(s.ticket(2), 2_000);
  for (const n of [3, 4, 5]) back.grant(s.ticket(n), n * 1_000);
  await s.take(before);
  expect(await s.take(back, 2)).toMatchObject({ stored: 0, forked: [2, 3, 4].map((seq) => [back.gate, 1, seq]) });
  expect(await s.ask('SELECT stored::text FROM ledger_epochs')).toEqual([{ stored: '{[1,3)}' }]);
  // The gate of the other store goes on from what the acknowledgement names.
  before.grant(s.ticket(6), 6_000);
  expect(await s.take(before, 3)).toMatchObject({ stored: 1, forked: [] });
});

test('T1: rows above a gap leave the account when it is filled and they do not follow', async () => {
  const s = await stage();
  const [before, back] = twins(s, (ledger) => ledger.grant(s.ticket(1), 1_000));
  before.grant(s.ticket(2), 2_000);
  const kept = before.grant(s.ticket(6), 6_000);
  before.add('refusal', 6_500, { reason: 'invalid', explanation: 'not a ticket for this event' });
  back.grant(s.ticket(3), 3_000);
  const lost = back.grant(s.ticket(4), 4_000, { units: 1 });
  back.passage(lost, 4_500, 'passed', { of: [1, lost.seq, lost.hash] });
  back.add('refusal', 5_000, { reason: 'invalid', explanation: 'not a ticket for this event', event_id: 'EV1', ticket_id: 'T-4' });
  back.add('passage', 5_500, { direction: 'out', outcome: 'free' });
  // Rows 3 to 6 of the one store first: their predecessor is not there, so they count.
  await s.take(back, 3);
  expect(await s.entries()).toEqual({ 'T-4': 1 });
  expect(await s.take(before, 1, 2)).toMatchObject({ stored: 2, forked: [] });
  expect(await s.entries()).toEqual({ 'T-1': 1, 'T-2': 1 });
  expect(await s.ask("SELECT status, scan_count FROM tickets WHERE ticket_id = 'T-4'")).toEqual([{ status: 'sold', scan_count: 0 }]);
  expect(await s.ask('SELECT sum(grants) AS grants, sum(refusals) AS refusals, sum(free_passages) AS free, sum(free_out) AS out FROM gate_counts')).toEqual(
    [{ grants: 2, refusals: 0, free: 0, out: 0 }].map((row) => Object.fromEntries(Object.entries(row).map(([key, value]) => [key, String(value)]))),
  );
  expect(await ackOf(s, before.gate)).toMatchObject([{ upto_seq: 2, last: 2, missing: [] }]);
  expect(await s.ask(forks)).toEqual([3, 4, 5, 6].map((seq) => ({ epoch: 1, seq, closed: null })));
  expect(await s.take(before)).toMatchObject({ stored: 2 });
  expect(await s.entries()).toEqual({ 'T-1': 1, 'T-2': 1, [kept['ticket_id'] as string]: 1 });
  // Sent again, they count.
  const later = testLedger(s.venue, 0, 2);
  for (const entry of back.entries) again(later, 1, entry);
  await s.take(later);
  expect(await s.entries()).toEqual({ 'T-1': 1, 'T-2': 1, 'T-3': 1, 'T-4': 1, 'T-6': 1 });
  expect(await s.ask("SELECT outcome FROM admissions WHERE ticket_id = 'T-4'")).toEqual([{ outcome: 'passed' }]);
  expect(await s.ask('SELECT sum(refusals)::int AS refusals, sum(free_passages)::int AS free, sum(free_out)::int AS out FROM gate_counts')).toEqual([
    { refusals: 2, free: 1, out: 1 },
  ]);
});

test('T1: one row of an original counts, whichever comes first and however often', async () => {
  for (const first of ['original', 'again'] as const) {
    const s = await stage();
    const one = testLedger(s.venue, 0);
    const grant = one.grant(s.ticket(1), 1_000);
    one.passage(grant, 2_000, 'passed');
    one.add('refusal', 3_000, { reason: 'invalid', explanation: 'not a ticket for this event' });
    one.add('passage', 4_000, { direction: 'in', outcome: 'free', event_id: 'EV1' });
    const two = testLedger(s.venue, 0, 2);
    const three = testLedger(s.venue, 0, 3);
    for (const ledger of [two, three]) for (const entry of one.entries) again(ledger, 1, entry);
    for (const ledger of first === 'original' ? [one, two, three] : [three, two, one]) await s.take(ledger);
    expect(await s.entries()).toEqual({ 'T-1': 1 });
    expect(await s.ask('SELECT epoch, seq, verdict, outcome FROM admissions')).toEqual([{ epoch: 1, seq: 1, verdict: 'winner', outcome: 'passed' }]);
    expect(await s.ask('SELECT sum(grants)::int AS grants, sum(refusals)::int AS refusals, sum(free_passages)::int AS free FROM gate_counts')).toEqual([
      { grants: 1, refusals: 1, free: 1 },
    ]);
    expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({ inside: 2, entries: 1, free_passages: 1, uncertain: 0 });
  }
});

test('T1: a chain that a person accepts broken keeps its own path', async () => {
  const s = await stage();
  const [before, back] = twins(s, (ledger) => ledger.grant(s.ticket(1), 1_000));
  before.grant(s.ticket(2), 2_000);
  for (const n of [3, 4]) back.grant(s.ticket(n), n * 1_000);
  await s.take(before);
  const rows = back.rows().filter(({ seq }) => seq === 3);
  expect(await s.in((client) => reconcile(client, rows, { acceptBroken: true }))).toEqual({
    stored: 1,
    duplicates: 0,
    forked: [],
    breaks: [[back.gate, 1, 3]],
  });
  expect(await s.ask('SELECT alert_id FROM device_alerts')).toEqual([{ alert_id: 'ledger' }]);
});

test('T1: a row whose text was changed on its way is kept apart', async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  north.grant(s.ticket(1), 1_000);
  north.grant(s.ticket(2), 2_000);
  north.grant(s.ticket(3), 3_000);
  const [one, two, three] = north.rows() as [LedgerRow, LedgerRow, LedgerRow];
  const changed = north.rows([{ ...two.entry, ticket_id: 'T-9' } as never])[0] as LedgerRow;
  expect(await s.in((client) => reconcile(client, [one, changed, three]))).toMatchObject({
    stored: 1,
    forked: [
      [north.gate, 1, 2],
      [north.gate, 1, 3],
    ],
  });
  expect(await s.entries()).toEqual({ 'T-1': 1 });
  await s.take(north);
  expect(await s.entries()).toEqual({ 'T-1': 1, 'T-2': 1, 'T-3': 1 });
});

test('T1: forked rows that stay open for an hour while their gate is connected are the alert clone', async () => {
  const s = await stage();
  const [before, back] = twins(s, (ledger) => ledger.grant(s.ticket(1), 1_000));
  before.grant(s.ticket(2), 2_000);
  back.grant(s.ticket(3), 3_000);
  await s.take(before);
  await s.take(back);
  const raised = async () => (await s.ask('SELECT raise_clone_alerts() AS n'))[0];
  const online = (word: string, since: string) =>
    s.in((client) =>
      client.query('UPDATE devices SET state = $1, state_at = now() - $2::interval WHERE name = $3', [JSON.stringify({ state: word }), since, before.gate]),
    );
  await online('online', '2 hours');
  expect(await raised()).toEqual({ n: 0 });
  await s.in((client) => client.query("UPDATE forked_rows SET first_at = now() - interval '61 minutes'"));
  await online('offline', '2 hours');
  expect(await raised()).toEqual({ n: 0 });
  await online('online', '2 hours');
  expect(await raised()).toEqual({ n: 1 });
  expect(await s.ask('SELECT alert_id FROM device_alerts ORDER BY 1')).toEqual([{ alert_id: 'clone' }, { alert_id: 'ledger' }]);
  // It ends with the last open row.
  const later = testLedger(s.venue, 0, 2);
  again(later, 1, back.entries[1] as TestEntry);
  await s.take(later);
  expect(await s.ask('SELECT alert_id FROM device_alerts')).toEqual([]);
});

test('T2: what a gate pruned before it was stored is gone: the prefix passes over it, the ack names it, and a late row fills it', async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  for (const n of [1, 2, 3, 4, 5]) north.grant(s.ticket(n), n * 1_000);
  const [one, two, three, four, five] = north.entries as [TestEntry, TestEntry, TestEntry, TestEntry, TestEntry];
  await s.in((client) => reconcile(client, north.rows([one, four, five])));
  expect(await ackOf(s, north.gate)).toMatchObject([{ upto_seq: 1, missing: [[2, 3]], gone: [] }]);
  // Of another copy of the store: the row behind it does not follow.
  await s.in((client) => declareGone(client, north.gate, [[1, 2, 3, 'ab'.repeat(32)]]));
  expect(await ackOf(s, north.gate)).toMatchObject([{ upto_seq: 1, gone: [] }]);
  await s.in((client) => declareGone(client, north.gate, [[1, 1, 3, three.hash]]));
  expect(await ackOf(s, north.gate)).toEqual([{ epoch: 1, upto_seq: 5, hash: five.hash, last: 5, missing: [], gone: [[2, 3]] }]);
  // Only the row that was there may take its place.
  const other = testLedger(s.venue, 0);
  other.grant(s.ticket(1), 1_000);
  for (const n of [8, 9]) other.grant(s.ticket(n), n * 1_000);
  expect(await s.take(other, 3)).toMatchObject({ stored: 0, forked: [[north.gate, 1, 3]] });
  expect(await s.in((client) => reconcile(client, north.rows([three])))).toMatchObject({ stored: 1, forked: [] });
  expect(await s.in((client) => reconcile(client, north.rows([two])))).toMatchObject({ stored: 1, forked: [] });
  expect(await ackOf(s, north.gate)).toEqual([{ epoch: 1, upto_seq: 5, hash: five.hash, last: 5, missing: [], gone: [] }]);
  expect(await s.entries()).toEqual({ 'T-1': 1, 'T-2': 1, 'T-3': 1, 'T-4': 1, 'T-5': 1 });
  // A closed epoch of which nothing is left, and whose hashes nobody knows.
  await s.in((client) => declareGone(client, north.gate, [[7, 1, 4, null]]));
  expect((await ackOf(s, north.gate))?.[1]).toEqual({ epoch: 7, upto_seq: 4, last: 4, missing: [], gone: [[1, 4]] });
});

test('T1: a person admits a forked row or sets it aside; what its gate sends later counts no second time', async () => {
  const s = await stage();
  const [before, back] = twins(s, (ledger) => ledger.grant(s.ticket(1), 1_000));
  before.grant(s.ticket(2), 2_000);
  for (const n of [3, 4]) back.grant(s.ticket(n), n * 1_000);
  await s.take(before);
  await s.take(back);
  const open = await s.in((client) => openForkedRows(client, back.gate));
  expect(open.map(({ seq, entry }) => [seq, entry['ticket_id']])).toEqual([
    [2, 'T-3'],
    [3, 'T-4'],
  ]);
  const decide = (seq: number) => ({ gate: back.gate, epoch: 1, seq, hash: (back.entries[seq - 1] as TestEntry).hash, actor: 'op-1' });
  expect(await s.in((client) => admitForkedRow(client, decide(2)))).toBe(true);
  expect(await s.in((client) => admitForkedRow(client, decide(2)))).toBe(false);
  expect(await s.in((client) => setForkedRowAside(client, decide(3)))).toBe(true);
  expect(await s.entries()).toEqual({ 'T-1': 1, 'T-2': 1, 'T-3': 1 });
  expect(await s.ask("SELECT gate, scanner, at FROM admissions WHERE ticket_id = 'T-3'")).toEqual([
    { gate: `${s.venue.site}/cloud`, scanner: back.gate, at: new Date(BOOT_MS + 3_000) },
  ]);
  expect(await s.ask(forks)).toEqual([
    { epoch: 1, seq: 2, closed: 'admitted' },
    { epoch: 1, seq: 3, closed: 'set_aside' },
  ]);
  // The gate's own goes first.
  const later = testLedger(s.venue, 0, 2);
  again(later, 1, back.entries[1] as TestEntry);
  await s.take(later);
  expect(await s.entries()).toEqual({ 'T-1': 1, 'T-2': 1, 'T-3': 1 });
  expect(await s.ask("SELECT gate, epoch FROM admissions WHERE ticket_id = 'T-3'")).toEqual([{ gate: back.gate, epoch: 2 }]);
  expect(await s.ask('SELECT sum(grants)::int AS grants, sum(winners)::int AS winners FROM gate_counts')).toEqual([{ grants: 3, winners: 3 }]);
  expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({ inside: 3, entries: 3 });
});

test('T1: a vector with hashes is served what its holder lacks, and a ledger from its beginning where the holder went another way', async () => {
  const s = await stage();
  const [before, back] = twins(s, (ledger) => ledger.grant(s.ticket(1), 1_000));
  for (const n of [2, 3]) before.grant(s.ticket(n), n * 1_000);
  for (const n of [4, 5]) back.grant(s.ticket(n), n * 1_000);
  await s.take(before);
  const second = testLedger(s.venue, 0, 2);
  second.grant(s.ticket(6), 6_000);
  await s.take(second);
  const served = async (head: readonly [number, string | null]) =>
    (await s.in((client) => siteLedger(client, s.venue.site, { [before.gate]: { '1': [head[0], head[1]] } }))).rows.map(
      ({ epoch, entry }) => `${epoch}/${entry.seq}`,
    );
  expect(await served([2, before.entries[1]?.hash as string])).toEqual(['1/3', '2/1']);
  expect(await served([2, back.entries[1]?.hash as string])).toEqual(['1/1', '1/2', '1/3', '2/1']);
  expect(await served([3, null])).toEqual(['2/1']);
  expect((await s.in((client) => siteLedger(client, s.venue.site, { [before.gate]: [2, 0] }))).rows.map(({ epoch }) => epoch)).toEqual([2]);
});
