/** Every route of the running server × everybody (FAULTS M1). What each may do stands in lines.ts. */

import { webcrypto } from 'node:crypto';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { revokeDevice } from '../../cloud/devices/assignment.ts';
import { SILENT } from '../../cloud/log.ts';
import { type RunningCloud, startCloud } from '../../cloud/main.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { connectPeer, type Peer } from '../../testkit/mqtt-client.ts';
import { EVERYBODY, type Fixture, openFixture, type Who } from './fixture.ts';
import { businessErrorOf, LINES, type Line } from './lines.ts';

/** Requests under way at once. */
const AT_ONCE = 8;
const OPEN_TO_ALL = ['GET /healthz', 'GET /readyz', 'GET /openapi.json', 'GET /enroll/ca', 'GET /console', 'GET /console/page.css', 'GET /console/page.js'];

let fixture: Fixture;
let broker: Broker;
let gates: Peer;
let cloud: RunningCloud;
/** `GET /gates`, as the server registered them itself. */
const routes: string[] = [];

beforeAll(async () => {
  [fixture, broker] = await Promise.all([openFixture(), startBroker()]);
  // Fastify says when an instance is made: its routes are written down as they are registered, whoever registers them.
  const watch = (message: unknown) =>
    (message as { fastify: { addHook(name: 'onRoute', hook: (route: { method: string | string[]; url: string }) => void): void } }).fastify.addHook(
      'onRoute',
      ({ method, url }) => {
        for (const one of [method].flat()) routes.push(`${one} ${url}`);
      },
    );
  subscribe('fastify.initialization', watch);
  cloud = await startCloud(fixture.config(broker.cloudUrl), { serve: true, ingest: false }, SILENT);
  unsubscribe('fastify.initialization', watch);
  gates = await connectPeer(broker.url);
  await gates.subscribe('stile/1/+/+/request/+', 1);
  // Every list is built, and the work that a start leaves is done, before anybody asks.
  const built = async () =>
    (await fixture.owner.query('SELECT 1 FROM outbox')).rowCount === 0 &&
    (await fixture.owner.query('SELECT DISTINCT tenant_id, event_id FROM manifests')).rowCount === 3;
  while (!(await built())) await new Promise((resolve) => setTimeout(resolve, 50));
});
afterAll(async () => {
  await gates?.end();
  await cloud?.stop();
  await broker?.stop();
  await fixture?.drop();
});

interface Case {
  readonly route: string;
  readonly line: Line;
  readonly who: Who;
  readonly expected: string;
}

async function ask(
  base: string,
  { route, line, who }: Pick<Case, 'route' | 'line' | 'who'>,
  method = route.split(' ')[0] as string,
): Promise<{ answer: string; text: string }> {
  const { path, body, headers } = line.ask(who, fixture);
  const response = await fetch(`${base}${path}`, {
    method,
    headers: { ...fixture.shows[who], ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  const error = response.ok || method === 'HEAD' ? '' : ` ${(JSON.parse(text) as { error?: string }).error}`;
  return { answer: `${response.status}${error}`, text };
}

async function inTurn<T>(cases: readonly T[], work: (one: T) => Promise<void>): Promise<void> {
  const left = [...cases];
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (let one = left.shift(); one !== undefined; one = left.shift()) await work(one);
    }),
  );
}

const cases = (): Case[] =>
  Object.entries(LINES).flatMap(([route, lines]) =>
    lines.flatMap((line) => EVERYBODY.map((who) => ({ route, line, who, expected: line.answers[who] ?? businessErrorOf(line, who) }))),
  );
const named = ({ route, line, who }: Case, answer: string) => `${route}${line.what === undefined ? '' : ` (${line.what})`} by ${who}: ${answer}`;
const isSuccess = (expected: string) => /^2\d\d$/.test(expected);

test('M1: every route that the server has stands in the table, and every line has a route', () => {
  const own = routes.filter((route) => !route.startsWith('HEAD '));
  expect(own.length).toBeGreaterThan(20);
  expect(own.filter((route) => LINES[route] === undefined)).toEqual([]);
  expect(Object.keys(LINES).filter((route) => !own.includes(route))).toEqual([]);
});

test('M1: whoever is not named is refused, in these words, and changes nothing of ours', async () => {
  const before = await fixture.state();
  const wrong: string[] = [];
  const ours: readonly Who[] = ['gate', 'sibling', 'unassigned', 'scanner', 'elsewhere', 'scanner elsewhere', 'operator', 'service'];
  // All that is refused, and what strangers do with their own: nothing of it touches us.
  await inTurn(
    cases().filter(({ expected, who }) => !isSuccess(expected) || !ours.includes(who)),
    async (one) => {
      const { answer, text } = await ask(cloud.url as string, one);
      if (answer !== one.expected) wrong.push(named(one, `${answer}, not ${one.expected}`));
      const told = one.line.kind === 'open' || !isSuccess(answer) ? [] : fixture.secrets.filter((secret) => text.includes(secret));
      if (told.length > 0) wrong.push(named(one, `is told ${told.slice(0, 3).join(', ')}`));
    },
  );
  expect(wrong.sort()).toEqual([]);
  expect(await fixture.state()).toEqual(before);
});

test('M1: whoever is named gets what he asks for', async () => {
  let answered = 0;
  const answering = setInterval(() => {
    for (; answered < gates.received.length; answered++) {
      const heard = gates.received[answered] as Peer['received'][number];
      const { transaction } = JSON.parse(heard.payload.toString()) as { transaction: string };
      void gates.publish(heard.topic.replace('/request/', '/response/'), { schema: 1, transaction, status: 'ok', data: {}, duration_ms: 1 });
    }
  }, 5);
  const wrong: string[] = [];
  await inTurn(
    cases().filter(({ expected }) => isSuccess(expected)),
    async (one) => {
      const { answer } = await ask(cloud.url as string, one);
      if (answer !== one.expected) wrong.push(named(one, `${answer}, not ${one.expected}`));
    },
  );
  clearInterval(answering);
  expect(wrong.sort()).toEqual([]);
});

test('M1: a scanner writes off tickets of its own site alone, at /scan and /offline/reconcile', async () => {
  const statusOf = async (who: Who, ticket: string) => {
    const response = await fetch(`${cloud.url}/offline/reconcile`, {
      method: 'POST',
      headers: { ...fixture.shows[who], 'content-type': 'application/json' },
      body: JSON.stringify({
        device_id: who === 'scanner' ? 'arena/scan-1' : who === 'scanner elsewhere' ? 'stadium/scan-1' : 'club/scan-1',
        scans: [{ ticket_id: ticket, scanned_at: new Date().toISOString(), result: 'ALLOW' }],
      }),
    });
    return ((await response.json()) as { results: { status: string }[] }).results[0]?.status;
  };
  const used = async () =>
    (
      await fixture.owner.query("SELECT 1 FROM ticket_usage WHERE tenant_id = $1 AND event_id = 'EV1' AND ticket_id IN ('T-27', 'T-28')", [
        fixture.ours.tenantId,
      ])
    ).rowCount;
  // Kept for the day when its own site has such a ticket, or refused: recorded it is not.
  expect(await statusOf('scanner elsewhere', 'T-27')).not.toBe('SUCCESS');
  // Theirs has a T-28 as well: it is their own that was used.
  expect(await statusOf("strangers' scanner", 'T-28')).toBe('SUCCESS');
  expect(await used()).toBe(0);
  expect(await statusOf('scanner', 'T-27')).toBe('SUCCESS');
  expect(await used()).toBe(1);
});

test('M1: HEAD tells nobody more than GET', async () => {
  const wrong: string[] = [];
  await inTurn(
    cases().filter(({ route, who }) => routes.includes(`HEAD ${route.split(' ')[1]}`) && route.startsWith('GET ') && who !== 'operator'),
    async (one) => {
      const { answer } = await ask(cloud.url as string, one, 'HEAD');
      const expected = one.expected.split(' ')[0];
      if (answer !== expected) wrong.push(named(one, `HEAD: ${answer}, not ${expected}`));
    },
  );
  expect(wrong.sort()).toEqual([]);
});

test('M1: of enrolment tokens a fresh one is good, once, for its own gate; none brings a revoked gate back', async () => {
  const keys = (await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
  x509.cryptoProvider.set(webcrypto as Crypto);
  const csr = (
    await x509.Pkcs10CertificateRequestGenerator.create({ name: 'CN=arena/south', keys, signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' } })
  ).toString('pem');
  const enrol = async (token: string) => {
    const response = await fetch(`${cloud.url}/enroll`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ token, csr }),
    });
    const body = (await response.json()) as { error?: string; gate?: string; token?: string };
    return { answer: response.ok ? `${response.status} ${body.gate}` : `${response.status} ${body.error}`, token: body.token };
  };
  const revokedAt = async (gate: string) =>
    (await fixture.owner.query<{ at: Date | null }>('SELECT revoked_at AS at FROM devices WHERE name = $1', [gate])).rows[0]?.at;
  const [first, second] = [await fixture.enrolmentToken('arena/idle'), await fixture.enrolmentToken('arena/idle')];
  const lost = await fixture.enrolmentToken('arena/south');
  await fixture.fresh.database.withTenant(fixture.ours.tenantId, (client) => revokeDevice(client, 'arena/south'));
  // Struck out when the gate is revoked; and one that was not, is refused by its age.
  const open = async () => (await fixture.owner.query("SELECT 1 FROM enrolment_tokens WHERE device = 'arena/south' AND used_at IS NULL")).rowCount;
  expect(await open()).toBe(0);
  const missed = await fixture.enrolmentToken('arena/south');
  await fixture.owner.query("UPDATE enrolment_tokens SET created_at = now() - interval '1 hour' WHERE device = 'arena/south' AND used_at IS NULL");
  expect(await open()).toBe(1);
  const bearer = (fixture.shows.gate['authorization'] as string).slice('Bearer '.length);
  const table: readonly (readonly [what: string, token: string, answer: string])[] = [
    ['one that was never given', 'stile-enrol-nobody-ever-gave-this', '401 UNAUTHENTICATED'],
    ["a device's token", bearer, '401 UNAUTHENTICATED'],
    ['one that is over', await fixture.enrolmentToken('arena/idle', -1), '401 UNAUTHENTICATED'],
    ['an unused one of a revoked gate', lost, '401 UNAUTHENTICATED'],
    ['one of before it was revoked that was not struck out', missed, '401 UNAUTHENTICATED'],
    ['a fresh one, whatever the request calls itself', first, '200 arena/idle'],
    ['the same again', first, '401 UNAUTHENTICATED'],
    ['another one that was open when the gate enrolled', second, '401 UNAUTHENTICATED'],
    ['one that was made since', await fixture.enrolmentToken('arena/north'), '200 arena/north'],
  ];
  for (const [what, token, answer] of table) expect([what, (await enrol(token)).answer]).toEqual([what, answer]);
  expect(await revokedAt('arena/south')).not.toBeNull();
  // What the gate had before it was enrolled anew opens nothing any more.
  expect((await fetch(`${cloud.url}/sites/arena/ledger`, { headers: fixture.shows.unassigned })).status).toBe(401);
});

test('M1: every route has its limit of requests, POST /enroll as well; the open ones alone have none', async () => {
  const RATE = 5;
  const hurried = await startCloud(
    fixture.config(broker.cloudUrl, { STILE_HTTP_RATE: String(RATE), STILE_HOST: 'hurried' }),
    { serve: true, ingest: false },
    SILENT,
  );
  try {
    const endless: string[] = [];
    for (const [route, [line]] of Object.entries(LINES)) {
      let limited = false;
      for (let n = 0; n <= 2 * RATE && !limited; n++)
        limited = (await ask(hurried.url as string, { route, line: line as Line, who: 'nobody' })).answer.startsWith('429');
      if (!limited) endless.push(route);
    }
    expect(endless).toEqual(OPEN_TO_ALL);
  } finally {
    await hurried.stop();
  }
});
