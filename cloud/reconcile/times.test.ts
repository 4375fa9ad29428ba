/** What is shown of a row's time: its boot's, wherever it came in, and nothing that nobody wrote. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { BOOT_MS, type TestEntry, type TestLedger, testLedger } from '../../testkit/ledgers.ts';
import type { DatabaseClient } from '../db/database.ts';
import { conflicts, history, refusals } from './queries.ts';
import { reconcile } from './reconcile.ts';

let fresh: FreshDatabase;
let venue: Venue;
let ledger: TestLedger;
let ticket: TestTicket;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());
beforeEach(async () => {
  venue = await makeVenue(fresh.url);
  ledger = testLedger(venue, 0);
  ticket = venue.tickets[0] as TestTicket;
});

const inTenant = <T>(work: (client: DatabaseClient) => Promise<T>): Promise<T> => fresh.database.withTenant(venue.tenantId, work);
const take = (entries: readonly TestEntry[]) => inTenant((client) => reconcile(client, ledger.rows(entries)));
/** seconds after the evening began, of every row of the ledger. */
const shown = async () =>
  (await inTenant((client) => client.query<{ seq: number; at: Date }>('SELECT seq, at FROM ledger_rows WHERE gate = $1 ORDER BY seq', [ledger.gate]))).rows.map(
    ({ at }) => (at.getTime() - BOOT_MS) / 1000,
  );
const refusal = (atMs: number, fields: object = {}) =>
  ledger.add('refusal', atMs, { reason: 'invalid', explanation: 'not a ticket', ticket_id: ticket.ticketId, event_id: venue.eventId, ...fields });
const everything = () =>
  inTenant(async (client) => ({
    history: (await history(client, venue.eventId, ticket.ticketId))?.history ?? [],
    refusals: await refusals(client, null, new Date(0)),
    conflicts: await conflicts(client),
  }));
const WRONG_WALL = '1970-01-01T00:00:07.000Z';

test('T4: a row without an offset takes that of its boot, told before or after it', async () => {
  // Before the kill, with an offset; after it the same boot goes on, and nothing has been measured yet.
  const grant = ledger.grant(ticket, 10_000);
  ledger.reboot('boot-0-1', null);
  const passage = ledger.passage(grant, 12_000, 'passed', { ts: WRONG_WALL });
  const refused = refusal(13_000, { ts: WRONG_WALL });
  await take([grant]);
  await take([passage, refused]);
  expect(await shown()).toEqual([10, 12, 13]);
  // The other way round: a boot that measured nothing when its rows came, and then did.
  ledger.reboot('boot-next', null);
  const early = [refusal(1_000, { ts: WRONG_WALL }), refusal(2_000, { ts: WRONG_WALL })];
  await take(early);
  ledger.reboot('boot-next', BOOT_MS + 100_000);
  await take([refusal(3_000)]);
  expect(await shown()).toEqual([10, 12, 13, 101, 102, 103]);
  const told = await everything();
  expect(told.history.map(({ at }) => Date.parse(at) - BOOT_MS)).toEqual([10_000, 12_000, 13_000, 101_000, 102_000, 103_000]);
  expect(told.refusals.map(({ at }) => Date.parse(at) - BOOT_MS)).toEqual([103_000, 102_000, 101_000, 13_000]);
  expect(JSON.stringify(told)).not.toContain('unmeasured');
});

test('T4: rows of a boot without any offset lie between their neighbours in the chain, and are marked', async () => {
  const grant = ledger.grant(ticket, 10_000);
  ledger.reboot('boot-blind', null);
  const blind = [ledger.grant(ticket, 1_000, { ts: WRONG_WALL }), refusal(2_000, { ts: WRONG_WALL })];
  await take([grant, ...blind]);
  // Nothing is known after it: not before the boot that came before.
  expect((await shown()).slice(1)).toEqual([9.98, 9.98]);
  ledger.reboot('boot-after', BOOT_MS + 60_000);
  await take([refusal(0)]);
  const [, one, two, last] = await shown();
  expect([one, two, last]).toEqual([(9.98 + 60.02) / 2, (9.98 + 60.02) / 2, 60]);
  const told = await everything();
  expect(told.history.map(({ unmeasured }) => unmeasured ?? false)).toEqual([false, true, true, false]);
  expect(told.refusals.map(({ unmeasured }) => unmeasured ?? false)).toEqual([false, true]);
  expect(told.conflicts).toMatchObject([{ loser: [ledger.gate, 1, 2], unmeasured: true }]);
});

test('T4: rows of a gate that never had a clock show their arrival, marked, and none shows 1970', async () => {
  ledger.reboot('boot-blind', null);
  await take([ledger.grant(ticket, 500, { ts: WRONG_WALL }), ledger.grant(ticket, 900, { ts: WRONG_WALL }), refusal(1_000, { ts: WRONG_WALL })]);
  const aMinuteAgo = new Date(Date.now() - 60_000);
  const told = { ...(await everything()), refusals: await inTenant((client) => refusals(client, null, aMinuteAgo)) };
  const times = [
    ...told.history.map(({ at }) => at),
    ...told.refusals.map(({ at }) => at),
    ...told.conflicts.flatMap(({ winner_at, loser_at }) => [winner_at, loser_at]),
  ];
  expect(times).toHaveLength(3 + 1 + 2);
  expect(times.filter((at) => at === null || Date.parse(at) < aMinuteAgo.getTime())).toEqual([]);
  expect([...told.history, ...told.refusals, ...told.conflicts].filter(({ unmeasured }) => unmeasured !== true)).toEqual([]);
});

test('T4: rows of a boot without a clock show a time no later than the first measured boot, and not 1970', async () => {
  ledger.reboot('boot-blind', null);
  const blind = [ledger.grant(ticket, 500, { ts: WRONG_WALL }), refusal(1_000, { ts: WRONG_WALL })];
  ledger.reboot('boot-after', BOOT_MS + 60_000);
  await take([...blind, refusal(0)]);
  expect(await shown()).toEqual([60.02, 60.02, 60]);
  expect((await everything()).history.map(({ at, unmeasured }) => [(Date.parse(at) - BOOT_MS) / 1000, unmeasured ?? false])).toEqual([
    [60, false],
    [60.02, true],
    [60.02, true],
  ]);
});

test.each([
  ['an offset beyond all time', { clock_offset_ms: 1e300, clock_bound_ms: 0 }],
  ['an offset before all time', { clock_offset_ms: -1e300, clock_bound_ms: 0 }],
  ['an offset of the year 9999', { clock_offset_ms: 253_402_300_799_000, clock_bound_ms: 0 }],
  ['an offset of 1970', { clock_offset_ms: 0, clock_bound_ms: 0 }],
  ['a bound without end', { clock_bound_ms: Number.MAX_VALUE }],
  ['a boot time without end', { boottime_ms: Number.MAX_VALUE }],
])('T4: %s places no row, and moves no other of its boot', async (_name, fields) => {
  const good = ledger.grant(ticket, 10_000);
  const odd = refusal(11_000, fields);
  const behind = refusal(12_000);
  expect(await take([good, odd, behind])).toMatchObject({ stored: 3 });
  const times = await shown();
  expect([times[0], times[2]]).toEqual([10, 12]);
  expect(Math.abs((times[1] as number) - 11)).toBeLessThan(2);
  expect(JSON.stringify(await everything())).not.toMatch(/9999-|1970-|infinity/i);
});
