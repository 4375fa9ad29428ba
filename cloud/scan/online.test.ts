import { generateKeyPairSync, sign } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { entryHash } from '../../contract/hash-chain.ts';
import { ScanResponse } from '../../contract/http.ts';
import { encodeSigned } from '../../rules/stile-code.ts';
import { createVerify } from '../../signing/verify.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import type { DatabaseClient } from '../db/database.ts';
import { newToken, OPERATOR_TOKEN_PREFIX, renewToken } from '../devices/assignment.ts';
import type { App } from '../http/server.ts';
import { addCodeKey, revokeCodeKey } from '../manifest/code-keys.ts';
import { eventRights, ticketRight } from '../manifest/current-rights.ts';
import { appendCloudRows, unpublishedCloudRows } from '../reconcile/cloud-ledger.ts';
import { reconcile, sha256 } from '../reconcile/reconcile.ts';
import { applyAction } from '../tickets/actions.ts';
import { lockEvent, writeTickets } from '../tickets/write-tickets.ts';
import { refOf } from './facts.ts';
import { scanOnline } from './online.ts';
import { registerScanRoutes } from './routes.ts';

let fresh: FreshDatabase;
let venue: Venue;
let app: App;
let tokens: string[];
let operator: string;
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url, { tickets: 40, gates: ['scanner-1', 'scanner-2', 'north', 'idle'], policies: { event: { duplicate_window_s: 0 } } });
  const made = newToken(OPERATOR_TOKEN_PREFIX);
  operator = made.token;
  tokens = (await fresh.database.withTenant(venue.tenantId, async (client) => {
    await client.query("INSERT INTO operator_tokens (tenant_id, token_sha256, name, actor) VALUES ($1, $2, 'anna', 's-17')", [venue.tenantId, made.sha256]);
    await client.query('DELETE FROM gate_assignments WHERE gate = $1', [venue.gates[3]]);
    return [
      await renewToken(client, venue.gates[0] as string),
      await renewToken(client, venue.gates[1] as string),
      await renewToken(client, venue.gates[3] as string),
    ];
  })) as string[];
  app = await createTestHttp(fresh.database);
  registerScanRoutes(app, { database: fresh.database, rights: { event: eventRights, ticket: ticketRight }, verify: createVerify() });
});
afterAll(async () => {
  await app.close();
  await fresh.drop();
});

const inTenant = <T>(work: (client: DatabaseClient) => Promise<T>): Promise<T> => fresh.database.withTenant(venue.tenantId, work);
const ask = async <T>(sql: string, values: readonly unknown[] = []) =>
  (await fresh.database.withTenant(venue.tenantId, (client) => client.query<T>(sql, values))).rows;
const ticket = (n: number) => venue.tickets[n - 1] as TestTicket;
let scans = 0;
/** As scanner-1, in its own name, with a scan_id of its own. */
const scan = async (body: object, token = tokens[0]) => {
  const response = await app.inject({
    method: 'POST',
    url: '/scan',
    headers: { authorization: `Bearer ${token}` },
    payload: { device_id: venue.gates[0], event_id: venue.eventId, scan_id: `s-${++scans}`, ...body },
  });
  return { status: response.statusCode, body: response.json() as Record<string, unknown>, replayed: response.headers['idempotency-replayed'] };
};

test('a ticket is admitted once: one grant with its passage in the ledger of the cloud, chained, for the gates to read', async () => {
  const { code, ticketId, ticketRef } = ticket(1);
  const first = await scan({ code });
  expect(first).toMatchObject({
    status: 200,
    body: { success: true, result: 'ALLOW', type: 'first_entry', units: 1, ticket_id: ticketId, ticket_ref: ticketRef },
  });
  expect(ScanResponse.safeParse(first.body).success).toBe(true);
  const second = await scan({ ticket_ref: ticketRef, device_id: venue.gates[1] }, tokens[1]);
  expect(second.body).toMatchObject({
    result: 'DENY',
    reason: 'already_redeemed',
    explanation: expect.stringMatching(/^already used at \d\d:\d\d, gate scanner-1$/),
  });

  expect(await ask('SELECT status, scan_count FROM tickets WHERE ticket_id = $1', [ticketId])).toEqual([{ status: 'checked_in', scan_count: 1 }]);
  expect(await ask('SELECT gate, verdict, outcome, units_uncertain FROM admissions WHERE ticket_id = $1', [ticketId])).toEqual([
    { gate: `${venue.site}/@scanner-1`, verdict: 'winner', outcome: 'passed', units_uncertain: 0 },
  ]);
  const rows = await ask<{ seq: number; kind: string; hash: string; entry: string }>(
    "SELECT seq, kind, encode(hash, 'hex') AS hash, entry FROM ledger_rows WHERE gate LIKE '%/@scanner-1' ORDER BY seq",
  );
  expect(rows.map(({ kind }) => kind)).toEqual(['grant', 'passage']);
  for (const [n, row] of rows.entries())
    if (n > 0) expect(entryHash(sha256, rows[n - 1]?.hash as string, JSON.parse(row.entry) as Record<string, unknown>)).toBe(row.hash);
  expect(JSON.parse(rows[0]?.entry as string)).toMatchObject({ medium: 'opaque', online: true, device: venue.gates[0], scan_id: 's-1' });
  expect(JSON.stringify(rows)).not.toContain(code);
  // The second scanner's refusal is in its own ledger.
  expect((await inTenant((client) => unpublishedCloudRows(client))).map(({ ledger, entries }) => [ledger, entries.length])).toEqual([
    [`${venue.site}/@scanner-1`, 2],
    [`${venue.site}/@scanner-2`, 1],
  ]);
});

test('the same scan again gives the same answer and no row; another question under its id is told so', async () => {
  const body = { code: ticket(2).code, scan_id: 'again' };
  const first = await scan(body);
  const count = () => ask('SELECT count(*)::int AS n FROM ledger_rows');
  const before = await count();
  for (let n = 0; n < 3; n++) expect(await scan(body)).toEqual({ ...first, replayed: 'true' });
  expect(await scan({ ...body, code: ticket(3).code })).toMatchObject({ status: 409, body: { success: false, error: 'SCAN_ID_REUSED' } });
  expect(await scan({ ...body, direction: 'out' })).toMatchObject({ status: 409 });
  expect(await count()).toEqual(before);
  // Another scanner counts its scans for itself.
  expect((await scan({ ...body, device_id: venue.gates[1], code: ticket(3).code }, tokens[1])).body).toMatchObject({ result: 'ALLOW' });
});

test('of eight scans of one ticket at the same moment one is admitted; of eight of the same scan all are told so', async () => {
  const eight = <T>(work: (n: number) => Promise<T>) => Promise.all(Array.from({ length: 8 }, (_, n) => work(n)));
  for (let round = 0; round < 5; round++) {
    const { code, ticketId } = ticket(10 + round);
    const answers = await eight((n) => scan({ code, device_id: venue.gates[n % 2] }, tokens[n % 2]));
    expect(answers.map(({ body }) => body['result']).sort()).toEqual(['ALLOW', ...Array(7).fill('DENY')]);
    expect(await ask('SELECT verdict FROM admissions WHERE ticket_id = $1', [ticketId])).toEqual([{ verdict: 'winner' }]);
  }
  const same = await eight(() => scan({ code: ticket(20).code, scan_id: 'eight' }));
  expect(new Set(same.map(({ status, body }) => JSON.stringify({ status, body }))).size).toBe(1);
  expect(same[0]?.body).toMatchObject({ result: 'ALLOW' });
  expect(await ask('SELECT count(*)::int AS n FROM conflicts')).toEqual([{ n: 0 }]);
});

test("what a gate recorded counts, and is told in the gate's name; who left may be recorded as gone", async () => {
  const ledger = testLedger(venue, 2);
  const { code } = ticket(4);
  await inTenant(async (client) => {
    ledger.passage(ledger.grant(ticket(4), 3_000), 4_000, 'passed');
    await reconcile(client, ledger.rows());
  });
  expect((await scan({ code })).body).toMatchObject({
    result: 'DENY',
    reason: 'already_redeemed',
    explanation: 'already used at 2026-05-01 12:00, gate north',
  });
  expect((await scan({ code, direction: 'out' })).body).toMatchObject({ result: 'ALLOW', type: 'exit' });
  expect(await ask('SELECT verdict FROM admissions WHERE ticket_id = $1 ORDER BY at', ['T-4'])).toEqual([{ verdict: 'winner' }, { verdict: 'exit' }]);
});

test('rights decide: revoked, replaced, unknown, unreadable; every refusal stands in the ledger', async () => {
  await inTenant((client) => applyAction(client, venue.tenantId, { ticketId: 'T-5', action: 'revoke', actor: 's-17', reason: 'charge-back' }));
  await inTenant((client) =>
    applyAction(client, venue.tenantId, {
      ticketId: 'T-6',
      action: 'transfer',
      actor: 's-17',
      reason: 'sold on',
      code: 'NEW-CODE-OF-ANOTHER-HOLDER-7F3K2M9QXZ',
    }),
  );
  const reasonOf = async (code: string) => (await scan({ code })).body['reason'];
  expect(await reasonOf(ticket(5).code)).toBe('revoked');
  expect(await reasonOf(ticket(6).code)).toBe('revoked');
  expect(await reasonOf('nobody-has-this-code')).toBe('invalid');
  expect(await reasonOf('a\u0000b')).toBe('unreadable');
  expect((await scan({ code: 'NEW-CODE-OF-ANOTHER-HOLDER-7F3K2M9QXZ' })).body).toMatchObject({ result: 'ALLOW', ticket_id: 'T-6' });
  const refused = await ask<{ entry: string }>("SELECT entry FROM ledger_rows WHERE kind = 'refusal' ORDER BY seq DESC LIMIT 4");
  expect(refused.map(({ entry }) => (JSON.parse(entry) as { reason: string }).reason)).toEqual(['unreadable', 'invalid', 'revoked', 'revoked']);
});

test("a scanner's marks are taken off a code; a listed code that begins like one is found (L3)", async () => {
  const code = `]x9${'Kq7-Zt4-Vw9-Rb2-Nd6-Hs3'}`;
  await inTenant(async (client) => {
    const event = await lockEvent(client, venue.eventId);
    if (event === null) throw new Error('no event');
    await writeTickets(client, venue.tenantId, event, [{ ticket_id: 'bracket', code }]);
  });
  expect((await scan({ code: `]Q1${ticket(37).code}` })).body).toMatchObject({ result: 'ALLOW', ticket_id: ticket(37).ticketId });
  expect((await scan({ code: `]Q2\\000026${ticket(38).code}` })).body).toMatchObject({ result: 'ALLOW', ticket_id: ticket(38).ticketId });
  expect((await scan({ code: ticket(38).code })).body).toMatchObject({ result: 'DENY', reason: 'already_redeemed' });
  expect((await scan({ code })).body).toMatchObject({ result: 'ALLOW', ticket_id: 'bracket' });
  expect((await scan({ code: `]C0${code}` })).body).toMatchObject({ result: 'DENY', reason: 'already_redeemed' });
});

test('a party goes in on one scan, and all of it counts', async () => {
  await ask('UPDATE tickets SET units = 4 WHERE ticket_id = $1', ['T-7']);
  expect((await scan({ code: ticket(7).code })).body).toMatchObject({ result: 'ALLOW', units: 4 });
  expect(await ask('SELECT units_used, units_uncertain, outcome FROM admissions WHERE ticket_id = $1', ['T-7'])).toEqual([
    { units_used: 4, units_uncertain: 0, outcome: 'passed' },
  ]);
});

test('K3: a party comes in parts, as at a gate; more than are left are refused with the count, and nothing is ignored', async () => {
  await ask('UPDATE tickets SET units = 4 WHERE ticket_id = $1', ['T-36']);
  const { code } = ticket(36);
  const inBits = (units: unknown, more: object = {}) => scan({ code, units, ...more }).then(({ status, body }) => ({ status, body }));
  expect(await inBits(1, { scan_id: 'k3' })).toMatchObject({ body: { result: 'ALLOW', type: 'first_entry', units: 1 } });
  expect(await scan({ code, units: 2, scan_id: 'k3' })).toMatchObject({ status: 409, body: { error: 'SCAN_ID_REUSED' } });
  expect(await inBits(4)).toMatchObject({ body: { result: 'DENY', reason: 'max_entries', explanation: '1 of 4 entries used' } });
  expect(await inBits(2)).toMatchObject({ body: { result: 'ALLOW', type: 'first_entry', units: 2 } });
  expect(await inBits(undefined)).toMatchObject({ body: { result: 'ALLOW', type: 'first_entry', units: 1 } });
  expect(await inBits(1)).toMatchObject({ body: { result: 'DENY', reason: 'already_redeemed' } });
  expect(await inBits(3, { direction: 'out' })).toMatchObject({ body: { result: 'ALLOW', type: 'exit', units: 3 } });
  for (const units of [0, 1.5, 101, '2']) expect(await inBits(units)).toMatchObject({ status: 400, body: { message: expect.stringContaining('units') } });
  expect(await ask('SELECT verdict, units_used FROM admissions WHERE ticket_id = $1 ORDER BY at', ['T-36'])).toEqual([
    { verdict: 'winner', units_used: 1 },
    { verdict: 'reentry', units_used: 2 },
    { verdict: 'reentry', units_used: 1 },
    { verdict: 'exit', units_used: 3 },
  ]);
  expect(await ask("SELECT count(*)::int AS n FROM conflicts WHERE ticket_id = 'T-36'")).toEqual([{ n: 0 }]);
});

test('K7: a scan without an event is for the one whose doors are open; where two would admit, that is flagged, or refused by policy', async () => {
  const own = await makeVenue(fresh.url, { event: 'TONIGHT', tickets: 4, gates: ['door'] });
  const [device] = own.gates as [string];
  const within = <T>(work: (client: DatabaseClient) => Promise<T>): Promise<T> => fresh.database.withTenant(own.tenantId, work);
  const token = (await within((client) => renewToken(client, device))) as string;
  const times = (event: string, fromH: number, policies = '{}') =>
    within((client) =>
      client.query('UPDATE events SET starts_at = now() + make_interval(hours => $2), ends_at = NULL, policies = $3 WHERE event_id = $1', [
        event,
        fromH,
        policies,
      ]),
    );
  await within(async (client) => {
    await client.query("INSERT INTO events (tenant_id, event_id, site_id, name, salt) SELECT tenant_id, 'OTHER', site_id, 'Other', salt FROM events");
    await client.query("INSERT INTO ticket_types (tenant_id, event_id, tier) VALUES (current_tenant_id(), 'OTHER', 'standard')");
    await client.query(
      "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier) SELECT tenant_id, 'OTHER', ticket_id, ticket_ref, tier FROM tickets",
    );
    await client.query("INSERT INTO gate_assignments (tenant_id, gate, event_id) VALUES (current_tenant_id(), $1, 'OTHER')", [device]);
  });
  const show = (n: number, more: object = {}) => scan({ code: own.tickets[n]?.code, device_id: device, event_id: undefined, ...more }, token);
  const eventOf = async (n: number) =>
    (await within((client) => client.query<{ event_id: string }>('SELECT event_id FROM admissions WHERE ticket_id = $1', [own.tickets[n]?.ticketId]))).rows;
  await times('TONIGHT', -1);
  await times('OTHER', -7 * 24);
  const first = await show(0, { scan_id: 'once' });
  expect(first.body).toMatchObject({ result: 'ALLOW' });
  expect(first.body).not.toHaveProperty('flags');
  expect(await eventOf(0)).toEqual([{ event_id: 'TONIGHT' }]);
  expect(await show(0, { scan_id: 'once' })).toEqual({ ...first, replayed: 'true' });
  await times('OTHER', 0);
  expect((await show(1)).body).toMatchObject({ result: 'ALLOW', flags: ['chosen_of_several'] });
  expect(await eventOf(1)).toEqual([{ event_id: 'OTHER' }]);
  await times('OTHER', 0, '{"event": {"ambiguous": "refuse"}}');
  expect((await show(2)).body).toMatchObject({ result: 'DENY', reason: 'ambiguous' });
  expect((await show(2, { event_id: 'TONIGHT' })).body).toMatchObject({ result: 'ALLOW' });
  expect((await show(3, { code: 'nobody-has-this-code' })).body).toMatchObject({ result: 'DENY', reason: 'invalid' });
  await within((client) => client.query('DELETE FROM gate_assignments'));
  expect(await show(3)).toMatchObject({ status: 403, body: { error: 'NOT_ASSIGNED' } });
});

test('a VIP pass enters and re-enters; the scanner shows when it came in last, its state stays', async () => {
  await ask('UPDATE tickets SET vip = true WHERE ticket_id = $1', ['T-9']);
  const { code } = ticket(9);
  expect((await scan({ code })).body).toMatchObject({ result: 'ALLOW', type: 'first_entry', vip: true });
  const [first] = await ask<{ at: Date }>("SELECT at FROM admissions WHERE ticket_id = 'T-9'");
  for (let n = 0; n < 2; n++)
    expect((await scan({ code })).body).toMatchObject({ result: 'ALLOW', type: 'reentry', vip: true, last_entry_at: expect.any(String) });
  expect((await scan({ code })).body['last_entry_at']).not.toBe(first?.at.toISOString());
  expect(await ask("SELECT status, scan_count FROM tickets WHERE ticket_id = 'T-9'")).toEqual([{ status: 'checked_in', scan_count: 4 }]);
  expect(await ask("SELECT verdict, count(*)::int AS n FROM admissions WHERE ticket_id = 'T-9' GROUP BY 1 ORDER BY 1")).toEqual([
    { verdict: 'reentry', n: 3 },
    { verdict: 'winner', n: 1 },
  ]);
  expect(await ask("SELECT scan_type, count(*)::int AS n FROM vip_scan_logs WHERE ticket_id = 'T-9' GROUP BY 1 ORDER BY 1")).toEqual([
    { scan_type: 'first_entry', n: 1 },
    { scan_type: 'reentry', n: 3 },
  ]);
});

test('a device asks in its own name alone, for an event that it is assigned', async () => {
  const { code } = ticket(8);
  expect(await scan({ code, device_id: venue.gates[1] })).toMatchObject({
    status: 403,
    body: { error: 'OTHER_DEVICE', message: expect.stringContaining('Device not found') },
  });
  expect(await scan({ code, device_id: 'nobody/here' })).toMatchObject({ status: 403, body: { error: 'OTHER_DEVICE' } });
  expect(await scan({ code, device_id: venue.gates[3] }, tokens[2])).toMatchObject({ status: 403, body: { error: 'NOT_ASSIGNED' } });
  expect(await scan({ code }, operator)).toMatchObject({ status: 403, body: { error: 'FORBIDDEN' } });
  expect(await scan({ code, event_id: 'another' })).toMatchObject({ status: 404, body: { error: 'NO_SUCH_EVENT' } });
  expect(await scan({})).toMatchObject({ status: 400, body: { error: 'BAD_REQUEST' } });
  expect(await scan({ code, scan_id: 'a\u0000' })).toMatchObject({ status: 400 });
  expect(await ask('SELECT count(*)::int AS n FROM admissions WHERE ticket_id = $1', ['T-8'])).toEqual([{ n: 0 }]);
});

test('signed codes: by their key, known or not yet; a bare id, another key and a revoked one open nothing', async () => {
  const [ours, others] = [generateKeyPairSync('ed25519'), generateKeyPairSync('ed25519')];
  const make = (ticketId: string, keyId = 'k1', key = ours.privateKey, eventId = venue.eventId) => {
    const { bytes, assemble } = encodeSigned({ keyId, eventId, ticketId, tier: 'standard', zone: null, validFromMs: null, validUntilMs: null });
    return assemble(sign(null, bytes, key));
  };
  const add = (keyId: string, pair: typeof ours) =>
    inTenant((client) =>
      addCodeKey(client, venue.tenantId, venue.eventId, {
        keyId,
        use: 'code',
        spki: pair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64'),
        notAfter: null,
      }),
    );
  expect(await add('k1', ours)).toEqual({ ok: true, changed: true });
  expect(await add('k2', others)).toEqual({ ok: true, changed: true });
  const id = '0b7e5a1c-2d3e-4f50-8a9b-0c1d2e3f4a5b';
  await inTenant(async (client) => {
    const event = await lockEvent(client, venue.eventId);
    await writeTickets(client, venue.tenantId, event as NonNullable<typeof event>, [{ ticket_id: id, code: id, tier: 'standard' }]);
  });
  expect((await scan({ code: id })).body).toMatchObject({ result: 'DENY', reason: 'invalid' });
  expect(await scan({ ticket_ref: refOf(Buffer.from(venue.salt, 'hex'), id) })).toMatchObject({ status: 400, body: { error: 'CODE_NEEDED' } });
  expect((await scan({ code: make(id, 'k1', others.privateKey) })).body).toMatchObject({ result: 'DENY', reason: 'invalid' });
  expect((await scan({ code: make(id, 'k1', ours.privateKey, 'another') })).body).toMatchObject({ result: 'DENY', reason: 'invalid' });
  expect((await scan({ code: make(id) })).body).toMatchObject({ result: 'ALLOW', ticket_id: id });
  expect((await scan({ code: make(id, 'k2', others.privateKey) })).body).toMatchObject({ result: 'DENY', reason: 'already_redeemed' });
  // Sold elsewhere, not yet told: recorded, and settled when the ticket appears.
  expect((await scan({ code: make('sold-later') })).body).toMatchObject({ result: 'ALLOW', flags: ['signature_only'], ticket_id: 'sold-later' });
  expect((await scan({ code: make('sold-later') })).body).toMatchObject({ result: 'DENY', reason: 'already_redeemed' });
  await inTenant(async (client) => {
    const event = await lockEvent(client, venue.eventId);
    await writeTickets(client, venue.tenantId, event as NonNullable<typeof event>, [{ ticket_id: 'sold-later', code: 'sold-later', tier: 'standard' }]);
  });
  expect(await ask('SELECT status, scan_count FROM tickets WHERE ticket_id = $1', ['sold-later'])).toEqual([{ status: 'checked_in', scan_count: 1 }]);
  await inTenant((client) => revokeCodeKey(client, venue.tenantId, venue.eventId, 'k1', { actor: 's-17', reason: 'lost' }));
  expect((await scan({ code: make('sold-after-the-loss') })).body).toMatchObject({ result: 'DENY', reason: 'invalid' });
  expect((await scan({ code: make('sold-by-the-other', 'k2', others.privateKey) })).body).toMatchObject({ result: 'ALLOW' });
  await inTenant((client) => revokeCodeKey(client, venue.tenantId, venue.eventId, 'k2', { actor: 's-17', reason: 'lost' }));
  expect((await scan({ code: id })).body).toMatchObject({ result: 'DENY', reason: 'invalid' });
});

test("an online scan sees nothing of another tenant: its event's codes are unknown, its scans are not repeats", async () => {
  const theirs = await makeVenue(fresh.url, { tickets: 1, gates: ['scanner-1'], event: 'THEIRS' });
  const token = (await fresh.database.withTenant(theirs.tenantId, (client) => renewToken(client, theirs.gates[0] as string))) as string;
  const { code } = theirs.tickets[0] as TestTicket;
  expect(await scan({ code, event_id: 'THEIRS' })).toMatchObject({ status: 404 });
  expect((await scan({ code, scan_id: 's-1', event_id: 'THEIRS', device_id: theirs.gates[0] }, token)).body).toMatchObject({ result: 'ALLOW' });
  expect(await ask('SELECT count(*)::int AS n FROM device_scans WHERE event_id = $1', ['THEIRS'])).toEqual([{ n: 0 }]);
});

test('an entry that a gate commits while a scan decides is not overlooked: decided anew, refused, no conflict', async () => {
  const own = await makeVenue(fresh.url, { site: 'race', event: 'RACE', tickets: 1, gates: ['scanner-1', 'north'] });
  const within = <T>(work: (client: DatabaseClient) => Promise<T>): Promise<T> => fresh.database.withTenant(own.tenantId, work);
  const ledger = testLedger(own, 1);
  ledger.grant(own.tickets[0] as TestTicket, 1_000);
  let decisions = 0;
  const result = await within(async (client) => {
    const event = (await eventRights(client, own.eventId)) as NonNullable<Awaited<ReturnType<typeof eventRights>>>;
    // Between what it knows and its row, the first time.
    const overtaken: DatabaseClient = {
      async query(text, values) {
        if (text === 'SAVEPOINT scan' && ++decisions === 1) await within((other) => reconcile(other, ledger.rows()));
        return client.query(text, values);
      },
    };
    const scanned = { device: own.gates[0] as string, scanId: 'r-1', seen: { code: own.tickets[0]?.code as string }, direction: 'in' as const };
    const sources = { rights: { event: eventRights, ticket: ticketRight }, verify: createVerify() };
    return scanOnline(overtaken, sources, event, scanned, { nowMs: Date.now, elapsedMs: () => 1 });
  });
  expect(result).toMatchObject({ ok: true, answer: { result: 'DENY', reason: 'already_redeemed' } });
  expect(decisions).toBe(2);
  expect((await within((client) => client.query('SELECT * FROM conflicts'))).rows).toEqual([]);
  expect((await within((client) => client.query("SELECT kind FROM ledger_rows WHERE gate LIKE 'race/@%'"))).rows).toEqual([{ kind: 'refusal' }]);
});

test('every scanner is judged in its own name: its own policy, its own limit for each gate; at the doors in SQL as well', async () => {
  const site = 'by-name';
  const own = await makeVenue(fresh.url, {
    site,
    event: 'BY-NAME',
    tickets: 2,
    gates: ['scanner-1', 'scanner-2'],
    policies: {
      event: { duplicate_window_s: 0, reentry: { rule: 'always' }, entries: { per_gate: 1 } },
      gates: { [`${site}/scanner-2`]: { entries: { per_gate: 3 } } },
    },
  });
  const within = <T>(work: (client: DatabaseClient) => Promise<T>): Promise<T> => fresh.database.withTenant(own.tenantId, work);
  const bearers = await within(async (client) => [await renewToken(client, own.gates[0] as string), await renewToken(client, own.gates[1] as string)]);
  const at = async (n: 0 | 1) => {
    const body = { code: own.tickets[0]?.code, event_id: own.eventId, device_id: own.gates[n] };
    return (await scan(body, bearers[n] as string)).body['result'];
  };
  expect([await at(0), await at(1), await at(1), await at(0), await at(1), await at(1)]).toEqual(['ALLOW', 'ALLOW', 'ALLOW', 'DENY', 'ALLOW', 'DENY']);

  const door = async (n: 0 | 1) =>
    (await within((client) => client.query<{ allowed: boolean }>('SELECT allowed FROM scan_ticket_atomic($1, device => $2)', ['T-2', own.gates[n]]))).rows[0]
      ?.allowed;
  expect([await door(0), await door(1), await door(0), await door(1), await door(1), await door(1)]).toEqual([true, true, false, true, true, false]);

  const { rows } = await within((client) => client.query('SELECT scanner, verdict, count(*)::int AS n FROM admissions GROUP BY 1, 2 ORDER BY 1, 2'));
  expect(rows).toEqual([
    { scanner: own.gates[0], verdict: 'winner', n: 2 },
    { scanner: own.gates[1], verdict: 'reentry', n: 6 },
  ]);
  expect((await within((client) => client.query('SELECT * FROM conflicts'))).rows).toEqual([]);
});

test('T12: a ticket blocked with words that end within an emoji is refused in words, and the refusal is recorded', async () => {
  const { code, ticketId } = ticket(30);
  const note = `${'x'.repeat(127)}\u{1F600}`;
  await ask('UPDATE tickets SET blocked = true, note = $2 WHERE ticket_id = $1', [ticketId, note]);
  expect(await scan({ code })).toMatchObject({
    status: 200,
    body: { result: 'DENY', reason: 'blocked', explanation: `the ticket is blocked: ${'x'.repeat(127)}` },
  });
  expect(await ask("SELECT entry::json ->> 'explanation' AS said FROM ledger_rows WHERE kind = 'refusal' AND ticket_id = $1", [ticketId])).toEqual([
    { said: `the ticket is blocked: ${'x'.repeat(127)}` },
  ]);
});

test('T12: a refusal whose words cannot be written is written without them', async () => {
  const words = { explanation: 'half \ud83d', facts: { note: '\udc00' } };
  const [row] = (await inTenant((client) => appendCloudRows(client, venue.site, [{ kind: 'refusal', reason: 'blocked', direction: 'in', ...words }]))).rows;
  expect(row?.known).toMatchObject({ kind: 'refusal', reason: 'blocked', explanation: 'the ticket is blocked' });
  expect(row?.entry).not.toHaveProperty('facts');
});
