import { afterAll, beforeAll, expect, test } from 'vitest';
import { ReconcileResponse } from '../../contract/http.ts';
import { scannerLedger } from '../../contract/ids.ts';
import { MAX_RECONCILE_SCANS } from '../../contract/limits.ts';
import { createVerify } from '../../signing/verify.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { BOOT_MS, testLedger } from '../../testkit/ledgers.ts';
import type { DatabaseClient } from '../db/database.ts';
import { renewToken } from '../devices/assignment.ts';
import type { App } from '../http/server.ts';
import { eventRights, ticketRight } from '../manifest/current-rights.ts';
import { conflicts, history, refusals } from '../reconcile/queries.ts';
import { reconcile } from '../reconcile/reconcile.ts';
import { registerScanRoutes } from './routes.ts';

let fresh: FreshDatabase;
let venue: Venue;
let app: App;
let tokens: string[];
beforeAll(async () => {
  fresh = await freshDatabase();
  app = await createTestHttp(fresh.database);
  registerScanRoutes(app, { database: fresh.database, rights: { event: eventRights, ticket: ticketRight }, verify: createVerify() });
  await open();
});
afterAll(async () => {
  await app.close();
  await fresh.drop();
});
async function open(tickets = 20): Promise<void> {
  venue = await makeVenue(fresh.url, { tickets, gates: ['phone-1', 'phone-2', 'north'] });
  tokens = await inTenant(async (client) => [
    (await renewToken(client, venue.gates[0] as string)) as string,
    (await renewToken(client, venue.gates[1] as string)) as string,
  ]);
}

const inTenant = <T>(work: (client: DatabaseClient) => Promise<T>): Promise<T> => fresh.database.withTenant(venue.tenantId, work);
const ask = async <T>(sql: string, values: readonly unknown[] = []) => (await inTenant((client) => client.query<T>(sql, values))).rows;
const at = (seconds: number) => new Date(BOOT_MS + seconds * 1000).toISOString();
interface Answer {
  readonly success: boolean;
  readonly error?: string;
  readonly message?: string;
  readonly reconciled: number;
  readonly failed: number;
  readonly results: readonly { readonly ticket_id: string | null; readonly status: string; readonly message: string }[];
}
const send = async (scans: unknown, phone = 0, device = venue.gates[phone]) => {
  const response = await app.inject({
    method: 'POST',
    url: '/offline/reconcile',
    headers: { authorization: `Bearer ${tokens[phone]}` },
    payload: { device_id: device, scans },
  });
  return { status: response.statusCode, body: response.json() as Answer };
};
const statuses = (answer: { body: Answer }) => answer.body.results.map(({ status }) => status);
const allow = (n: number, seconds: number, more: object = {}) => ({ ticket_id: `T-${n}`, scanned_at: at(seconds), result: 'ALLOW', ...more });
/** Everything that must stay as it is when a batch comes again. */
const tables = async () =>
  JSON.stringify([
    await ask('SELECT gate, epoch, seq, entry FROM ledger_rows ORDER BY gate, epoch, seq'),
    await ask('SELECT * FROM admissions ORDER BY gate, epoch, seq'),
    await ask('SELECT * FROM gate_counts ORDER BY gate, event_id'),
    await ask('SELECT ticket_id, status, scan_count, first_scanned_at, last_scanned_at, row_version FROM tickets ORDER BY ticket_id'),
    await ask('SELECT * FROM device_scans ORDER BY device, scan_key'),
    await ask('SELECT * FROM conflicts ORDER BY ticket_id, loser_seq'),
  ]);

test('a batch is taken in whole, each scan judged alone; sent again it changes nothing', async () => {
  const scans = [
    allow(1, 10, { scan_count: 7 }),
    allow(1, 10, { scan_count: 7 }),
    { ticket_id: 'T-2', scanned_at: at(11), result: 'DENY', reason: 'already used' },
    allow(3, 12, { scan_id: 'p1-3' }),
    { ticket_id: 'nobody', scanned_at: at(13), result: 'ALLOW' },
    { ticket_id: 1 },
    { ticket_id: 'T-4', scanned_at: 'yesterday', result: 'ALLOW' },
    allow(4, 0, { scanned_at: '2999-01-01T00:00:00Z' }),
    null,
    allow(5, 14, { scan_id: 'half \ud800' }),
  ];
  const first = await send(scans);
  expect(first.status).toBe(200);
  expect(ReconcileResponse.safeParse(first.body).success).toBe(true);
  expect(statuses(first)).toEqual(['SUCCESS', 'DUPLICATE', 'SUCCESS', 'SUCCESS', 'PENDING', 'ERROR', 'ERROR', 'SUCCESS', 'ERROR', 'SUCCESS']);
  expect(first.body).toMatchObject({ success: true, reconciled: 7, failed: 3 });
  expect(first.body.results[4]).toEqual({ ticket_id: 'nobody', status: 'PENDING', message: 'Ticket not known yet: kept, and settled when the ticket appears' });
  expect(first.body.results[5]?.message).toMatch(/^scans\.5\.ticket_id: /);

  // The scanner's own count is kept as it said, and added to nothing.
  expect(await ask("SELECT scan_count FROM device_scans WHERE ticket_id = 'T-1'")).toEqual([{ scan_count: 7 }]);
  expect(await ask("SELECT status, scan_count, first_scanned_at FROM tickets WHERE ticket_id IN ('T-1', 'T-2') ORDER BY ticket_id")).toEqual([
    { status: 'checked_in', scan_count: 1, first_scanned_at: new Date(at(10)) },
    { status: 'sold', scan_count: 0, first_scanned_at: null },
  ]);
  expect(await ask("SELECT entry::json ->> 'reason' AS reason, entry::json ->> 'explanation' AS explanation FROM ledger_rows WHERE kind = 'refusal'")).toEqual([
    { reason: 'already_redeemed', explanation: 'already used' },
  ]);

  const before = await tables();
  const again = await send(scans);
  expect(statuses(again).slice(0, 4)).toEqual(['DUPLICATE', 'DUPLICATE', 'DUPLICATE', 'DUPLICATE']);
  expect(again.body).toMatchObject({ reconciled: 7, failed: 3 });
  expect(await tables()).toBe(before);
  expect((await send([allow(4, 15, { scan_id: 'p1-3' })])).body.results[0]).toMatchObject({
    status: 'ERROR',
    message: expect.stringContaining('was used for another scan'),
  });
});

test('the first scan by its time wins, whichever scanner comes home first', async () => {
  await open();
  expect(statuses(await send([allow(1, 100), allow(2, 50)], 0))).toEqual(['SUCCESS', 'SUCCESS']);
  const later = await send([allow(1, 80), allow(2, 70)], 1);
  expect(statuses(later)).toEqual(['SUCCESS', 'CONFLICT']);
  expect(later.body).toMatchObject({ reconciled: 2, failed: 0 });
  expect(later.body.results[1]?.message).toContain(`the first entry was at ${at(50)}, ${venue.gates[0]}`);
  expect(
    await ask('SELECT a.ticket_id, a.verdict, s.device FROM admissions a JOIN device_scans s USING (gate, epoch, seq) ORDER BY a.ticket_id, a.at'),
  ).toEqual([
    { ticket_id: 'T-1', verdict: 'winner', device: venue.gates[1] },
    { ticket_id: 'T-1', verdict: 'excess', device: venue.gates[0] },
    { ticket_id: 'T-2', verdict: 'winner', device: venue.gates[0] },
    { ticket_id: 'T-2', verdict: 'excess', device: venue.gates[1] },
  ]);
  expect(await ask("SELECT first_scanned_at, scan_count FROM tickets WHERE ticket_id = 'T-1'")).toEqual([
    { first_scanned_at: new Date(at(80)), scan_count: 1 },
  ]);
  // Clocks of phones are believed within a bound: overlaps are said to be so.
  await send([allow(3, 70)], 0);
  await send([allow(3, 73)], 1);
  expect(await ask('SELECT ticket_id, overlapping FROM conflicts ORDER BY ticket_id')).toEqual([
    { ticket_id: 'T-1', overlapping: false },
    { ticket_id: 'T-2', overlapping: false },
    { ticket_id: 'T-3', overlapping: true },
  ]);
});

test('a scan that is said to be in the future happened by now; its key stays what the scanner said', async () => {
  await open();
  const ahead = new Date(Date.now() + 3_600_000).toISOString();
  expect(statuses(await send([allow(1, 0, { scanned_at: ahead })]))).toEqual(['SUCCESS']);
  expect(await ask("SELECT at <= now() AS past FROM admissions WHERE ticket_id = 'T-1'")).toEqual([{ past: true }]);
  expect(statuses(await send([allow(1, 0, { scanned_at: ahead })]))).toEqual(['DUPLICATE']);
});

test("gates' rows and scanners' scans are one account", async () => {
  await open();
  const ledger = testLedger(venue, 2);
  ledger.passage(ledger.grant(venue.tickets[0] as TestTicket, 30_000), 31_000, 'passed');
  expect(statuses(await send([allow(1, 40), allow(2, 40), { ticket_id: 'T-2', scanned_at: at(55), result: 'ALLOW', direction: 'out' }]))).toEqual([
    'SUCCESS',
    'SUCCESS',
    'SUCCESS',
  ]);
  await inTenant((client) => reconcile(client, ledger.rows()));
  expect(await ask("SELECT gate, verdict FROM admissions WHERE ticket_id = 'T-1' ORDER BY at")).toEqual([
    { gate: venue.gates[2], verdict: 'winner' },
    { gate: `${venue.site}/@phone-1`, verdict: 'excess' },
  ]);
  expect(await ask("SELECT verdict FROM admissions WHERE ticket_id = 'T-2' ORDER BY at")).toEqual([{ verdict: 'winner' }, { verdict: 'exit' }]);
  // A scan that was made online and is sent along with the others is a repeat.
  const online = await app.inject({
    method: 'POST',
    url: '/scan',
    headers: { authorization: `Bearer ${tokens[0]}` },
    payload: { device_id: venue.gates[0], event_id: venue.eventId, scan_id: 'on-1', code: venue.tickets[4]?.code },
  });
  expect(online.json()).toMatchObject({ result: 'ALLOW', ticket_id: 'T-5' });
  expect(statuses(await send([allow(5, 80, { scan_id: 'on-1' })]))).toEqual(['DUPLICATE']);
});

test('the same batch from eight connections at once is taken in once', async () => {
  await open();
  const scans = Array.from({ length: 20 }, (_, n) => allow(n + 1, n * 10));
  const answers = await Promise.all(Array.from({ length: 8 }, () => send(scans)));
  expect(answers.map((answer) => new Set(statuses(answer)).size)).toEqual(Array(8).fill(1));
  expect(answers.filter((answer) => statuses(answer)[0] === 'SUCCESS')).toHaveLength(1);
  expect(await ask('SELECT count(*)::int AS n FROM admissions')).toEqual([{ n: 20 }]);
  // Two scanners with each other's tickets, crosswise, at once: neither waits for the other for ever.
  const cross = await Promise.all([
    send([...scans].reverse(), 1),
    send(
      scans.map((scan) => ({ ...scan, scanned_at: at(500) })),
      0,
    ),
  ]);
  expect(cross.map(({ status }) => status)).toEqual([200, 200]);
  expect(await ask("SELECT count(*)::int AS n FROM admissions WHERE verdict = 'winner'")).toEqual([{ n: 20 }]);
});

test('who may send: a device in its own name; and how much', async () => {
  expect(await send([], 0, venue.gates[1])).toMatchObject({
    status: 403,
    body: { success: false, error: 'OTHER_DEVICE', message: expect.stringContaining('Device not found') },
  });
  expect(await send([], 0, '')).toMatchObject({ status: 400, body: { error: 'MISSING_DEVICE_ID' } });
  expect(await send(undefined)).toMatchObject({ status: 400, body: { error: 'BAD_REQUEST' } });
  expect((await send([])).body).toEqual({ success: true, reconciled: 0, failed: 0, results: [] });
  expect(await send(Array.from({ length: MAX_RECONCILE_SCANS + 1 }, () => 0))).toMatchObject({ status: 413, body: { error: 'TOO_MANY_SCANS' } });
  expect(await send([{ note: 'x'.repeat(5 * 1024 * 1024) }])).toMatchObject({ status: 413, body: { error: 'TOO_LARGE' } });
});

test(`${MAX_RECONCILE_SCANS} scans fit in one request and one transaction`, async () => {
  await open(5_000);
  const scans = Array.from({ length: MAX_RECONCILE_SCANS }, (_, n) => allow((n % 5_000) + 1, n));
  const answer = await send(scans);
  expect(answer.body).toMatchObject({ reconciled: MAX_RECONCILE_SCANS, failed: 0 });
  expect(statuses(answer)).toEqual([...Array(5_000).fill('SUCCESS'), ...Array(5_000).fill('CONFLICT')]);
  expect(new Set(statuses(await send(scans)))).toEqual(new Set(['DUPLICATE']));
}, 180_000);

test("a ticket id of two events needs its event; another tenant's is not found", async () => {
  await open();
  await inTenant(async (client) => {
    await client.query("INSERT INTO events (tenant_id, event_id, site_id, name) VALUES (current_tenant_id(), 'EV2', $1, 'second')", [venue.site]);
    await client.query("INSERT INTO ticket_types (tenant_id, event_id, tier) VALUES (current_tenant_id(), 'EV2', 'standard')");
    await client.query(
      "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier) VALUES (current_tenant_id(), 'EV2', 'T-1', decode(repeat('ab', 16), 'hex'), 'standard')",
    );
  });
  // Of several events the one that the scanner is assigned.
  expect(statuses(await send([allow(1, 1)]))).toEqual(['SUCCESS']);
  await ask("INSERT INTO gate_assignments (tenant_id, gate, event_id) VALUES (current_tenant_id(), $1, 'EV2')", [venue.gates[0]]);
  expect((await send([allow(1, 2)])).body.results[0]).toMatchObject({ status: 'PENDING', message: expect.stringContaining('say which with event_id') });
  expect(statuses(await send([allow(1, 2, { event_id: 'EV2' })]))).toEqual(['SUCCESS']);
  expect(await ask("SELECT event_id, verdict FROM admissions WHERE ticket_id = 'T-1' ORDER BY event_id")).toEqual([
    { event_id: 'EV1', verdict: 'winner' },
    { event_id: 'EV2', verdict: 'winner' },
  ]);
  await makeVenue(fresh.url, { tickets: 25, gates: ['phone-1'] });
  expect((await send([allow(25, 3)])).body.results[0]).toMatchObject({ status: 'PENDING', message: expect.stringMatching(/^Ticket not known yet/) });
});

test('K3, T15: the units of a scan count; the later ones of a party come for the first time; more than the ticket is for is said', async () => {
  await open();
  await ask('UPDATE tickets SET units = 4 WHERE ticket_id = $1', ['T-6']);
  expect(statuses(await send([allow(6, 10, { units: 1 })]))).toEqual(['SUCCESS']);
  const rest = await send([allow(6, 30, { units: 2 }), allow(6, 20, { units: 1 }), allow(7, 20, { units: 3 })]);
  expect(rest.body.results.map(({ status, message }) => [status, message])).toEqual([
    ['SUCCESS', 'recorded'],
    ['SUCCESS', 'recorded'],
    ['SUCCESS', 'recorded: 3 guests on a ticket for 1'],
  ]);
  expect(
    await ask(
      "SELECT entry::json ->> 'type' AS type, entry::json ->> 'units' AS units FROM ledger_rows WHERE kind = 'grant' AND ticket_id = 'T-6' ORDER BY seq",
    ),
  ).toEqual([
    { type: 'first_entry', units: '1' },
    { type: 'first_entry', units: '1' },
    { type: 'first_entry', units: '2' },
  ]);
  expect(await ask("SELECT sum(units_used)::int AS n FROM admissions WHERE ticket_id = 'T-6' AND verdict <> 'excess'")).toEqual([{ n: 4 }]);
});

test('T15: scanners are named in refusals, conflicts and history, and a taken-back ticket that entered is no first entry', async () => {
  await open();
  const [phone, other] = venue.gates as [string, string];
  await ask("UPDATE tickets SET status = 'cancelled' WHERE ticket_id = 'T-2'");
  await ask("UPDATE tickets SET units = 2 WHERE ticket_id = 'T-3'");
  await send([
    allow(1, 10),
    allow(2, 20, { scanned_at: new Date().toISOString() }),
    allow(3, 30, { units: 1 }),
    allow(3, 40, { units: 1 }),
    { ticket_id: 'T-4', scanned_at: at(50), result: 'DENY', reason: 'used' },
  ]);
  await send([allow(1, 60)], 1);
  await inTenant(async (client) => {
    const since = new Date(BOOT_MS - 1_000);
    expect(await refusals(client, null, since)).toMatchObject([{ gate: `${venue.site}/@phone-1`, device: phone, ticket_id: 'T-4' }]);
    expect(await refusals(client, phone, since)).toHaveLength(1);
    expect(await refusals(client, other, since)).toEqual([]);
    const told = new Map((await conflicts(client)).map((conflict) => [conflict.ticket_id, conflict]));
    expect(told.get('T-1')).toMatchObject({
      winner_device: phone,
      loser_device: other,
      loser: [scannerLedger(other), expect.any(Number), expect.any(Number)],
    });
    expect(told.get('T-2')).toMatchObject({ winner: null, loser_device: phone, cause: 'canceled' });
    const textsOf = async (ticketId: string) =>
      (await history(client, venue.eventId, ticketId))?.history.filter(({ kind }) => kind === 'grant').map(({ device, text }) => [device, text]);
    expect(await textsOf('T-1')).toEqual([
      [phone, 'admitted (first entry), passed'],
      [other, 'admitted (beyond its right: already_redeemed), passed'],
    ]);
    expect(await textsOf('T-2')).toEqual([[phone, 'admitted (beyond its right: canceled), passed']]);
    expect(await textsOf('T-3')).toEqual([
      [phone, 'admitted (first entry), passed'],
      [phone, 'admitted (first entry, later ones of a party), passed'],
    ]);
  });
});
