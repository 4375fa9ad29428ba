import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { BOOT_MS, type TestLedger, testLedger } from '../../testkit/ledgers.ts';
import { newToken, OPERATOR_TOKEN_PREFIX, renewToken } from '../devices/assignment.ts';
import type { App } from '../http/server.ts';
import { applyAction } from '../tickets/actions.ts';
import { reconcile } from './reconcile.ts';
import { registerReconcileRoutes } from './routes.ts';

let fresh: FreshDatabase;
let venue: Venue;
let ledger: TestLedger;
let app: App;
let device: string;
let operator: string;
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url, { tickets: 5 });
  ledger = testLedger(venue, 0);
  const made = newToken(OPERATOR_TOKEN_PREFIX);
  operator = made.token;
  device = (await fresh.database.withTenant(venue.tenantId, async (client) => {
    await client.query("INSERT INTO operator_tokens (tenant_id, token_sha256, name, actor) VALUES ($1, $2, 'anna', 's-17')", [venue.tenantId, made.sha256]);
    return renewToken(client, venue.gates[1] as string);
  })) as string;
  app = await createTestHttp(fresh.database, { deviceNameHeader: 'x-client-cn', ratePerMinute: 20 });
  registerReconcileRoutes(app, { database: fresh.database });
});
afterAll(async () => {
  await app.close();
  await fresh.drop();
});
const get = async (url: string, token = operator) => {
  const response = await app.inject({ url, headers: { authorization: `Bearer ${token}` } });
  return { status: response.statusCode, body: response.json() as Record<string, unknown> };
};
const ticket = (n: number) => venue.tickets[n - 1] as TestTicket;

test('the routes return and settle what gates recorded, and gates read on from it', async () => {
  const open = ledger.grant(ticket(1), 1_000);
  ledger.passage(open, 7_000, 'unknown');
  ledger.add('refusal', 9_000, {
    reason: 'zone',
    explanation: 'the ticket is for zone B',
    event_id: venue.eventId,
    ticket_id: 'T-2',
    ticket_ref: ticket(2).ticketRef,
    direction: 'in',
  });
  await fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, ledger.rows()));

  const since = new Date(BOOT_MS).toISOString();
  expect(await get(`/refusals?since=${since}`)).toMatchObject({
    status: 200,
    body: { refusals: [{ gate: ledger.gate, epoch: 1, seq: 3, reason: 'zone', explanation: 'the ticket is for zone B', ticket_id: 'T-2' }] },
  });
  expect((await get(`/refusals?since=${since}&gate=${venue.gates[1]}`)).body['refusals']).toEqual([]);
  expect((await get(`/events/${venue.eventId}/occupancy`)).body).toMatchObject({
    ...{ entries: 1, inside: 1, uncertain: 1 },
    warnings: [expect.stringMatching(/^event EV1 has no end, and its tickets open its gates for ever: /)],
  });

  const settle = (payload: object, seq = 1) =>
    app.inject({ method: 'POST', url: `/grants/${ledger.gate}/1/${seq}/settle`, headers: { authorization: `Bearer ${operator}` }, payload });
  expect((await settle({ outcome: 'returned', actor: 's-18', reason: 'never came in' })).json()).toMatchObject({ success: false, error: 'OTHER_ACTOR' });
  expect((await settle({ outcome: 'returned', actor: 's-17', reason: 'never came in' }, 77)).json()).toMatchObject({ error: 'NO_SUCH_GRANT' });
  expect((await settle({ outcome: 'returned', actor: 's-17', reason: 'never came in' })).json()).toMatchObject({
    success: true,
    row: [`${venue.site}/cloud`, expect.any(Number), 1],
  });
  expect((await get(`/events/${venue.eventId}/occupancy`)).body).toMatchObject({ entries: 0, inside: 0, uncertain: 0 });

  const after = encodeURIComponent(JSON.stringify({ [ledger.gate]: [1, 2] }));
  const { body } = await get(`/sites/${venue.site}/ledger?after=${after}`, device);
  expect(body).toMatchObject({
    more: false,
    rows: [
      { gate: `${venue.site}/cloud`, entry: { kind: 'settlement', of: [ledger.gate, 1, 1], outcome: 'returned' } },
      { gate: ledger.gate, entry: { seq: 3, hash: ledger.entries[2]?.hash } },
    ],
  });

  await fresh.database.withTenant(venue.tenantId, (client) =>
    applyAction(client, venue.tenantId, { ticketId: 'T-1', action: 'revoke', actor: 's-17', reason: 'charge-back' }),
  );
  const { history } = (await get('/tickets/T-1/history')).body as { history: { kind: string; text: string }[] };
  expect(history.map(({ kind }) => kind)).toEqual(['grant', 'passage', 'settlement', 'revoke']);
  expect(history.at(-1)?.text).toBe('revoke by s-17: charge-back');
});

test("a trusted proxy's word on a certificate is an identity, but not beside a wrong token, and not of a revoked gate", async () => {
  const as = (headers: Record<string, string>) => app.inject({ url: `/sites/${venue.site}/ledger`, headers }).then(({ statusCode }) => statusCode);
  expect(await as({ 'x-client-cn': venue.gates[0] as string })).toBe(200);
  expect(await as({ 'x-client-cn': 'nobody/here' })).toBe(401);
  expect(await as({ 'x-client-cn': venue.gates[0] as string, authorization: 'Bearer stile-device-wrong-token' })).toBe(401);
  await fresh.database.withTenant(venue.tenantId, (client) => client.query('UPDATE devices SET revoked_at = now() WHERE name = $1', [venue.gates[0]]));
  expect(await as({ 'x-client-cn': venue.gates[0] as string })).toBe(401);
});

test('the server throttles callers that ask too often, wrong tokens included', async () => {
  const asked: { status: number; body: Record<string, unknown> }[] = [];
  for (let n = 0; n < 25; n++) asked.push(await get('/conflicts', 'stile-operator-not-a-token'));
  const statuses = asked.map(({ status }) => status);
  // Wrong tokens that others tried from this address count as well.
  expect([...new Set(statuses)]).toEqual([401, 429]);
  expect(statuses.slice(20)).toEqual(Array(5).fill(429));
  expect(asked.at(-1)?.body).toMatchObject({ success: false, error: 'TOO_MANY_REQUESTS', message: expect.stringContaining('at most 20 ') });
});
