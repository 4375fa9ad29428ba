/** Strangers at the HTTP interface, over real connections: what they may cost, and whom they keep out. */
import { randomBytes } from 'node:crypto';
import { type Agent, createServer, Agent as HttpAgent, request as httpRequest, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { registerConsole } from '../console/routes.ts';
import { DEVICE_TOKEN_PREFIX, ENROLMENT_TOKEN_PREFIX, newToken, OPERATOR_TOKEN_PREFIX, renewToken } from '../devices/assignment.ts';
import { registerEnrolment } from '../devices/enrolment.ts';
import { registerDeviceRoutes } from '../devices/routes.ts';
import { registerReconcileRoutes } from '../reconcile/routes.ts';
import { registerTicketRoutes } from '../tickets/routes.ts';
import type { App } from './server.ts';

const STRANGER = '203.0.113.9';
const VENUE = '198.51.100.7';

let fresh: FreshDatabase;
let venue: Venue;
const opened: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url, { tickets: 1 });
});
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});
afterAll(() => fresh.drop());

async function start(options: Parameters<typeof createTestHttp>[1] = {}): Promise<{ url: string; app: App }> {
  const app = await createTestHttp(fresh.database, options);
  registerEnrolment(app, {
    database: fresh.database,
    authority: { ca: 'CA', sign: async () => null, revocationList: async () => '', shortIdentity: async () => ({ certificate: '', key: '' }) },
    keys: [],
    broker: null,
  });
  registerDeviceRoutes(app, { database: fresh.database, requests: null });
  registerTicketRoutes(app, { database: fresh.database });
  registerReconcileRoutes(app, { database: fresh.database });
  registerConsole(app);
  await app.listen({ host: '127.0.0.1', port: 0 });
  opened.push(() => app.close());
  return { url: `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`, app };
}

/** As nginx and Caddy do it: adds the caller's address to whatever the caller says of itself. `x-test-address` stands for the address that the caller comes from. */
async function proxyBefore(target: string): Promise<string> {
  const agent = new HttpAgent({ keepAlive: true, maxSockets: 16 });
  const server: Server = createServer((incoming, outgoing) => {
    const { 'x-test-address': address, 'x-forwarded-for': said, ...headers } = incoming.headers;
    const forwarded = { ...headers, 'x-forwarded-for': said === undefined ? String(address) : `${said}, ${address}` };
    const onward = httpRequest(`${target}${incoming.url}`, { method: incoming.method as string, headers: forwarded, agent }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(outgoing);
    });
    onward.on('error', () => outgoing.destroy());
    incoming.pipe(onward);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  opened.push(async () => {
    server.closeAllConnections();
    agent.destroy();
    await new Promise((done) => server.close(done));
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

interface Sent {
  readonly method?: string;
  readonly token?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string;
  readonly agent?: Agent;
}
function send(url: string, { method = 'GET', token, headers = {}, body, agent }: Sent = {}): Promise<{ status: number; body: Record<string, unknown> }> {
  return new Promise((done, fail) => {
    const request = httpRequest(
      url,
      {
        method,
        ...(agent === undefined ? {} : { agent }),
        headers: {
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
      },
      (answer) => {
        let text = '';
        answer.setEncoding('utf8');
        answer.on('data', (chunk) => (text += chunk));
        answer.on('error', fail);
        answer.on('end', () => done({ status: answer.statusCode ?? 0, body: text.startsWith('{') ? JSON.parse(text) : { text } }));
      },
    );
    request.on('error', fail);
    request.end(body);
  });
}
const operator = async (name: string) => {
  const { token, sha256 } = newToken(OPERATOR_TOKEN_PREFIX);
  await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query('INSERT INTO operator_tokens (tenant_id, token_sha256, name) VALUES ($1, $2, $3)', [venue.tenantId, sha256, name]),
  );
  return token;
};
const gateToken = async () => (await fresh.database.withTenant(venue.tenantId, (client) => renewToken(client, venue.gates[0] as string))) as string;
const enrolToken = async () => {
  const { token, sha256 } = newToken(ENROLMENT_TOKEN_PREFIX);
  await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query("INSERT INTO enrolment_tokens (tenant_id, token_sha256, device, expires_at) VALUES ($1, $2, $3, now() + interval '1 hour')", [
      venue.tenantId,
      sha256,
      venue.gates[0],
    ]),
  );
  return token;
};
const wrong = (prefix: string) => prefix + randomBytes(32).toString('base64url');
const brackets = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);

test('S1: a megabyte at /enroll is refused unread, and so is every body beyond its route, before anybody is asked who he is', async () => {
  const { url } = await start();
  const chunked = { 'transfer-encoding': 'chunked' };
  for (const headers of [{}, chunked] as Record<string, string>[])
    expect(
      await send(`${url}/enroll`, { method: 'POST', body: `{"token":"${'x'.repeat(20)}","csr":"","a":${brackets(2_000_000)}}`, headers }).catch(() => ({
        status: 413,
      })),
    ).toMatchObject({ status: 413 });
  expect(await send(`${url}/enroll`, { method: 'POST', body: `{"token":"${'x'.repeat(20)}","csr":"${'y'.repeat(16 * 1024)}"}` })).toMatchObject({
    status: 413,
    body: { error: 'TOO_LARGE', message: expect.stringContaining('16384 bytes') },
  });
  // Where there is no route, nothing large is read either.
  expect(await send(`${url}/nothing`, { method: 'POST', body: ' '.repeat(17 * 1024) })).toMatchObject({ status: 413 });
  // A large upload stays possible where it belongs.
  const large = `{"tickets":[]${' '.repeat(3 * 1024 * 1024)}}`;
  expect((await send(`${url}/tickets`, { method: 'PUT', body: large }).catch(() => ({ status: 401 }))).status).toBe(401);
  expect(await send(`${url}/tickets`, { method: 'PUT', body: large, token: await operator('s1') })).toMatchObject({
    status: 400,
    body: { message: /^tickets: / },
  });
});

test('S1: a body that is nested too deep is refused before it is parsed, whoever sends it', async () => {
  const { url } = await start();
  const token = await operator('s1-deep');
  const deep = { status: 400, body: { error: 'BAD_REQUEST', message: 'the body is nested deeper than 32' } };
  expect(await send(`${url}/enroll`, { method: 'POST', body: brackets(8_000) })).toMatchObject(deep);
  expect(await send(`${url}/tickets`, { method: 'PUT', token, body: `{"tickets":${brackets(1_000_000)}}` })).toMatchObject(deep);
  // No brackets that end it, and brackets that stand in a text.
  expect(await send(`${url}/tickets`, { method: 'PUT', token, body: '{"a":'.repeat(100_000) })).toMatchObject(deep);
  expect(await send(`${url}/tickets`, { method: 'PUT', token, body: JSON.stringify({ tickets: brackets(1_000) }) })).toMatchObject({
    status: 400,
    body: { message: /^tickets: / },
  });
});

test('S1: /enroll refuses what it does not know', async () => {
  const { url } = await start();
  expect(await send(`${url}/enroll`, { method: 'POST', body: JSON.stringify({ token: await enrolToken(), csr: '', more: [] }) })).toMatchObject({
    status: 400,
    body: { error: 'BAD_REQUEST', message: expect.stringContaining('more') },
  });
});

test('S1: a new Authorization header, address or name each time makes no new caller; who holds a good token enrols all the same', async () => {
  const { url } = await start({ ratePerMinute: 20 });
  const proxy = await proxyBefore(url);
  const good = await enrolToken();
  const statuses: number[] = [];
  for (let n = 0; n < 25; n++)
    statuses.push(
      (
        await send(`${proxy}/enroll`, {
          method: 'POST',
          token: wrong(n % 2 === 0 ? ENROLMENT_TOKEN_PREFIX : 'Basic-'),
          headers: { 'x-test-address': STRANGER, 'x-forwarded-for': `192.0.2.${n}`, 'x-client-cn': `arena/north-${n}` },
          body: JSON.stringify({ token: wrong(ENROLMENT_TOKEN_PREFIX), csr: 'x' }),
        })
      ).status,
    );
  expect(statuses).toEqual([...Array(20).fill(401), ...Array(5).fill(429)]);
  const rubbish = { method: 'POST', body: '{}', headers: { 'x-test-address': STRANGER } };
  expect((await send(`${proxy}/enroll`, rubbish)).status).toBe(429);
  expect((await send(`${proxy}/nothing`, rubbish)).status).toBe(429);
  const body = JSON.stringify({ token: good, csr: 'no request' });
  const enrolled = { status: 400, body: { message: expect.stringContaining('csr') } };
  expect(await send(`${proxy}/enroll`, { method: 'POST', body, token: good, headers: { 'x-test-address': STRANGER } })).toMatchObject(enrolled);
  expect(await send(`${proxy}/enroll`, { method: 'POST', body, headers: { 'x-test-address': VENUE } })).toMatchObject(enrolled);
});

test('S2: behind the proxy 1,200 wrong tokens of one stranger keep no gate and no operator out, nor a page closed, wherever they come from', async () => {
  const { url } = await start({ ratePerMinute: 1_200 });
  const proxy = await proxyBefore(url);
  const agent = new HttpAgent({ keepAlive: true, maxSockets: 8 });
  opened.push(async () => agent.destroy());
  const [gate, anna] = [await gateToken(), await operator('anna')];
  const ledger = `${proxy}/sites/${venue.site}/ledger`;
  const asStranger = (token: string, path = '/gates') => send(`${proxy}${path}`, { token, agent, headers: { 'x-test-address': STRANGER } });
  const asVenue = (token: string, path: string) => send(`${proxy}${path}`, { token, headers: { 'x-test-address': VENUE } });
  const seen: Record<number, number> = {};
  const others: number[] = [];
  const flood = Array.from({ length: 8 }, async (_, lane) => {
    for (let n = 0; n < 160; n++) {
      const { status } = await asStranger(wrong(n % 2 === 0 ? OPERATOR_TOKEN_PREFIX : DEVICE_TOKEN_PREFIX));
      seen[status] = (seen[status] ?? 0) + 1;
      if (lane === 0 && n % 16 === 0)
        others.push(
          (await asVenue(gate, `/sites/${venue.site}/ledger`)).status,
          (await asVenue(anna, '/gates')).status,
          (await asVenue(gate, '/console')).status,
        );
    }
  });
  await Promise.all(flood);
  expect(seen).toEqual({ 401: expect.any(Number), 429: expect.any(Number) });
  expect(seen[401]).toBeGreaterThanOrEqual(1_200);
  expect(seen[401]).toBeLessThan(1_200 + 16);
  expect(new Set(others)).toEqual(new Set([200]));
  // And from the stranger's own address: known before or never seen, a good token is let in, a page shown.
  for (const token of [anna, await operator('bert')]) expect((await asStranger(token)).status).toBe(200);
  expect((await send(ledger, { token: gate, headers: { 'x-test-address': STRANGER } })).status).toBe(200);
  for (const path of ['/console', '/console/page.js', '/healthz', '/readyz', '/openapi.json']) expect((await asStranger('none', path)).status, path).toBe(200);
});

test('S2: a token that was taken back does not stay good because it was, and one caller still has its own limit', async () => {
  const { url } = await start({ ratePerMinute: 10 });
  const [anna, bert] = [await operator('anna-2'), await operator('bert-2')];
  const times = async (token: string, n: number, headers: Record<string, string> = {}) => {
    const all: number[] = [];
    for (let i = 0; i < n; i++) all.push((await send(`${url}/gates`, { token, headers: { ...headers, 'x-forwarded-for': `192.0.2.${i}` } })).status);
    return all;
  };
  expect(await times(anna, 12)).toEqual([...Array(10).fill(200), 429, 429]);
  expect(await times(bert, 1)).toEqual([200]);
  await fresh.database.withTenant(venue.tenantId, (client) => client.query("UPDATE operator_tokens SET revoked_at = now() WHERE name = 'bert-2'"));
  expect(await times(bert, 1)).toEqual([401]);
});

test("S6: the name of a certificate in a header is believed from a trusted proxy alone, and only under the header's configured name", async () => {
  const gate = venue.gates[0] as string;
  const path = `/sites/${venue.site}/ledger`;
  const named = { headers: { 'x-client-cn': gate } };
  expect((await send(`${(await start({ deviceNameHeader: 'x-client-cn' })).url}${path}`, named)).status).toBe(200);
  expect((await send(`${(await start({ deviceNameHeader: 'x-client-cn', trustedProxies: ['10.0.0.5'] })).url}${path}`, named)).status).toBe(401);
  expect((await send(`${(await start({ deviceNameHeader: 'x-client-cn', trustedProxies: [] })).url}${path}`, named)).status).toBe(401);
  expect((await send(`${(await start()).url}${path}`, named)).status).toBe(401);
});

test('S6: a text that no database can hold is refused with its field, at every door', async () => {
  const { url } = await start();
  const token = await operator('s6-texts');
  const said = async (method: string, path: string, body: object) => {
    const answer = await send(`${url}${path}`, { method, token, body: JSON.stringify(body) });
    return [answer.status, answer.body['message']];
  };
  const gate = venue.gates[0];
  for (const bad of ['a\0b', 'half \ud800 a pair', '\udc00']) {
    const why = 'a text holds U+0000 or half a surrogate pair: leave it out';
    expect(await said('POST', `/gates/${gate}/alerts/clone/clear`, { actor: 'anna', reason: bad })).toEqual([400, `reason: ${why}`]);
    expect(await said('POST', `/gates/${gate}/requests/open`, { actor: 'anna', reason: bad })).toEqual([400, `reason: ${why}`]);
    expect(await said('POST', `/gates/${gate}/requests/open`, { actor: 'anna', reason: 'x', args: { direction: bad } })).toEqual([
      400,
      `args.direction: ${why}`,
    ]);
    expect(await said('POST', '/tickets/T-1/block', { reason: bad })).toEqual([400, `reason: ${why}`]);
    expect(await said('PUT', '/tickets', { tickets: [{ ticket_id: 'T-9', event_id: venue.eventId, tier: 'a', note: bad }] })).toEqual([
      400,
      `tickets.0.note: ${why}`,
    ]);
    expect(await said('PUT', '/tickets', { tickets: [{ ticket_id: 'T-9', event_id: venue.eventId, tier: 'a', unknown_to_us: [bad] }] })).toEqual([
      400,
      `tickets.0.unknown_to_us.0: ${why}`,
    ]);
  }
  expect(await said('PUT', '/tickets', { tickets: [], 'a\0': 1 })).toEqual([400, '(body): a name holds U+0000 or half a surrogate pair: leave it out']);
  expect((await send(`${url}/gates?site=%00`, { token })).status).toBe(400);
  expect(await send(`${url}/tickets/a%00b/history`, { token })).toMatchObject({ status: 400, body: { message: expect.stringContaining('id: ') } });
});

test('S6: an assignment that is refused leaves no gate and no site behind', async () => {
  const { url } = await start();
  const token = await operator('s6-assign');
  const there = async () => {
    const { rows } = await fresh.database.withTenant(venue.tenantId, (client) =>
      client.query<{ n: number }>(
        "SELECT (SELECT count(*) FROM devices WHERE name LIKE 'typo%') + (SELECT count(*) FROM sites WHERE site_id LIKE 'typo%') AS n",
      ),
    );
    return rows[0]?.n;
  };
  const put = (gate: string, event: string) => send(`${url}/gates/${gate}/assignment`, { method: 'PUT', token, body: JSON.stringify({ event_ids: [event] }) });
  expect(await put('typo-site/north-03', venue.eventId)).toMatchObject({ status: 409, body: { error: 'OTHER_SITE' } });
  expect(await put('typo-site/north-03', 'no-such-event')).toMatchObject({ status: 404, body: { error: 'NOT_FOUND' } });
  expect(await there()).toBe(0);
  expect(await put(`${venue.site}/typo-gate`, 'no-such-event')).toMatchObject({ status: 404 });
  expect(await put(venue.gates[0] as string, venue.eventId)).toMatchObject({ status: 200, body: { created: false } });
});
