import { createHash, createPublicKey, randomBytes, verify } from 'node:crypto';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import BetterSqlite from 'better-sqlite3';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { signedText } from '../contract/hash-chain.ts';
import { MANIFEST_APPLICATION_ID, OfflineManifestResponse, OverlayMessage, type PublicKey, WantMessage } from '../contract/manifest.ts';
import { CloudStateMessage } from '../contract/messages.ts';
import { type Broker, startBroker } from '../testkit/broker.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../testkit/database.ts';
import { connectPeer, type Peer, type ReceivedMessage } from '../testkit/mqtt-client.ts';
import { type CloudConfig, readConfig } from './config.ts';
import { newToken, OPERATOR_TOKEN_PREFIX, renewToken } from './devices/assignment.ts';
import { SILENT } from './log.ts';
import { NotMigratedError, type RunningCloud, startCloud } from './main.ts';
import { SigningKeyError } from './manifest/signing-key.ts';
import { importTickets } from './tickets/import/import.ts';

let fresh: FreshDatabase;
let mosquitto: Broker;
let peer: Peer;
const folder = mkdtempSync(join(tmpdir(), 'stile-main-'));
beforeAll(async () => {
  [fresh, mosquitto] = await Promise.all([freshDatabase(), startBroker()]);
  peer = await connectPeer(mosquitto.url);
  await peer.subscribe('stile/1/#', 1);
});
afterAll(async () => {
  await peer.end();
  await mosquitto.stop();
  await fresh.drop();
  rmSync(folder, { recursive: true, force: true });
});

let cloud: RunningCloud;
let venue: Venue;
let gate: string;
let token: string;
let operator: string;
beforeEach(async () => {
  venue = await makeVenue(fresh.url, { tickets: 20 });
  gate = venue.gates[0] as string;
  token = (await fresh.database.withTenant(venue.tenantId, (client) => renewToken(client, gate))) as string;
  operator = await newOperator(venue, 'anna');
  await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query("INSERT INTO outbox (tenant_id, kind, key, build) VALUES ($1, 'event', $2, true)", [venue.tenantId, venue.eventId]),
  );
  cloud = await startCloud(config(), { serve: true, ingest: true }, SILENT);
});
afterEach(() => cloud.stop());

const KEY_FILE = join(folder, 'signing.pem');
function config(extra: Record<string, string> = {}): CloudConfig {
  const result = readConfig(
    {
      DATABASE_URL: fresh.servingUrl,
      STILE_MQTT_URL: mosquitto.cloudUrl,
      STILE_SIGNING_KEY_FILE: KEY_FILE,
      STILE_HTTP_PORT: '0',
      STILE_METRICS_PORT: '0',
      STILE_HOST: 'test-host',
      STILE_HTTP_RATE: '100000',
      ...extra,
    },
    { mqtt: true },
  );
  if (!result.ok) throw new Error(result.errors.join('\n'));
  return result.config;
}
async function newOperator(of: Venue, name: string, actor: string | null = name): Promise<string> {
  const made = newToken(OPERATOR_TOKEN_PREFIX);
  await fresh.database.withTenant(of.tenantId, (client) =>
    client.query('INSERT INTO operator_tokens (tenant_id, token_sha256, name, actor) VALUES ($1, $2, $3, $4)', [of.tenantId, made.sha256, name, actor]),
  );
  return made.token;
}
const call = (method: string, path: string, as: string | null, body?: unknown, headers: Record<string, string> = {}) =>
  fetch(`${cloud.url}${path}`, {
    method,
    headers: { ...(as === null ? {} : { authorization: `Bearer ${as}` }), ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
const answer = async (response: Response) => ({ status: response.status, body: (await response.json()) as Record<string, unknown> });
const manifestPath = (query = '') => `/offline/manifest/${venue.eventId}?device_id=${encodeURIComponent(gate)}${query}`;
const SQLITE = { accept: 'application/vnd.sqlite3' };
const json = ({ payload }: ReceivedMessage) => JSON.parse(payload.toString()) as Record<string, unknown>;
const wantOf = (name: string, accept: (want: WantMessage) => boolean = () => true) =>
  peer
    .wait((heard) => heard.topic === `stile/1/${name}/manifest/want` && accept(WantMessage.parse(json(heard))))
    .then((heard) => WantMessage.parse(json(heard)));
const overlayOf = (name: string, after: number) =>
  peer.wait((heard) => heard.topic === `stile/1/${name}/overlay` && OverlayMessage.parse(json(heard)).to_version > after).then(json);
async function publicKey() {
  const { rows } = await fresh.database.withoutTenant((client) => client.query<{ spki: string }>('SELECT spki FROM signing_keys'));
  return createPublicKey({ key: Buffer.from(rows[0]?.spki as string, 'base64'), format: 'der', type: 'spki' });
}
const signedWell = async (payload: Record<string, unknown>) =>
  verify(null, Buffer.from(signedText(payload)), await publicKey(), Buffer.from(payload['signature'] as string, 'base64'));
const version = async () =>
  (await fresh.database.withTenant(venue.tenantId, (client) => client.query<{ version: number }>('SELECT version FROM events'))).rows[0]?.version as number;

test('an assigned gate is told what to hold, and the file is what was signed', async () => {
  const want = await wantOf(gate);
  const entry = want.events[0] as WantMessage['events'][number];
  expect(entry).toMatchObject({ event_id: venue.eventId, overlay_version: entry.version });
  expect(await signedWell(entry)).toBe(true);
  expect(await signedWell({ ...entry, version: entry.version + 1 })).toBe(false);
  const response = await fetch(entry.url, { headers: { ...SQLITE, authorization: `Bearer ${token}` } });
  const bytes = Buffer.from(await response.arrayBuffer());
  expect([response.status, response.headers.get('content-type'), response.headers.get('content-length')]).toEqual([200, SQLITE.accept, String(entry.size)]);
  expect(createHash('sha256').update(bytes).digest('hex')).toBe(entry.sha256);
  const path = join(folder, `${entry.sha256}.sqlite`);
  writeFileSync(path, bytes);
  const file = new BetterSqlite(path, { readonly: true });
  expect(file.pragma('application_id', { simple: true })).toBe(MANIFEST_APPLICATION_ID);
  expect(file.pragma('integrity_check', { simple: true })).toBe('ok');
  const head = Object.fromEntries(
    file
      .prepare<[], { key: string; value: string }>('SELECT key, value FROM head')
      .all()
      .map(({ key, value }) => [key, JSON.parse(value)]),
  );
  expect(head).toMatchObject({ event_id: venue.eventId, version: entry.version, ticket_count: 20, salt: venue.salt, upto: {} });
  expect((head['keys'] as PublicKey[]).map(({ key_id }) => key_id)).toEqual([entry.key_id]);
  const refs = file.prepare<[], { ref: Buffer; id: string }>('SELECT ref, id FROM tickets ORDER BY id').all();
  expect(refs.map(({ ref, id }) => [id, ref.toString('hex')])).toEqual(venue.tickets.map(({ ticketId, ticketRef }) => [ticketId, ticketRef]).sort());
  file.close();
  expect(statSync(KEY_FILE).mode & 0o777).toBe(0o600);
});

test('the file answers ETag and ranges; a version that is gone is named as such', async () => {
  await wantOf(gate);
  const whole = await call('GET', manifestPath(), token, undefined, SQLITE);
  const bytes = Buffer.from(await whole.arrayBuffer());
  const etag = whole.headers.get('etag') as string;
  expect((await call('GET', manifestPath(), token, undefined, { ...SQLITE, 'if-none-match': etag })).status).toBe(304);
  const part = await call('GET', manifestPath(), token, undefined, { ...SQLITE, range: 'bytes=100-199' });
  expect([part.status, part.headers.get('content-range')]).toEqual([206, `bytes 100-199/${bytes.length}`]);
  expect(Buffer.from(await part.arrayBuffer()).equals(bytes.subarray(100, 200))).toBe(true);
  expect((await call('GET', manifestPath(), token, undefined, { ...SQLITE, range: `bytes=${bytes.length}-` })).status).toBe(416);
  expect(await answer(await call('GET', manifestPath('&version=1'), token, undefined, SQLITE))).toMatchObject({
    status: 404,
    body: { success: false, error: 'NO_SUCH_VERSION' },
  });
});

test('the JSON has what the contract says, with an ETag that changes with the tickets', async () => {
  await wantOf(gate);
  const first = await call('GET', manifestPath(), token);
  const { manifest } = OfflineManifestResponse.parse(await first.json());
  expect(manifest.tickets.map(({ ticketId }) => ticketId).sort()).toEqual(venue.tickets.map(({ ticketId }) => ticketId).sort());
  expect(await signedWell(manifest)).toBe(true);
  const etag = first.headers.get('etag') as string;
  expect((await call('GET', manifestPath(), token, undefined, { 'if-none-match': etag })).status).toBe(304);
  await call('POST', '/tickets/T-1/block', operator, { reason: 'lost' });
  const second = await call('GET', manifestPath(), token, undefined, { 'if-none-match': etag });
  expect(second.status).toBe(200);
  expect(OfflineManifestResponse.parse(await second.json()).manifest.tickets.find(({ ticketId }) => ticketId === 'T-1')).toMatchObject({
    status: 'blocked',
    note: 'lost',
  });
});

test('a change reaches every gate as a signed overlay and a renewed want; the delta says the same', async () => {
  await Promise.all(venue.gates.map((name) => wantOf(name)));
  const before = await version();
  const code = randomBytes(16).toString('base64url');
  expect((await call('POST', '/tickets/T-3/transfer', operator, { reason: 'sold on', code, to_user_id: 'u-2' })).status).toBe(200);
  for (const name of venue.gates) {
    const overlay = await overlayOf(name, before);
    expect(await signedWell(overlay)).toBe(true);
    expect(overlay['tickets']).toMatchObject([
      { ticket_ref: venue.tickets[2]?.ticketRef, removed: true, reason: 'revoked' },
      { ticket_id: 'T-3', status: 'valid' },
    ]);
    expect((await wantOf(name, ({ events }) => events[0]?.overlay_version === overlay['to_version'])).events).toHaveLength(1);
  }
  const { manifest } = OfflineManifestResponse.parse(await (await call('GET', manifestPath(`&since=${before}`), token)).json());
  expect(manifest).toMatchObject({ since: before, version: await version() });
  expect(manifest.tickets.map(({ ticketId, removed }) => [ticketId, removed ?? false])).toEqual([
    ['T-3', true],
    ['T-3', false],
  ]);
  expect(manifest.overlays?.map((overlay) => [overlay.from_version, overlay.to_version])).toEqual([[before, manifest.version]]);
  for (const overlay of manifest.overlays ?? []) expect(await signedWell(overlay)).toBe(true);
  expect(OfflineManifestResponse.parse(await (await call('GET', manifestPath(`&since=${manifest.version}`), token)).json()).manifest).toMatchObject({
    tickets: [],
    overlays: [],
  });
  expect(await answer(await call('GET', manifestPath(`&since=${manifest.version + 100}`), token))).toMatchObject({
    status: 409,
    body: { error: 'VERSION_AHEAD' },
  });
});

test('many changes come as a new file, and a delta over them is refused with what happens next', async () => {
  const first = (await wantOf(gate)).events[0]?.version as number;
  const before = await version();
  const path = join(folder, 'many.csv');
  writeFileSync(path, `ticket_id,code\n${Array.from({ length: 600 }, (_, n) => `N-${n},${randomBytes(16).toString('base64url')}`).join('\n')}\n`);
  await importTickets({ database: fresh.database, tenantId: venue.tenantId, eventId: venue.eventId, path });
  const want = await wantOf(gate, ({ events }) => (events[0]?.version ?? 0) > first);
  expect(want.events[0]?.version).toBeGreaterThan(before);
  expect(await answer(await call('GET', manifestPath(`&since=${before}`), token))).toMatchObject({ status: 409, body: { error: 'DELTA_TOO_LARGE' } });
});

test('a write sent again gives the same answer and changes nothing; another body under its key is refused', async () => {
  await wantOf(gate);
  const body = { tickets: [{ ticket_id: 'N-1', event_id: venue.eventId, code: randomBytes(16).toString('base64url'), tier: 'standard' }] };
  const key = { 'idempotency-key': 'k-1' };
  const both = await Promise.all([call('PUT', '/tickets', operator, body, key), call('PUT', '/tickets', operator, body, key)]);
  const bodies = await Promise.all(both.map((response) => response.json()));
  expect(both.map(({ status }) => status)).toEqual([200, 200]);
  expect(bodies[0]).toMatchObject({ success: true, created: 1 });
  expect(bodies[1]).toEqual(bodies[0]);
  expect(both.filter(({ headers }) => headers.get('idempotency-replayed') === 'true')).toHaveLength(1);
  expect(await answer(await call('PUT', '/tickets', operator, { tickets: [{ ...body.tickets[0], tier: 'vip' }] }, key))).toMatchObject({
    status: 409,
    body: { error: 'IDEMPOTENCY_KEY_REUSED' },
  });
  // What failed is not kept: the same key may be used for the mended write.
  const wrong = { tickets: [{ ...body.tickets[0], event_id: 'nowhere' }] };
  expect((await call('PUT', '/tickets', operator, wrong, { 'idempotency-key': 'k-2' })).status).toBe(404);
  expect((await call('PUT', '/tickets', operator, body, { 'idempotency-key': 'k-2' })).status).toBe(200);
});

test('the service refuses callers without an identity, and shows no caller another tenant', async () => {
  const theirs = await makeVenue(fresh.url, { tickets: 3, event: 'THEIRS' });
  const theirToken = (await fresh.database.withTenant(theirs.tenantId, (client) => renewToken(client, theirs.gates[0] as string))) as string;
  const theirOperator = await newOperator(theirs, 'bert');
  const cases: [string, string, string | null, number, string][] = [
    ['GET', manifestPath(), null, 401, 'UNAUTHENTICATED'],
    ['GET', manifestPath(), 'stile-device-made-up-by-somebody', 401, 'UNAUTHENTICATED'],
    ['GET', `/offline/manifest/${venue.eventId}`, token, 400, 'MISSING_DEVICE_ID'],
    ['GET', manifestPath(), theirToken, 403, 'OTHER_DEVICE'],
    ['GET', `/offline/manifest/${venue.eventId}?device_id=${theirs.gates[0]}`, theirToken, 404, 'NO_SUCH_EVENT'],
    ['GET', manifestPath(), operator, 403, 'FORBIDDEN'],
    ['GET', '/gates', token, 403, 'FORBIDDEN'],
    ['GET', `/sites/${venue.site}/ledger`, theirToken, 403, 'OTHER_SITE'],
    ['GET', `/events/${venue.eventId}/occupancy`, theirOperator, 404, 'NO_SUCH_EVENT'],
    ['GET', '/tickets/T-20/history', theirOperator, 404, 'NO_SUCH_TICKET'],
    ['GET', '/nothing', operator, 404, 'NO_SUCH_PATH'],
    ['GET', '/events/%E0%A4%A/occupancy', operator, 400, 'BAD_REQUEST'],
    ['GET', `/events/${'a'.repeat(20_000)}/occupancy`, operator, 431, 'TOO_LARGE'],
  ];
  for (const [method, path, as, status, error] of cases)
    expect({ path, ...(await answer(await call(method, path, as))) }).toMatchObject({ path, status, body: { success: false, error } });
  expect(await answer(await call('POST', '/tickets/T-20/revoke', theirOperator, { reason: 'x' }))).toMatchObject({ status: 404 });
  const gates = async (as: string) => ((await (await call('GET', '/gates', as)).json()) as { gates: { gate: string }[] }).gates.map((row) => row.gate);
  expect(await gates(operator)).toEqual([...venue.gates].sort());
  expect(await gates(theirOperator)).toEqual([...theirs.gates].sort());
  expect(await answer(await call('PUT', `/gates/${venue.site}/new/assignment`, theirOperator, { event_ids: ['THEIRS'] }))).toMatchObject({
    status: 409,
    body: { error: 'SITE_TAKEN' },
  });
  expect(await answer(await call('POST', `/gates/${gate}/requests/open`, theirOperator, { actor: 'bert', reason: 'x' }))).toMatchObject({ status: 404 });
});

test('every malformed body is refused with the names of its fields', async () => {
  const cases: [string, string, unknown, string, RegExp][] = [
    ['PUT', '/events/E-2', { name: 7, policies: [] }, 'BAD_REQUEST', /name: .*policies: /],
    [
      'PUT',
      '/events/E-2',
      { name: 'x', time_zone: 'Mars', policies: { event: { entries: { total: -1 } } } },
      'BAD_REQUEST',
      /time_zone.*policies\.event\.entries\.total/,
    ],
    ['PUT', '/events/E-2', '{"name":', 'NOT_JSON', /JSON/],
    ['PUT', '/tickets', { tickets: [{ ticket_id: 'T 1', event_id: 'e' }] }, 'BAD_REQUEST', /tickets\.0\.ticket_id/],
    ['PUT', '/tickets', { tickets: [] }, 'BAD_REQUEST', /tickets/],
    ['PUT', '/gates/Arena/x/assignment', { event_ids: [] }, 'BAD_REQUEST', /site/],
    ['POST', `/gates/${gate}/requests/open`, { actor: 'anna', reason: 'x', args: { units: 0 } }, 'BAD_REQUEST', /args\.units/],
    ['POST', `/gates/${gate}/requests/explode`, { actor: 'anna', reason: 'x' }, 'BAD_REQUEST', /command/],
    ['POST', '/tickets/T-1/block', {}, 'BAD_REQUEST', /reason/],
  ];
  for (const [method, path, body, error, message] of cases)
    expect({ path, ...(await answer(await call(method, path, operator, body))) }).toMatchObject({
      path,
      status: 400,
      body: { success: false, error, message: expect.stringMatching(message) },
    });
  expect(await answer(await call('PUT', '/tickets', operator, `{"tickets":["${'x'.repeat(5_000_000)}"]}`))).toMatchObject({ status: 413 });
  expect(await answer(await call('GET', `/sites/${venue.site}/ledger?after=nonsense`, token))).toMatchObject({
    status: 400,
    body: { message: expect.stringContaining('after') },
  });
});

test('an event is made, given gates with what they serve, and its policies reach the file', async () => {
  expect(
    await answer(
      await call('PUT', '/events/E-2', operator, {
        name: 'Second',
        site: venue.site,
        starts_at: '2026-07-01T18:00:00.000Z',
        policies: { event: { duplicate_window_s: 5 } },
      }),
    ),
  ).toMatchObject({ status: 201, body: { created: true } });
  expect(await answer(await call('PUT', `/gates/${venue.site}/new/assignment`, operator, { event_ids: ['E-2', venue.eventId], zones: ['A'] }))).toMatchObject({
    status: 200,
    body: { created: true, added: ['E-2', venue.eventId] },
  });
  const want = await wantOf(`${venue.site}/new`, ({ events }) => events.length === 2);
  expect(want.events.map(({ event_id }) => event_id).sort()).toEqual(['E-2', venue.eventId].sort());
  const { manifest } = OfflineManifestResponse.parse(await (await call('GET', manifestPath(), token)).json());
  expect(manifest.policies).toEqual({ gates: { [`${venue.site}/new`]: { zones: ['A'] } } });
  await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query(`UPDATE devices SET health = '{"backlog": 4}' WHERE name = $1`, [`${venue.site}/new`]),
  );
  expect(await answer(await call('PUT', `/gates/${venue.site}/new/assignment`, operator, { event_ids: ['E-2'] }))).toMatchObject({
    status: 409,
    body: { error: 'UNACKNOWLEDGED_ROWS' },
  });
});

test('a command goes to the gate once, unretained, and its answer comes back; another gate can not answer for it', async () => {
  const asked = call('POST', `/gates/${gate}/requests/open`, operator, { actor: 'anna', reason: 'wheelchair', args: { direction: 'out' } });
  const heard = await peer.wait(({ topic }) => topic === `stile/1/${gate}/request/open`);
  const request = json(heard);
  expect(request).toMatchObject({ schema: 1, actor: 'anna', reason: 'wheelchair', args: { direction: 'out', units: 1 } });
  expect([heard.packet.retain, Date.parse(request['expires_at'] as string) - Date.parse(request['issued_at'] as string)]).toEqual([false, 5_000]);
  const response = { schema: 1, transaction: request['transaction'], status: 'ok', data: { opened: true }, duration_ms: 3 };
  await peer.publish(`stile/1/${venue.gates[1]}/response/open`, { ...response, data: { opened: false } });
  await peer.publish(`stile/1/${gate}/response/open`, response);
  expect(await answer(await asked)).toMatchObject({ status: 200, body: { success: true, response: { status: 'ok', data: { opened: true } } } });
  expect(await answer(await call('POST', `/gates/${gate}/requests/open`, operator, { actor: 'somebody-else', reason: 'x' }))).toMatchObject({
    status: 403,
    body: { error: 'OTHER_ACTOR' },
  });
});

test('a gate that does not answer is said to, within the life of the request', async () => {
  expect(await answer(await call('POST', `/gates/${gate}/requests/open`, operator, { actor: 'anna', reason: 'x' }))).toMatchObject({
    status: 504,
    body: { error: 'NO_ANSWER' },
  });
});

test('the service publishes after an outage of the broker what happened meanwhile, and again what the broker lost', async () => {
  await wantOf(gate);
  await mosquitto.kill();
  await expect.poll(() => cloud.ready()).toBe(false);
  expect(await answer(await call('GET', '/readyz', null))).toEqual({
    status: 503,
    body: { success: false, error: 'NOT_READY', message: 'broker cannot be reached' },
  });
  expect((await call('POST', '/tickets/T-2/revoke', operator, { reason: 'x' })).status).toBe(200);
  await mosquitto.restart();
  const again = await connectPeer(mosquitto.url);
  try {
    await again.subscribe(`stile/1/${venue.site}/#`, 1);
    const wanted = await version();
    for (const name of venue.gates)
      await again.wait((heard) => heard.topic === `stile/1/${name}/manifest/want` && WantMessage.parse(json(heard)).events[0]?.overlay_version === wanted);
    expect((await call('GET', '/readyz', null)).status).toBe(200);
  } finally {
    await again.end();
    peer = await connectPeer(mosquitto.url);
    await peer.subscribe('stile/1/#', 1);
  }
});

test('it says that it is there, and goodbye', async () => {
  const topic = 'stile/1/_cloud/test-host/state';
  const now = await peer.wait((heard) => heard.topic === topic && json(heard)['state'] === 'online');
  expect(CloudStateMessage.parse(json(now)).session).toBeTruthy();
  await cloud.stop();
  await peer.wait((heard) => heard.topic === topic && json(heard)['state'] === 'offline' && json(heard)['reason'] === 'stopped');
  await expect(fetch(`${cloud.url}/healthz`)).rejects.toThrow();
});

test('the open paths answer without an identity, and the description names every path', async () => {
  expect((await call('GET', '/healthz', null)).status).toBe(200);
  expect((await call('GET', '/metrics', operator)).status).toBe(404);
  expect(await (await fetch(`${cloud.metricsUrl}/metrics`)).text()).toContain('stile_ingest_rows');
  const { paths } = (await (await call('GET', '/openapi.json', null)).json()) as { paths: Record<string, unknown> };
  for (const path of [
    '/offline/manifest/{eventId}',
    '/tickets',
    '/tickets/{id}/{action}',
    '/gates',
    '/refusals',
    '/conflicts',
    '/sites/{site}/ledger',
    '/gates/{site}/{gate}/requests/{command}',
  ])
    expect(Object.keys(paths)).toContain(path);
});

test('it refuses to start where its key or its tables are missing', async () => {
  await expect(startCloud(config({ STILE_SIGNING_KEY_FILE: join(folder, 'another.pem') }), { serve: true, ingest: false }, SILENT)).rejects.toThrow(
    SigningKeyError,
  );
  const empty = Object.assign(new URL(fresh.servingUrl), { pathname: '/postgres' });
  await expect(startCloud(config({ DATABASE_URL: empty.href }), { serve: true, ingest: false }, SILENT)).rejects.toThrow(NotMigratedError);
});
