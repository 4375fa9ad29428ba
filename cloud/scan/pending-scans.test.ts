/** T6: what happened at a door to a ticket that the cloud does not know yet waits for it, and counts once, at its own time. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import { ReconcileResponse } from '../../contract/http.ts';
import { scannerLedger } from '../../contract/ids.ts';
import { ClaimEntry } from '../../contract/ledger.ts';
import { createVerify } from '../../signing/verify.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import type { DatabaseClient } from '../db/database.ts';
import { renewToken } from '../devices/assignment.ts';
import type { App } from '../http/server.ts';
import { eventRights, ticketRight } from '../manifest/current-rights.ts';
import { unpublishedCloudRows } from '../reconcile/cloud-ledger.ts';
import { history, occupancy, refusals } from '../reconcile/queries.ts';
import { sha256 } from '../reconcile/reconcile.ts';
import { refOf } from './facts.ts';
import { pendingScans } from './pending-scans.ts';
import { registerScanRoutes } from './routes.ts';

let fresh: FreshDatabase;
let venue: Venue;
let app: App;
let tokens: string[];
const HOUR_MS = 3_600_000;
const NOW_MS = Date.now();
/** Seconds after an hour ago. */
const at = (seconds: number) => new Date(NOW_MS - HOUR_MS + seconds * 1000).toISOString();

beforeAll(async () => {
  fresh = await freshDatabase();
  app = await createTestHttp(fresh.database);
  registerScanRoutes(app, { database: fresh.database, rights: { event: eventRights, ticket: ticketRight }, verify: createVerify() });
});
afterAll(async () => {
  await app.close();
  await fresh.drop();
});
beforeEach(async () => {
  venue = await makeVenue(fresh.url, { tickets: 2, gates: ['phone-1', 'phone-2'], policies: { event: { duplicate_window_s: 0 } } });
  tokens = await inTenant(async (client) => [
    (await renewToken(client, venue.gates[0] as string)) as string,
    (await renewToken(client, venue.gates[1] as string)) as string,
  ]);
});

const inTenant = <T>(work: (client: DatabaseClient) => Promise<T>): Promise<T> => fresh.database.withTenant(venue.tenantId, work);
const ask = async <T>(sql: string, values: readonly unknown[] = []) => (await inTenant((client) => client.query<T>(sql, values))).rows;
const post = async (url: string, phone: number, payload: object) => {
  const headers = { authorization: `Bearer ${tokens[phone]}` };
  const response = await app.inject({ method: 'POST', url, headers, payload: { device_id: venue.gates[phone], ...payload } });
  expect(response.statusCode).toBe(200);
  return response.json() as { results: { status: string; message: string }[]; reconciled: number; failed: number } & Record<string, unknown>;
};
const send = (scans: readonly unknown[], phone = 0) => post('/offline/reconcile', phone, { scans });
const statuses = (answer: { results: readonly { status: string }[] }) => answer.results.map(({ status }) => status);
const allow = (ticket_id: string, seconds: number, more: object = {}) => ({ ticket_id, scanned_at: at(seconds), result: 'ALLOW', ...more });
const CODE = 'a code of forty-two characters, all of them!';
const appear = (ticketId: string, code = CODE) =>
  ask("INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier) VALUES (current_tenant_id(), $1, $2, decode($3, 'hex'), 'standard')", [
    venue.eventId,
    ticketId,
    refOf(Buffer.from(venue.salt, 'hex'), code),
  ]);
const waiting = async () => (await ask<{ n: number }>('SELECT count(*)::integer AS n FROM pending_scans'))[0]?.n;

test('T6: an admission of an unknown ticket waits, counts at its own time when the ticket appears, and the next guest is a repeat', async () => {
  const scans = [allow('late', 10, { scan_id: 'p1-1', scan_count: 3 }), allow('T-1', 11)];
  const first = await send(scans);
  expect(statuses(first)).toEqual(['PENDING', 'SUCCESS']);
  expect(ReconcileResponse.safeParse(first).success).toBe(true);
  expect(first).toMatchObject({ reconciled: 2, failed: 0 });
  expect(statuses(await send(scans))).toEqual(['DUPLICATE', 'DUPLICATE']);
  expect(await waiting()).toBe(1);

  await appear('late');
  expect(await waiting()).toBe(0);
  expect(await ask("SELECT a.at, a.verdict, a.scanner FROM admissions a WHERE a.ticket_id = 'late'")).toEqual([
    { at: new Date(at(10)), verdict: 'winner', scanner: venue.gates[0] },
  ]);
  expect(await ask("SELECT status, scan_count, first_scanned_at FROM tickets WHERE ticket_id = 'late'")).toEqual([
    { status: 'checked_in', scan_count: 1, first_scanned_at: new Date(at(10)) },
  ]);
  expect((await inTenant((client) => occupancy(client, venue.eventId))).inside).toBe(2);
  expect(await ask("SELECT scan_key, scan_count FROM device_scans WHERE ticket_id = 'late'")).toEqual([{ scan_key: 'id p1-1', scan_count: 3 }]);
  // Sent again, and by the second guest: online, and at another scanner that was away.
  expect(statuses(await send(scans))).toEqual(['DUPLICATE', 'DUPLICATE']);
  expect(await post('/scan', 1, { event_id: venue.eventId, scan_id: 'p2-1', code: CODE })).toMatchObject({ result: 'DENY', reason: 'already_redeemed' });
  expect(statuses(await send([allow('late', 20), allow('late', 5)], 1))).toEqual(['CONFLICT', 'SUCCESS']);
  expect(await ask("SELECT at, verdict FROM admissions WHERE ticket_id = 'late' ORDER BY at")).toEqual([
    { at: new Date(at(5)), verdict: 'winner' },
    { at: new Date(at(10)), verdict: 'excess' },
    { at: new Date(at(20)), verdict: 'excess' },
  ]);
});

test('T6: the next scan, or housekeeping, settles a pending scan when the ledger was locked as the ticket appeared', async () => {
  expect(statuses(await send([allow('late', 10), allow('later', 11)]))).toEqual(['PENDING', 'PENDING']);
  await inTenant(async (holder) => {
    await holder.query('SELECT lock_cloud_ledger($1, $2)', [venue.site, venue.gates[0]]);
    await appear('late');
    await appear('later', `${CODE} 2`);
  });
  expect(await waiting()).toBe(2);
  expect(await post('/scan', 1, { event_id: venue.eventId, scan_id: 'p2-1', code: CODE })).toMatchObject({ result: 'DENY', reason: 'already_redeemed' });
  const { rows } = await fresh.database.withoutTenant((client) => client.query<{ tenant_id: string }>('SELECT tenant_id FROM tenants_with_waiting_scans(10)'));
  expect(rows.map(({ tenant_id }) => tenant_id)).toContain(venue.tenantId);
  expect(await ask('SELECT settle_scans_left_waiting() AS n')).toEqual([{ n: 1 }]);
  expect(await waiting()).toBe(0);
});

test('T6: the SQL function of online scans settles pending scans as well', async () => {
  const sync = async (more: string) =>
    (await ask<{ status: string }>(`SELECT status FROM sync_offline_scan('late', $2, $1 ${more})`, [venue.gates[0], at(10)]))[0]?.status;
  expect([await sync(''), await sync(''), await sync(", 'DENY'"), await sync(", 'DENY'")]).toEqual(['PENDING', 'DUPLICATE', 'PENDING', 'DUPLICATE']);
  await appear('late');
  expect([await waiting(), await sync('')]).toEqual([0, 'DUPLICATE']);
  expect(await ask("SELECT allowed, reason FROM scan_ticket_atomic('late', device => $1)", [venue.gates[1]])).toEqual([
    { allowed: false, reason: 'already_redeemed' },
  ]);
});

test('T6: refusals of what nobody knows are claims as well, and become refusals of the ticket when it appears', async () => {
  const scans = [
    { ticket_id: 'nobody', scanned_at: at(10), result: 'DENY' },
    { ticket_id: 'no-one', scanned_at: at(11), result: 'DENY', reason: 'not found', event_id: venue.eventId },
  ];
  expect(statuses(await send(scans))).toEqual(['PENDING', 'PENDING']);
  expect(statuses(await send(scans))).toEqual(['DUPLICATE', 'DUPLICATE']);
  expect(await post('/scan', 0, { event_id: venue.eventId, scan_id: 'p1-9', code: 'a code that nobody sold' })).toMatchObject({
    result: 'DENY',
    reason: 'invalid',
  });
  const listed = await inTenant((client) => refusals(client, null, new Date(NOW_MS - 2 * HOUR_MS)));
  expect(listed.map(({ reason, ticket_id, event_id }) => [reason, ticket_id, event_id])).toEqual([
    ['invalid', null, venue.eventId],
    ['invalid', 'no-one', venue.eventId],
    ['invalid', 'nobody', null],
  ]);
  await appear('no-one');
  expect((await inTenant((client) => history(client, venue.eventId, 'no-one')))?.history).toMatchObject([
    { at: at(11), kind: 'claim', device: venue.gates[0] },
    { at: at(11), kind: 'refusal', device: venue.gates[0] },
  ]);
  // The claim and what it became are one refusal.
  expect((await inTenant((client) => refusals(client, null, new Date(NOW_MS - 2 * HOUR_MS)))).filter(({ ticket_id }) => ticket_id === 'no-one')).toHaveLength(
    1,
  );
});

/** Returns the rows of a scanner's own ledger, oldest first. */
const rowsOf = async (phone: number) =>
  (await ask<{ entry: string }>('SELECT entry FROM ledger_rows WHERE gate = $1 ORDER BY epoch, seq', [scannerLedger(venue.gates[phone] as string)])).map(
    ({ entry }) => JSON.parse(entry) as Record<string, unknown>,
  );

test('T6, T7: a claim is a row of the scanner’s own ledger, at its time, and what settles it names it', async () => {
  await send([allow('late', 10, { scan_id: 'p1-1', units: 1 }), { ticket_id: 'wrong', scanned_at: at(12), result: 'DENY', reason: 'blocked' }]);
  const [entry, refusal] = await rowsOf(0);
  for (const claim of [entry, refusal]) expect(ClaimEntry.safeParse({ ...claim, hash: '0'.repeat(64) }).error?.issues).toBeUndefined();
  expect([entry, refusal]).toMatchObject([
    { seq: 1, kind: 'claim', ts: at(10), device: venue.gates[0], ticket_id: 'late', result: 'ALLOW', units: 1, scan_id: 'p1-1' },
    { seq: 2, kind: 'claim', ts: at(12), device: venue.gates[0], ticket_id: 'wrong', result: 'DENY', reason: 'blocked' },
  ]);
  expect(await inTenant((client) => pendingScans(client, null))).toMatchObject({
    pending: [
      { device: venue.gates[0], ticket_id: 'wrong', result: 'DENY', seq: 2 },
      { device: venue.gates[0], ticket_id: 'late', result: 'ALLOW', seq: 1 },
    ],
    more: false,
  });
  await appear('late');
  await appear('wrong', `${CODE} 2`);
  const rows = await rowsOf(0);
  const epoch = (await ask<{ epoch: number }>('SELECT epoch FROM ledger_epochs WHERE gate = $1', [scannerLedger(venue.gates[0] as string)]))[0]?.epoch;
  expect(rows.slice(2)).toMatchObject([
    { kind: 'grant', of: [epoch, 1], ts: at(10), device: venue.gates[0], ticket_id: 'late' },
    { kind: 'passage', of: [epoch, 3, expect.any(String)], ts: at(10) },
    { kind: 'refusal', of: [epoch, 2], ts: at(12), reason: 'blocked', ticket_id: 'wrong' },
  ]);
  expect((await inTenant((client) => pendingScans(client, null))).pending).toEqual([]);
  // All of it follows in the chain, and is told to the gates.
  const published = (await inTenant((client) => unpublishedCloudRows(client))).find(({ ledger }) => ledger.endsWith('/@phone-1'));
  let previous = firstPredecessor(sha256, published?.ledger ?? '', published?.epoch ?? 0);
  for (const row of published?.entries ?? []) {
    expect(row['hash']).toBe(entryHash(sha256, previous, row));
    previous = row['hash'] as string;
  }
  expect(published?.entries).toHaveLength(5);
});

test('T6: the doors in SQL keep a claim of what they refuse as unknown, and it is settled when the ticket or the pass appears', async () => {
  expect(await ask("SELECT allowed, busy, reason FROM scan_ticket_atomic('late', device => $1)", [venue.gates[0]])).toEqual([
    { allowed: false, busy: false, reason: 'invalid' },
  ]);
  expect(await ask("SELECT allowed, reason FROM scan_ticket_atomic('later', event => $1)", [venue.eventId])).toEqual([{ allowed: false, reason: 'invalid' }]);
  const ref = refOf(Buffer.from(venue.salt, 'hex'), `${CODE} pass`);
  expect(
    await ask("SELECT allowed, scan_type, reason FROM process_vip_scan_with_reentry($1, decode($2, 'hex'), NULL, $3)", [venue.eventId, ref, venue.gates[1]]),
  ).toEqual([{ allowed: false, scan_type: 'refused', reason: 'invalid' }]);
  expect(
    await ask('SELECT allowed, reason FROM process_vip_scan_with_reentry($1, decode($2, $4), NULL, $3)', [
      venue.eventId,
      venue.tickets[0]?.ticketRef,
      venue.gates[1],
      'hex',
    ]),
  ).toEqual([{ allowed: false, reason: 'product' }]);
  expect(
    (await inTenant((client) => pendingScans(client, null))).pending.map(({ gate, ticket_id, ticket_ref }) => [gate, ticket_id, ticket_ref]).sort(),
  ).toEqual([
    [`${venue.site}/@phone-1`, 'late', null],
    [`${venue.site}/@phone-2`, null, ref],
    [`${venue.site}/cloud`, 'later', null],
  ]);
  await appear('late');
  await appear('later', `${CODE} 2`);
  await appear('pass', `${CODE} pass`);
  expect(await waiting()).toBe(0);
  expect(await ask("SELECT gate, ticket_id FROM ledger_rows WHERE kind = 'refusal' AND entry LIKE '%\"of\":%' ORDER BY ticket_id")).toEqual([
    { gate: `${venue.site}/@phone-1`, ticket_id: 'late' },
    { gate: `${venue.site}/cloud`, ticket_id: 'later' },
    { gate: `${venue.site}/@phone-2`, ticket_id: 'pass' },
  ]);
  // What has no site and no device cannot be kept, and says so.
  await expect(ask("SELECT scan_ticket_atomic('nowhere')")).rejects.toThrow('there is no ticket nowhere');
});

test('T6: a ticket of several events waits until it is said which; with its event it is taken once', async () => {
  await inTenant(async (client) => {
    await client.query("INSERT INTO events (tenant_id, event_id, site_id, name) VALUES (current_tenant_id(), 'EV2', $1, 'second')", [venue.site]);
    await client.query("INSERT INTO gate_assignments (tenant_id, gate, event_id) VALUES (current_tenant_id(), $1, 'EV2')", [venue.gates[0]]);
    await client.query("INSERT INTO ticket_types (tenant_id, event_id, tier) VALUES (current_tenant_id(), 'EV2', 'standard')");
    await client.query(
      "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier) VALUES (current_tenant_id(), 'EV2', 'T-1', decode(repeat('ab', 16), 'hex'), 'standard')",
    );
  });
  expect(statuses(await send([allow('T-1', 10), allow('T-1', 10, { event_id: 'EV2' })]))).toEqual(['PENDING', 'DUPLICATE']);
  expect(statuses(await send([allow('T-1', 10, { event_id: 'EV2' })]))).toEqual(['SUCCESS']);
  expect(statuses(await send([allow('T-1', 10), allow('T-1', 10, { event_id: 'EV2' })]))).toEqual(['DUPLICATE', 'DUPLICATE']);
  expect(await ask("SELECT event_id, verdict FROM admissions WHERE ticket_id = 'T-1'")).toEqual([{ event_id: 'EV2', verdict: 'winner' }]);
});

test('T6: so many of a device may wait; beyond, a scan is in quarantine and the answer says what to do', async () => {
  await ask(
    "INSERT INTO pending_scans (tenant_id, device, gate, epoch, seq, result, scan_key, ticket_id, direction, scanned_at, at, clock, bound_ms) SELECT current_tenant_id(), $1, replace($1, '/', '/@'), 1, n, 'ALLOW', 'id n' || n, 'n' || n, 'in', now(), now(), $1, 5000 FROM generate_series(1, pending_scans_at_most() - 1) AS n",
    [venue.gates[0]],
  );
  const answer = await send([allow('late', 10), allow('later', 11), allow('T-1', 12)]);
  expect(statuses(answer)).toEqual(['PENDING', 'ERROR', 'SUCCESS']);
  expect(answer.results[1]?.message).toContain('import the tickets, then send it again');
  expect(await ask("SELECT reason, convert_from(payload, 'UTF8')::jsonb ->> 'ticket_id' AS ticket FROM quarantine")).toEqual([
    { reason: 'failed', ticket: 'later' },
  ]);
  expect(statuses(await send([allow('late', 10)], 1))).toEqual(['PENDING']);
});
