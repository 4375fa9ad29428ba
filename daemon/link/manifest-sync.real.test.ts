/** Fetching over real HTTP, from a cloud that breaks off, lies, stalls and refuses. */
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { afterEach, expect, test } from 'vitest';
import type { LedgerVector } from '../../contract/ids.ts';
import { LedgerMessage } from '../../contract/ledger.ts';
import { WantMessage } from '../../contract/manifest.ts';
import { createTestCa } from '../../deploy/mosquitto/test-ca.ts';
import type { Decider, ManifestResult } from '../ports.ts';
import { createCloudClient } from './cloud-client.ts';
import { createManifestSync, type ManifestSyncOptions } from './manifest-sync.ts';
import { testLog, until } from './testing/ports.ts';

const GATE = 'arena/north-03';
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

type Handler = (request: IncomingMessage, response: ServerResponse, url: URL) => void;
async function cloud(handler: Handler) {
  const seen: { path: string; headers: IncomingMessage['headers'] }[] = [];
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://x');
    seen.push({ path: url.pathname + url.search, headers: request.headers });
    response.on('error', () => {});
    handler(request, response, url);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen };
}

/** A decider that holds files and overlay versions as the real one does, and rows by ledger. */
function deciderOf(over: Partial<ManifestSyncOptions['decider']> = {}) {
  const held = new Map<string, { version: number; overlay: number; bytes: Buffer }>();
  const vector: Record<string, [number, number]> = {};
  let caughtUp = 0;
  const decider: ManifestSyncOptions['decider'] = {
    async want(payload) {
      return WantMessage.parse(JSON.parse(Buffer.from(payload).toString())).events.flatMap(
        (wanted): { eventId: string; since: number | null; wanted: unknown }[] => {
          const have = held.get(wanted.event_id);
          if (have === undefined || have.version < wanted.version) return [{ eventId: wanted.event_id, since: null, wanted }];
          return have.overlay < wanted.overlay_version ? [{ eventId: wanted.event_id, since: have.overlay, wanted }] : [];
        },
      );
    },
    async installManifest(file, wanted): Promise<ManifestResult> {
      const { event_id, version, signature } = wanted as { event_id: string; version: number; signature: string };
      if (signature === Buffer.from('forged').toString('base64')) return { ok: false, why: 'signature', message: 'not signed by a key of this gate' };
      held.set(event_id, { version, overlay: version, bytes: readFileSync(file) });
      return { ok: true, version };
    },
    async applyOverlay(payload): Promise<ManifestResult> {
      const { event_id, from_version, to_version } = JSON.parse(Buffer.from(payload).toString());
      const have = held.get(event_id);
      if (have === undefined || from_version > have.overlay) return { ok: false, why: 'gap', message: 'a gap' };
      if (to_version <= have.overlay) return { ok: false, why: 'not_newer', message: 'old' };
      have.overlay = to_version;
      return { ok: true, version: to_version };
    },
    async applyPeer({ payload }) {
      const { gate, epoch, entries } = LedgerMessage.parse(JSON.parse(Buffer.from(payload).toString()));
      const [, upto] = vector[gate] ?? [epoch, 0];
      const next = entries.filter(({ seq }) => seq > upto);
      if (next[0] !== undefined && next[0].seq !== upto + 1) return { applied: 0, gap: true };
      if (next.length > 0) vector[gate] = [epoch, upto + next.length];
      return { applied: next.length, gap: false };
    },
    async vector() {
      return structuredClone(vector) as LedgerVector;
    },
    async caughtUp() {
      caughtUp += 1;
    },
    async status() {
      return {
        manifests: [...held].map(([eventId, { version, overlay }]) => ({
          eventId,
          version,
          overlayVersion: overlay,
          generatedAtMs: 0,
          expiresAtMs: 0,
          tickets: 0,
        })),
      } as unknown as Awaited<ReturnType<Decider['status']>>;
    },
    ...over,
  };
  return { decider, held, vector, caughtUp: () => caughtUp };
}

function sync(url: string, decider: ManifestSyncOptions['decider'], over: { token?: string; ca?: string; cert?: string; key?: string } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'stile-incoming-'));
  const alerts = new Map<string, string>();
  const logged: string[] = [];
  const made = createManifestSync({
    gate: GATE,
    decider,
    folder,
    client: createCloudClient({ url, token: 'device-token', ...over }),
    alerts: { raise: (id, _severity, message) => alerts.set(id, message), clear: (id) => alerts.delete(id) },
    log: testLog((level, message, fields) => logged.push(`${level} ${message} ${JSON.stringify(fields ?? {})}`)),
    timing: { retryFirstMs: 20, retryMaxMs: 100, catchUpAgainMs: 60_000, catchUpPeriodMs: 60_000, awayFirstMs: 5, awayPeriodMs: 20 },
  });
  cleanups.push(async () => {
    await made.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return { sync: made, folder, alerts, logged };
}

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
const file = randomBytes(700_000);
const wanted = (over: object = {}) => ({
  event_id: 'ev-1',
  version: 5,
  overlay_version: 5,
  sha256: sha256(file),
  size: file.length,
  url: '/offline/manifest/ev-1?version=5',
  key_id: 'k1',
  signature: Buffer.from('signed').toString('base64'),
  ...over,
});
const want = (...events: object[]) => Buffer.from(JSON.stringify({ schema: 1, events }));
const overlay = (from: number, to: number) => ({
  schema: 1,
  event_id: 'ev-1',
  from_version: from,
  to_version: to,
  tickets: [],
  key_id: 'k1',
  signature: Buffer.from('signed').toString('base64'),
});
/** Serves bytes as the cloud does, ranges included. Breaks off after `breakAfter` of them, once the gate has them all in its partial file. */
function serve(response: ServerResponse, request: IncomingMessage, bytes: Buffer, breakAfter = Infinity, partial = ''): void {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  response.writeHead(from > 0 ? 206 : 200, {
    'content-type': 'application/vnd.sqlite3',
    'content-length': bytes.length - from,
    ...(from > 0 ? { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` } : {}),
  });
  if (from + breakAfter >= bytes.length) return void response.end(bytes.subarray(from));
  response.write(bytes.subarray(from, from + breakAfter));
  const held = () => (existsSync(partial) ? statSync(partial).size : 0);
  void until('the partial file', () => held() === from + breakAfter).finally(() => response.destroy());
}

test('manifest sync fetches a wanted manifest with the device’s id and token, and installs it', async () => {
  const c = await cloud((request, response) => serve(response, request, file));
  const { decider, held } = deciderOf();
  const s = sync(c.url, decider);
  await s.sync.want(want(wanted({ url: `${c.url}/offline/manifest/ev-1?version=5` })));
  await until('installed', () => held.has('ev-1'));
  expect(held.get('ev-1')?.bytes.equals(file)).toBe(true);
  expect(c.seen).toHaveLength(1);
  expect(c.seen[0]?.path).toBe('/offline/manifest/ev-1?version=5&device_id=arena%2Fnorth-03');
  expect(c.seen[0]?.headers).toMatchObject({ authorization: 'Bearer device-token', accept: 'application/vnd.sqlite3' });
  await until('tidied', () => readdirSync(s.folder).length === 0 && s.sync.status().fetching === null);
  expect(s.sync.status()).toEqual({ fetching: null, failing: null, ledgerFailing: null });
});

test('manifest sync resumes a partial download, also after a restart', async () => {
  let breaks = 3;
  const c = await cloud((request, response) => serve(response, request, file, breaks-- > 0 ? 150_000 : Infinity, join(s.folder, `${sha256(file)}.part`)));
  const { decider, held } = deciderOf();
  const s: ReturnType<typeof sync> = sync(c.url, decider);
  writeFileSync(join(s.folder, `${sha256(file)}.part`), file.subarray(0, 100_000));
  writeFileSync(join(s.folder, `${'0'.repeat(64)}.part`), 'of no use any more');
  await s.sync.want(want(wanted()));
  await until('installed', () => held.has('ev-1'));
  expect(held.get('ev-1')?.bytes.equals(file)).toBe(true);
  expect(c.seen.map(({ headers }) => headers.range)).toEqual([100_000, 250_000, 400_000, 550_000].map((from) => `bytes=${from}-`));
  expect(existsSync(join(s.folder, `${'0'.repeat(64)}.part`))).toBe(false);
  await until('no alert remains', () => s.alerts.size === 0);
});

test('manifest sync refuses corrupt and endless files with an alert, and clears it after a good one', async () => {
  let attempt = 0;
  const c = await cloud((request, response) => {
    attempt += 1;
    if (attempt === 1) return serve(response, request, randomBytes(file.length));
    if (attempt === 2) {
      response.writeHead(200);
      const pour = () => {
        while (!response.destroyed && response.write(file));
      };
      response.on('drain', pour);
      return pour();
    }
    if (attempt === 3) return void response.writeHead(500).end('oops');
    return void setTimeout(() => serve(response, request, file), 50);
  });
  const { decider, held } = deciderOf();
  const s = sync(c.url, decider);
  await s.sync.want(want(wanted()));
  await until('alerted', () => s.alerts.has('manifest'));
  await until('installed', () => held.has('ev-1'));
  expect(held.get('ev-1')?.bytes.equals(file)).toBe(true);
  await until('cleared', () => s.alerts.size === 0);
});

test('a forged entry raises the alert at once and delays no other event', async () => {
  const other = randomBytes(1_000);
  const c = await cloud((request, response, url) => serve(response, request, url.pathname.endsWith('ev-2') ? other : file));
  const { decider, held } = deciderOf();
  const s = sync(c.url, decider);
  await s.sync.want(
    want(
      wanted({ signature: Buffer.from('forged').toString('base64') }),
      wanted({ event_id: 'ev-2', sha256: sha256(other), size: other.length, url: '/offline/manifest/ev-2' }),
    ),
  );
  await until('the good one', () => held.has('ev-2'));
  await until('alerted', () => s.alerts.get('manifest')?.includes('not signed') ?? false);
  expect(held.has('ev-1')).toBe(false);
  await s.sync.want(want(wanted()));
  await until('installed', () => held.has('ev-1'));
  await until('cleared', () => s.alerts.size === 0);
});

test('a newer manifest/want aborts a download that it no longer names', async () => {
  const newer = randomBytes(2_000);
  const c = await cloud((request, response, url) => {
    if (url.searchParams.get('version') === '6') return serve(response, request, newer);
    response.writeHead(200);
    response.write(file.subarray(0, 1_000));
  });
  const { decider, held } = deciderOf();
  const s = sync(c.url, decider);
  await s.sync.want(want(wanted()));
  await until('on its way', () => (s.sync.status().fetching?.receivedBytes ?? 0) > 0);
  await s.sync.want(want(wanted({ version: 6, overlay_version: 6, sha256: sha256(newer), size: newer.length, url: '/offline/manifest/ev-1?version=6' })));
  await until('the newer one', () => held.get('ev-1')?.version === 6);
  await until('tidied', () => readdirSync(s.folder).length === 0);
});

test('manifest sync fetches the signed overlays of a gap', async () => {
  const c = await cloud((request, response, url) => {
    const since = url.searchParams.get('since');
    if (since === null) return serve(response, request, file);
    const overlays = [
      [5, 7],
      [7, 8],
      [8, 9],
    ]
      .filter(([from]) => Number(from) >= Number(since))
      .map(([from, to]) => overlay(Number(from), Number(to)));
    response
      .writeHead(200, { 'content-type': 'application/json' })
      .end(JSON.stringify({ success: true, manifest: { eventId: 'ev-1', tickets: [{ overlays: ['a trap'] }], overlays } }));
  });
  const { decider, held } = deciderOf();
  const s = sync(c.url, decider);
  await s.sync.want(want(wanted({ overlay_version: 7 })));
  await until('file and changes', () => held.get('ev-1')?.overlay === 9);
  const record = held.get('ev-1');
  if (record === undefined) throw new Error('not held');
  record.overlay = 7;
  await s.sync.overlay(Buffer.from(JSON.stringify(overlay(8, 9))));
  await until('closed', () => record.overlay === 9);
  expect(c.seen.at(-1)?.path).toContain('since=7');
  const asked = c.seen.length;
  await s.sync.overlay(Buffer.from(JSON.stringify(overlay(9, 10))));
  await s.sync.overlay(Buffer.from(JSON.stringify(overlay(8, 9))));
  expect(record.overlay).toBe(10);
  expect(c.seen).toHaveLength(asked);
});

test('manifest sync reads the site’s ledger page by page to its end', async () => {
  const rows = [
    ...Array.from({ length: 250 }, (_, i) => ({
      gate: 'arena/north-04',
      epoch: 3,
      entry: { seq: i + 1, kind: 'alarm', hash: 'a'.repeat(64), what: 'x', detail: 'y'.repeat(50) },
    })),
    ...Array.from({ length: 30 }, (_, i) => ({ gate: 'arena/cloud', epoch: 1, entry: { seq: i + 1, kind: 'settlement', hash: 'b'.repeat(64) } })),
  ];
  const c = await cloud((_request, response, url) => {
    const after = JSON.parse(url.searchParams.get('after') ?? '{}') as Record<string, [number, number]>;
    const left = rows.filter(({ gate, entry }) => entry.seq > (after[gate]?.[1] ?? 0));
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ success: true, rows: left.slice(0, 120), more: left.length > 120 }));
  });
  const messages: number[] = [];
  const d = deciderOf();
  const apply = d.decider.applyPeer;
  const s = sync(c.url, {
    ...d.decider,
    applyPeer: (message) => {
      const read = LedgerMessage.parse(JSON.parse(Buffer.from(message.payload).toString()));
      expect(message.ledger).toBe(read.gate);
      messages.push(read.entries.length);
      return apply(message);
    },
  });
  await s.sync.gap();
  await until('caught up', () => d.caughtUp() === 1);
  expect(d.vector).toEqual({ 'arena/north-04': [3, 250], 'arena/cloud': [1, 30] });
  expect(messages).toEqual([100, 20, 100, 20, 10, 30]);
  expect(c.seen[0]?.path).toBe('/sites/arena/ledger?after=%7B%7D');
  s.sync.connected();
  await until('again', () => d.caughtUp() === 2);
  expect(await s.sync.refresh()).toMatchObject({ failing: null, ledgerFailing: null });
  expect(d.caughtUp()).toBe(3);
});

test('manifest sync backs off when the site’s ledger is endless, truncated or malformed', async () => {
  let answer = '{"success":true,"rows":[],"more":true}';
  const c = await cloud((_request, response) => {
    response.writeHead(200).end(answer);
  });
  const d = deciderOf();
  const s = sync(c.url, d.decider);
  await s.sync.gap();
  await until('failing', () => s.sync.status().ledgerFailing?.includes('returns none') ?? false);
  for (const [text, why] of [
    ['{"success":true,"rows":[', 'early'],
    ['{"success":true,"rows":[]}', 'more'],
    ['<html>', 'JSON'],
    [`{"rows":["${'x'.repeat(300_000)}"]}`, 'bytes'],
  ] as const) {
    answer = text;
    await until(why, () => s.sync.status().ledgerFailing?.includes(why) ?? false);
  }
  expect(d.caughtUp()).toBe(0);
  expect(c.seen.length).toBeLessThan(100);
});

test('the cloud client sends its identity to the cloud alone, over TLS', async () => {
  const ca = await createTestCa();
  const device = await ca.issue(GATE);
  const names: string[] = [];
  const server = createTlsServer({ cert: ca.broker.cert, key: ca.broker.key, ca: ca.ca, requestCert: true, rejectUnauthorized: true }, (request, response) => {
    names.push(String((request.socket as TLSSocket).getPeerCertificate().subject.CN));
    serve(response, request, file);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const elsewhere = await cloud((request, response) => serve(response, request, file));
  const d = deciderOf();
  const s = sync(url, d.decider, { ca: ca.ca, ...device });
  await s.sync.want(want(wanted(), wanted({ event_id: 'ev-2', url: `${elsewhere.url}/file` })));
  await until('both', () => d.held.size === 2);
  expect(names).toEqual([GATE]);
  expect(elsewhere.seen[0]?.headers.authorization).toBeUndefined();

  const stranger = sync(url, deciderOf().decider, { ca: ca.ca });
  await stranger.sync.want(want(wanted()));
  await until('refused', () => stranger.sync.status().failing !== null);
});

test('manifest sync closes at once during a download and keeps the partial file', async () => {
  const c = await cloud((_request, response) => {
    response.writeHead(200);
    response.write(file.subarray(0, 50_000));
  });
  const d = deciderOf();
  const s = sync(c.url, d.decider);
  await s.sync.want(want(wanted()));
  await s.sync.gap();
  await until('half', () => (s.sync.status().fetching?.receivedBytes ?? 0) === 50_000);
  await s.sync.close();
  expect(readdirSync(s.folder)).toEqual([`${sha256(file)}.part`]);
  expect(s.alerts.size).toBe(0);
});

test('while the broker is away, changes come over HTTP from time to time, and a cloud that is away as well raises nothing (T14)', async () => {
  let version = 5;
  let isDown = true;
  const { url, seen } = await cloud((request, response) => {
    if (isDown) return void request.socket.destroy();
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://x');
    if (pathname.startsWith('/sites/')) return void response.end(JSON.stringify({ rows: [], more: false }));
    const since = Number(searchParams.get('since'));
    response.end(JSON.stringify({ manifest: { overlays: since < version ? [overlay(since, version)] : [] } }));
  });
  const { decider, held } = deciderOf();
  held.set('ev-1', { version: 5, overlay: 5, bytes: file });
  const { sync: made, alerts, logged } = sync(url, decider);
  made.away();
  await until('three attempts', () => seen.filter(({ path }) => path.startsWith('/offline/')).length >= 3);
  expect(alerts.size).toBe(0);
  // Said once, not with every period.
  expect(logged.filter((line) => line.includes('while the broker is away failed'))).toHaveLength(1);
  isDown = false;
  version = 6;
  await until('the change', () => held.get('ev-1')?.overlay === 6);
  // With the broker back nothing is asked for any more: its own messages carry the changes.
  made.connected();
  const asked = () => seen.filter(({ path }) => path.startsWith('/offline/')).length;
  const before = asked();
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(asked() - before).toBeLessThanOrEqual(1);
});
