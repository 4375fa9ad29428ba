/** What holds for every route: limits of requests by caller, answers kept under a key, and words that help. */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { newToken, OPERATOR_TOKEN_PREFIX } from '../devices/assignment.ts';
import { registerTicketRoutes } from '../tickets/routes.ts';
import type { App } from './server.ts';

let fresh: FreshDatabase;
let venue: Venue;
const apps: App[] = [];
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url, { tickets: 0 });
});
afterAll(async () => {
  for (const app of apps) await app.close();
  await fresh.drop();
});

async function start(ratePerMinute: number): Promise<App> {
  const app = await createTestHttp(fresh.database, { ratePerMinute });
  registerTicketRoutes(app, { database: fresh.database });
  apps.push(app);
  return app;
}
async function operator(name: string): Promise<string> {
  const made = newToken(OPERATOR_TOKEN_PREFIX);
  await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query('INSERT INTO operator_tokens (tenant_id, token_sha256, name) VALUES ($1, $2, $3)', [venue.tenantId, made.sha256, name]),
  );
  return made.token;
}
const put = (app: App, token: string, payload: object, headers: Record<string, string> = {}) =>
  app.inject({ method: 'PUT', url: '/tickets', headers: { authorization: `Bearer ${token}`, ...headers }, payload });
const ticket = (id: string) => ({ tickets: [{ ticket_id: id, event_id: venue.eventId, code: randomBytes(16).toString('base64url'), tier: 'standard' }] });

test('every caller has its own limit of requests; beyond it, it is told when to come again, and the open paths stay open', async () => {
  const app = await start(5);
  const [anna, bert] = [await operator('anna'), await operator('bert')];
  const statuses = async (token: string, times: number) => {
    const all: number[] = [];
    for (let n = 0; n < times; n++) all.push((await put(app, token, {})).statusCode);
    return all;
  };
  expect(await statuses(anna, 7)).toEqual([400, 400, 400, 400, 400, 429, 429]);
  const late = await put(app, anna, {});
  expect(late.json()).toEqual({ success: false, error: 'TOO_MANY_REQUESTS', message: expect.stringMatching(/^at most 5 requests a minute: try again in /) });
  expect(Number(late.headers['retry-after'])).toBeGreaterThan(0);
  expect(await statuses(bert, 2)).toEqual([400, 400]);
  // Wrong tokens are counted by address. Who is good is let in all the same, known or new.
  const guess = async () => (await put(app, `stile-operator-${randomBytes(32).toString('base64url')}`, {})).statusCode;
  expect([await guess(), await guess(), await guess(), await guess(), await guess(), await guess()]).toEqual([401, 401, 401, 401, 401, 429]);
  expect(await statuses(bert, 1)).toEqual([400]);
  expect(await statuses(await operator('emil'), 1)).toEqual([400]);
  for (let n = 0; n < 10; n++) expect((await app.inject({ url: '/healthz' })).statusCode).toBe(200);
});

test('of different writes under one key at the same moment one is done; the others are told so, and change nothing', async () => {
  const app = await start(100_000);
  const token = await operator('carl');
  for (let round = 0; round < 5; round++) {
    const bodies = Array.from({ length: 8 }, (_, n) => ticket(`R${round}-${n % 4}`));
    const same = bodies[0] as object;
    const answers = await Promise.all([...bodies, same, same].map((body) => put(app, token, body, { 'idempotency-key': `round-${round}` })));
    const done = answers.filter(({ statusCode }) => statusCode === 200);
    const refused = answers.filter(({ statusCode }) => statusCode === 409);
    expect(done.length + refused.length).toBe(10);
    expect(new Set(done.map(({ body }) => body)).size).toBe(1);
    expect(done.filter(({ headers }) => headers['idempotency-replayed'] === undefined)).toHaveLength(1);
    for (const { body } of refused) expect(JSON.parse(body)).toMatchObject({ error: 'IDEMPOTENCY_KEY_REUSED' });
    const { rows } = await fresh.database.withTenant(venue.tenantId, (client) =>
      client.query('SELECT 1 FROM tickets WHERE ticket_id LIKE $1', [`R${round}-%`]),
    );
    expect(rows).toHaveLength(1);
  }
});

test('a refusal explains the errors of a body field by field', async () => {
  const app = await start(100_000);
  const token = await operator('dora');
  const said = async (payload: object) => ((await put(app, token, payload)).json() as { message: string }).message;
  expect(await said({})).toBe('tickets: is missing: give a list');
  expect(await said({ tickets: [] })).toMatch(/^tickets: must have at least 1 entries$/);
  expect(await said({ tickets: [{ ticket_id: 7, event_id: '' }] })).toMatch(/tickets\.0\.ticket_id: must be a text in quotes/);
  for (const message of [await said({}), await said({ tickets: 'none' }), await said({ tickets: [7] }), await said({ tickets: [{ ticket_id: 'a b' }] })])
    expect(message).not.toMatch(/Invalid|Too small|expected|received/);
});

test('M1: a route that does not say who may call it stops the start', async () => {
  const app = await createTestHttp(fresh.database, {});
  expect(() => app.get('/forgotten', async () => ({}))).toThrow(/does not say who may call it/);
  await app.close();
});
