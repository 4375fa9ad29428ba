/** Writes over HTTP that give a part of a thing: what is absent stays as it was, and what is not known is refused by its name. */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { newToken, OPERATOR_TOKEN_PREFIX } from '../devices/assignment.ts';
import { registerDeviceRoutes } from '../devices/routes.ts';
import type { App } from '../http/server.ts';
import { registerManifestRoutes } from '../manifest/routes.ts';
import { signerOf } from '../manifest/signing-key.ts';
import { manifestUsage } from '../reconcile/usage.ts';
import { registerTicketRoutes } from './routes.ts';

let fresh: FreshDatabase;
let venue: Venue;
let app: App;
let token: string;
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url, { tickets: 0 });
  const made = newToken(OPERATOR_TOKEN_PREFIX);
  token = made.token;
  await query('INSERT INTO operator_tokens (tenant_id, token_sha256, name) VALUES (current_tenant_id(), $1, $2)', [made.sha256, 'anna']);
  app = await createTestHttp(fresh.database);
  const signer = signerOf(generateKeyPairSync('ed25519').privateKey);
  registerManifestRoutes(app, { database: fresh.database, signer, keys: [], readUsage: manifestUsage, ttlHours: 24 });
  registerDeviceRoutes(app, { database: fresh.database, requests: null });
  registerTicketRoutes(app, { database: fresh.database });
});
afterAll(async () => {
  await app.close();
  await fresh.drop();
});

async function query<Row>(text: string, values: unknown[] = []): Promise<Row[]> {
  return (await fresh.database.withTenant(venue.tenantId, (client) => client.query<Row>(text, values))).rows;
}
async function put(url: string, payload: object): Promise<{ readonly status: number; readonly body: Record<string, unknown> }> {
  const response = await app.inject({ method: 'PUT', url, headers: { authorization: `Bearer ${token}` }, payload });
  return { status: response.statusCode, body: response.json() };
}
const code = () => randomBytes(16).toString('base64url');

const EVENT = {
  name: 'A',
  starts_at: '2027-05-01T18:00:00.000Z',
  ends_at: '2027-05-01T22:00:00.000Z',
  time_zone: 'Europe/Berlin',
  policies: { event: { reentry: { rule: 'after_exit', min_gap_s: 60 } }, tiers: { vip: { unpaid: 'admit' } }, gates: { 'arena/north': { zones: ['A'] } } },
};
const stored = async (id: string) =>
  (await query<Record<string, unknown>>('SELECT site_id, name, starts_at, ends_at, time_zone, policies FROM events WHERE event_id = $1', [id]))[0];

test('K1: one field of an event is written, and every other stays', async () => {
  const parts: Record<string, unknown>[] = [
    { name: 'B' },
    { starts_at: '2027-05-01T19:00:00.000Z' },
    { ends_at: '2027-05-02T01:00:00.000Z' },
    { time_zone: 'Europe/Paris' },
    { policies: { event: { entries: { total: 2 } } } },
    {},
  ];
  await put('/events/K1', { ...EVENT, site: venue.site });
  for (const part of parts) {
    const before = await stored('K1');
    expect({ part, ...(await put('/events/K1', part)) }).toMatchObject({ status: 200 });
    const times = Object.fromEntries(Object.entries(part).map(([key, value]) => [key, key.endsWith('_at') ? new Date(value as string) : value]));
    expect({ part, now: await stored('K1') }).toEqual({ part, now: { ...before, ...times } });
  }
  // What a policy does not say is said by nobody: no default of a schema is written down.
  expect((await stored('K1'))?.['policies']).toEqual({ event: { entries: { total: 2 } } });
});

const TICKET = {
  tier: 'vip',
  zone: 'A',
  status: 'sold',
  blocked: true,
  approved: false,
  vip: true,
  note: 'wheelchair',
  max_scans: 3,
  units: 4,
  valid_from: '2027-05-01T10:00:00.000Z',
  valid_until: '2027-05-02T10:00:00.000Z',
  ticket_number: 'N-1',
  user_id: 'u-77',
  price_cents: 4550,
  section: 'West',
  seat_row: '12',
  seat: '7b',
};
const FIELDS = Object.keys(TICKET);
const ticketRow = async (id: string) =>
  (await query<Record<string, unknown>>(`SELECT ${FIELDS.join(', ')} FROM tickets WHERE ticket_id = $1`, [id]))[0] as Record<string, unknown>;

test('K1: every field of a ticket is kept, and none is reset by a write that names another', async () => {
  const known = { ticket_id: 'T-1', event_id: venue.eventId, tier: 'vip' };
  expect(await put('/tickets', { tickets: [{ ...known, ...TICKET, code: code() }] })).toMatchObject({ status: 200, body: { created: 1 } });
  const dated = { ...TICKET, valid_from: new Date(TICKET.valid_from), valid_until: new Date(TICKET.valid_until) };
  expect(await ticketRow('T-1')).toEqual(dated);
  expect(await put('/tickets', { tickets: [known] })).toMatchObject({ status: 200, body: { unchanged: 1 } });
  const others: Record<string, unknown> = {
    ...{ tier: 'gold', zone: 'B', status: 'reserved', blocked: false, approved: true, vip: false, note: null, max_scans: null, units: 1 },
    ...{ valid_from: null, valid_until: null, ticket_number: 'N-2', user_id: null, price_cents: 0, section: null, seat_row: null, seat: '8' },
  };
  let expected: Record<string, unknown> = dated;
  for (const field of FIELDS) {
    expected = { ...expected, [field]: others[field] };
    expect({ field, ...(await put('/tickets', { tickets: [{ ...known, tier: expected['tier'], [field]: others[field] }] })) }).toMatchObject({
      body: { updated: 1 },
    });
    expect({ field, row: await ticketRow('T-1') }).toEqual({ field, row: expected });
  }
});

test('K1: a write refuses unknown fields by name, and changes nothing', async () => {
  const ticket = { ticket_id: 'T-9', event_id: venue.eventId, tier: 'vip', code: code() };
  const cases: [string, object, RegExp][] = [
    ['/tickets', { tickets: [{ ...ticket, seats: '7b' }] }, /tickets\.0.*seats/],
    ['/tickets', { tickets: [ticket], dry_run: true }, /dry_run/],
    ['/tickets', { tickets: [{ ...ticket, price_cents: -1 }] }, /tickets\.0\.price_cents/],
    ['/tickets', { tickets: [{ ...ticket, seat: 'x'.repeat(65) }] }, /tickets\.0\.seat/],
    ['/events/K1-NEW', { ...EVENT, end_at: EVENT.ends_at }, /end_at/],
    [`/gates/${venue.site}/north/assignment`, { event_ids: [venue.eventId], zone: ['A'] }, /zone/],
  ];
  for (const [url, body, message] of cases)
    expect({ url, ...(await put(url, body)) }).toMatchObject({ url, status: 400, body: { error: 'BAD_REQUEST', message: expect.stringMatching(message) } });
  expect(await query("SELECT 1 FROM tickets WHERE ticket_id = 'T-9'")).toEqual([]);
  expect(await stored('K1-NEW')).toBeUndefined();
});

test('K1: a gate that is given another event keeps what it serves of the first', async () => {
  const url = `/gates/${venue.site}/north/assignment`;
  await put('/events/K1-2', { ...EVENT, site: venue.site });
  const serves = () => query("SELECT event_id, zones, tiers FROM gate_assignments WHERE gate LIKE '%/north' ORDER BY event_id");
  await put(url, { event_ids: [venue.eventId], zones: ['A'], tiers: ['vip'] });
  expect(await put(url, { event_ids: [venue.eventId, 'K1-2'] })).toMatchObject({ status: 200 });
  expect(await serves()).toEqual([
    { event_id: venue.eventId, zones: ['A'], tiers: ['vip'] },
    { event_id: 'K1-2', zones: null, tiers: null },
  ]);
  await put(url, { event_ids: [venue.eventId], zones: null });
  expect(await serves()).toEqual([{ event_id: venue.eventId, zones: null, tiers: ['vip'] }]);
});

test('K2: an id, a code or a number that stands twice in one request is told by its place, and nothing is written', async () => {
  const ticket = (id: string, more: object = {}) => ({ ticket_id: id, event_id: venue.eventId, tier: 'vip', code: code(), ...more });
  const same = code();
  const cases: [object[], string][] = [
    [[ticket('D-1'), ticket('D-2'), ticket('D-1')], 'tickets.2.ticket_id'],
    [[ticket('D-1', { code: same }), ticket('D-2', { code: same })], 'tickets.1.code'],
    [[ticket('D-1', { ticket_number: 'N-9' }), ticket('D-2', { ticket_number: 'N-9' })], 'tickets.1.ticket_number'],
  ];
  for (const [tickets, place] of cases)
    expect(await put('/tickets', { tickets })).toMatchObject({ status: 409, body: { error: 'CONFLICT', message: expect.stringContaining(`${place}: `) } });
  expect(await query("SELECT 1 FROM tickets WHERE ticket_id LIKE 'D-%'")).toEqual([]);
});

test('K6: an event without an end ends 12 h after its beginning, and that is said; without either it is refused', async () => {
  expect(await put('/events/K6', { name: 'No times' })).toMatchObject({ status: 400, body: { error: 'ENDS_AT_NEEDED' } });
  expect(await stored('K6')).toBeUndefined();
  const starts = '2027-05-01T18:00:00.000Z';
  expect(await put('/events/K6', { starts_at: starts })).toMatchObject({
    status: 201,
    body: { ends_at: '2027-05-02T06:00:00.000Z', ends_at_default: true, message: expect.stringContaining('12 h') },
  });
  // The end that nobody gave goes with the beginning; one that was given stays.
  expect((await put('/events/K6', { starts_at: '2027-06-01T18:00:00.000Z' })).body).toMatchObject({
    ends_at: '2027-06-02T06:00:00.000Z',
    ends_at_default: true,
  });
  expect((await put('/events/K6', { ends_at: '2027-06-01T23:00:00.000Z' })).body).not.toHaveProperty('ends_at_default');
  expect((await put('/events/K6', { starts_at: '2027-06-01T17:00:00.000Z' })).body).toMatchObject({ ends_at: '2027-06-01T23:00:00.000Z' });
  expect((await put('/events/K6', { ends_at: null })).body).toMatchObject({ ends_at: '2027-06-02T05:00:00.000Z', ends_at_default: true });
  expect(await put('/events/K6', { starts_at: null, ends_at: null })).toMatchObject({ status: 400, body: { error: 'ENDS_AT_NEEDED' } });
  // One that has neither, from before: written on, and warned of.
  expect(await put(`/events/${venue.eventId}`, { name: 'Old' })).toMatchObject({ status: 200, body: { warnings: [expect.stringContaining('has no end')] } });
});

test('K4: a write refuses what is no code, or repeats itself at any length, as an import does', async () => {
  for (const bad of ['N/A', '#REF!', '1.00E+11', 'AB'.repeat(60), '0123456789'.repeat(10)])
    expect({ bad, ...(await put('/tickets', { tickets: [{ ticket_id: 'W-1', event_id: venue.eventId, tier: 'vip', code: bad }] })) }).toMatchObject({
      bad,
      status: 400,
      body: { error: 'WEAK_CODE', message: expect.stringMatching(/^tickets\.0\.code: /) },
    });
});
