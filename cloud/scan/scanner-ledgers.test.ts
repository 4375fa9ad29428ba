/** T7: what one scanner uploads keeps no other waiting: each has a ledger of its own, and an upload is worked in pieces. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { scannerLedger } from '../../contract/ids.ts';
import { createVerify } from '../../signing/verify.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import type { Database, DatabaseClient } from '../db/database.ts';
import { renewToken } from '../devices/assignment.ts';
import { listGates } from '../devices/gate-list.ts';
import type { App } from '../http/server.ts';
import { eventRights, ticketRight } from '../manifest/current-rights.ts';
import { siteLedger } from '../reconcile/queries.ts';
import { manifestUsage } from '../reconcile/usage.ts';
import { reconcileUpload, SCANS_AT_ONCE } from './offline.ts';
import { registerScanRoutes } from './routes.ts';

let fresh: FreshDatabase;
let venue: Venue;
let app: App;
let tokens: string[];
const NOW_MS = Date.now();
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
  venue = await makeVenue(fresh.url, { tickets: 4, gates: ['phone-1', 'phone-2'] });
  tokens = await inTenant(async (client) => [(await renewToken(client, phone(0))) as string, (await renewToken(client, phone(1))) as string]);
});
const phone = (n: number) => venue.gates[n] as string;
const ticket = (n: number) => venue.tickets[n - 1] as TestTicket;
const inTenant = <T>(work: (client: DatabaseClient) => Promise<T>): Promise<T> => fresh.database.withTenant(venue.tenantId, work);
const ask = async <T>(sql: string, values: readonly unknown[] = []) => (await inTenant((client) => client.query<T>(sql, values))).rows;
const scan = async (n: number, code: string, more: object = {}) => {
  const response = await app.inject({
    method: 'POST',
    url: '/scan',
    headers: { authorization: `Bearer ${tokens[n]}` },
    payload: { device_id: phone(n), event_id: venue.eventId, scan_id: `${n}-${code.slice(0, 40)}`, code, ...more },
  });
  return response.json() as Record<string, unknown>;
};
const scans = (count: number) =>
  Array.from({ length: count }, (_, n) => ({
    ticket_id: `U-${n}`,
    event_id: venue.eventId,
    scanned_at: new Date(NOW_MS - 1_000_000 + n).toISOString(),
    result: 'ALLOW',
  }));
const fill = (count: number) =>
  ask(
    "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier) SELECT current_tenant_id(), $1, 'U-' || n, decode(md5('U-' || n), 'hex'), 'standard' FROM generate_series(0, $2::integer - 1) AS n",
    [venue.eventId, count],
  );

test('T7: while one scanner’s ledger is held, others scan at once, online, offline and at the doors in SQL', async () => {
  await inTenant(async (holder) => {
    await holder.query('SELECT lock_cloud_ledger($1, $2)', [venue.site, phone(0)]);
    // Each would wait for the holder for ever.
    expect(await scan(1, ticket(1).code)).toMatchObject({ result: 'ALLOW' });
    expect(await scan(1, 'a code that nobody sold, of some length')).toMatchObject({ result: 'DENY', reason: 'invalid' });
    const sent = await reconcileUpload(
      fresh.database,
      venue.tenantId,
      phone(1),
      [{ ticket_id: 'T-2', scanned_at: new Date(NOW_MS).toISOString(), result: 'ALLOW' }],
      { nowMs: NOW_MS },
    );
    expect(sent.results[0]?.status).toBe('SUCCESS');
    expect(await ask('SELECT allowed, busy FROM scan_ticket_atomic($1, device => $2)', ['T-3', phone(1)])).toEqual([{ allowed: true, busy: false }]);
    // At no device at all.
    expect(await ask('SELECT allowed, reason FROM scan_ticket_atomic($1)', ['T-3'])).toEqual([{ allowed: false, reason: 'already_redeemed' }]);
  });
});

test('T7: a door in SQL that waits in vain for its own ledger does not speak of the ticket', async () => {
  await inTenant(async (holder) => {
    await holder.query('SELECT lock_cloud_ledger($1, $2)', [venue.site, phone(0)]);
    const [answer] = await ask<{ busy: boolean; message: string }>('SELECT busy, message FROM scan_ticket_atomic($1, device => $2)', ['T-4', phone(0)]);
    expect(answer?.busy).toBe(true);
    expect(answer?.message).not.toContain('this ticket');
  });
}, 30_000);

test('T7: an upload is worked in pieces, a transaction each; interrupted, what was worked stays, and the whole is sent again', async () => {
  const count = 2 * SCANS_AT_ONCE + 7;
  await fill(count);
  let pieces = 0;
  const failing: Database = {
    ...fresh.database,
    withTenant: (tenant, work) => {
      pieces += 1;
      if (pieces > 2) return Promise.reject(new Error('the server went away'));
      return fresh.database.withTenant(tenant, work);
    },
  };
  await expect(reconcileUpload(failing, venue.tenantId, phone(0), scans(count), { nowMs: NOW_MS })).rejects.toThrow('went away');
  expect(await ask("SELECT count(*)::integer AS n FROM admissions WHERE ticket_id LIKE 'U-%'")).toEqual([{ n: 2 * SCANS_AT_ONCE }]);
  const again = await reconcileUpload(fresh.database, venue.tenantId, phone(0), scans(count), { nowMs: NOW_MS });
  expect(again).toMatchObject({ reconciled: count, failed: 0 });
  expect(again.results.map(({ ticket_id }) => ticket_id)).toEqual(scans(count).map(({ ticket_id }) => ticket_id));
  expect(Map.groupBy(again.results, ({ status }) => status).get('DUPLICATE')).toHaveLength(2 * SCANS_AT_ONCE);
  expect(await ask("SELECT count(*)::integer AS n FROM admissions WHERE ticket_id LIKE 'U-%' AND verdict = 'winner'")).toEqual([{ n: count }]);
}, 120_000);

test('T7: a site has 500 ledgers of scanners; the next one’s scans go to the site’s own, and an alert says so', async () => {
  await ask("INSERT INTO ledgers (tenant_id, gate, site_id) SELECT current_tenant_id(), $1 || '/@s' || n, $1 FROM generate_series(1, 499) AS n", [venue.site]);
  expect(await scan(0, ticket(1).code)).toMatchObject({ result: 'ALLOW' });
  expect(await scan(1, ticket(2).code)).toMatchObject({ result: 'ALLOW' });
  expect(await ask('SELECT gate, scanner FROM admissions ORDER BY ticket_id')).toEqual([
    { gate: scannerLedger(phone(0)), scanner: phone(0) },
    { gate: `${venue.site}/cloud`, scanner: phone(1) },
  ]);
  const { gates } = await inTenant((client) => listGates(client));
  expect(gates.find(({ gate }) => gate === phone(1))).toMatchObject({ alerts: ['ledger'], alert_messages: [expect.stringContaining('500 scanners')] });
  // One that nobody used for 400 days makes room.
  await ask("UPDATE ledgers SET created_at = now() - interval '401 days' WHERE gate LIKE '%/@s7'");
  expect(await scan(1, ticket(3).code)).toMatchObject({ result: 'ALLOW' });
  expect(await ask("SELECT gate FROM admissions WHERE ticket_id = 'T-3'")).toEqual([{ gate: scannerLedger(phone(1)) }]);
});

test('T7: a scanner without a scan for 400 days leaves the vector and the rows that a new gate fetches; what it admitted stays used', async () => {
  await scan(0, ticket(1).code);
  await scan(1, ticket(2).code);
  await ask("UPDATE ledgers SET created_at = now() - interval '500 days' WHERE gate LIKE '%/@phone-%'");
  await ask("UPDATE ledger_epochs SET last_row_at = now() - interval '401 days' WHERE gate LIKE '%/@phone-1'");
  const { upto, usage } = await inTenant((client) => manifestUsage(client, venue.eventId));
  expect(Object.keys(upto).filter((ledger) => ledger.includes('@'))).toEqual([scannerLedger(phone(1))]);
  expect(usage.map(({ gate }) => gate).sort()).toEqual([scannerLedger(phone(0)), scannerLedger(phone(1))]);
  const { rows } = await inTenant((client) => siteLedger(client, venue.site, {}));
  expect(new Set(rows.map(({ gate }) => gate))).toEqual(new Set([scannerLedger(phone(1))]));
});

test('T8: a scan outside the event’s hours by its corrected time is flagged, and counts', async () => {
  const hours = (n: number) => new Date(NOW_MS + n * 3_600_000).toISOString();
  await ask('UPDATE events SET starts_at = $1, ends_at = $2', [hours(-2), hours(2)]);
  const at = (ticketId: string, byDevice: number) => ({ ticket_id: ticketId, scanned_at: hours(byDevice), result: 'ALLOW' });
  // Its clock is 30 hours slow: what looks like yesterday happened within the hours, and what looks like now - 60 h before the doors.
  await reconcileUpload(fresh.database, venue.tenantId, phone(0), [at('T-1', -31), at('T-2', -61)], { nowMs: NOW_MS, deviceTime: hours(-30) });
  await reconcileUpload(fresh.database, venue.tenantId, phone(1), [at('T-3', -1), at('T-4', -31)], { nowMs: NOW_MS });
  const rows = await ask<{ ticket_id: string; entry: string; at: Date }>(
    'SELECT a.ticket_id, a.at, (SELECT r.entry FROM ledger_rows r WHERE r.gate = a.gate AND r.epoch = a.epoch AND r.seq = a.seq) AS entry FROM admissions a ORDER BY a.ticket_id',
  );
  expect(
    rows.map(({ ticket_id, at: when, entry }) => [
      ticket_id,
      Math.round((when.getTime() - NOW_MS) / 3_600_000),
      (JSON.parse(entry) as { flags?: string[] }).flags,
    ]),
  ).toEqual([
    ['T-1', -1, ['clock_untrusted']],
    ['T-2', -31, ['clock_untrusted', 'outside_hours']],
    ['T-3', -1, undefined],
    ['T-4', -31, ['outside_hours']],
  ]);
});

test('410 RESEND_SINCE: after the database went back each scanner is asked once to send again, and what it sends counts once', async () => {
  const send = async (n: number) => {
    const payload = { device_id: phone(n), scans: [{ ticket_id: 'T-1', scanned_at: new Date(NOW_MS).toISOString(), result: 'ALLOW' }] };
    const response = await app.inject({ method: 'POST', url: '/offline/reconcile', headers: { authorization: `Bearer ${tokens[n]}` }, payload });
    return { status: response.statusCode, body: response.json() as Record<string, unknown> };
  };
  expect(await send(0)).toMatchObject({ status: 200 });
  const since = new Date(NOW_MS - 24 * 3_600_000);
  await fresh.database.asOwner(async (owner) => {
    await owner.query('UPDATE database_lives SET ended_at = now() WHERE ended_at IS NULL');
    await owner.query("INSERT INTO database_lives (life, why, resend_since) VALUES (gen_random_uuid(), 'test', $1)", [since]);
  });
  expect(await send(0)).toMatchObject({ status: 410, body: { error: 'RESEND_SINCE', message: expect.stringContaining(since.toISOString()) } });
  expect(await send(0)).toMatchObject({ status: 200, body: { results: [{ status: 'DUPLICATE' }] } });
  expect(await scan(1, ticket(2).code)).toMatchObject({ error: 'RESEND_SINCE' });
  expect(await scan(1, ticket(2).code)).toMatchObject({ result: 'ALLOW' });
});
