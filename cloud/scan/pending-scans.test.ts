/** T6: what happened at a door to a ticket that the cloud does not know yet waits for it, and counts once, at its own time. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { ReconcileResponse } from '../../contract/http.ts';
import { createVerify } from '../../signing/verify.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import type { DatabaseClient } from '../db/database.ts';
import { renewToken } from '../devices/assignment.ts';
import type { App } from '../http/server.ts';
import { eventRights, ticketRight } from '../manifest/current-rights.ts';
import { history, occupancy, refusals } from '../reconcile/queries.ts';
import { refOf } from './facts.ts';
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
    await holder.query('SELECT lock_cloud_ledger($1)', [venue.site]);
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
  expect([await sync(''), await sync(''), await sync(", 'DENY'"), await sync(", 'DENY'")]).toEqual(['PENDING', 'DUPLICATE', 'SUCCESS', 'DUPLICATE']);
  await appear('late');
  expect([await waiting(), await sync('')]).toEqual([0, 'DUPLICATE']);
  expect(await ask("SELECT allowed, reason FROM scan_ticket_atomic('late', device => $1)", [venue.gates[1]])).toEqual([
    { allowed: false, reason: 'already_redeemed' },
  ]);
});

test('T6: refusals of what nobody knows are recorded, once', async () => {
  const scans = [
    { ticket_id: 'nobody', scanned_at: at(10), result: 'DENY' },
    { ticket_id: 'no-one', scanned_at: at(11), result: 'DENY', reason: 'not found', event_id: venue.eventId },
  ];
  expect(statuses(await send(scans))).toEqual(['SUCCESS', 'SUCCESS']);
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
  expect((await inTenant((client) => history(client, venue.eventId, 'no-one')))?.history).toMatchObject([{ at: at(11), kind: 'refusal' }]);
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
    "INSERT INTO pending_scans (tenant_id, device, scan_key, ticket_id, direction, scanned_at, at, clock, bound_ms) SELECT current_tenant_id(), $1, 'id n' || n, 'n' || n, 'in', now(), now(), $1, 5000 FROM generate_series(1, pending_scans_at_most() - 1) AS n",
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
