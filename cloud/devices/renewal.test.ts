/** `stile-gate renew` as a process against the real routes, real Postgres and the real Mosquitto with TLS. */
import { execFile } from 'node:child_process';
import { createHash, generateKeyPairSync, sign, X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Identity, TestCa } from '../../deploy/mosquitto/test-ca.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { connectPeer } from '../../testkit/mqtt-client.ts';
import type { App } from '../http/server.ts';
import { renewToken } from './assignment.ts';
import { revokeCertificates } from './certificate-records.ts';
import { openAuthority } from './certificates.ts';
import { registerRenewal } from './renewal.ts';

const root = join(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'stile-renew-'));
const at = (name: string) => join(folder, name);
let fresh: FreshDatabase;
let venue: Venue;
let broker: Broker;
let ca: TestCa;
let app: App;
let cloud: string;
let gate: string;

beforeAll(async () => {
  [fresh, broker] = await Promise.all([freshDatabase(), startBroker({ tls: true })]);
  ca = broker.ca as TestCa;
  venue = await makeVenue(fresh.url, { site: 'arena', gates: ['north', 'south'] });
  gate = venue.gates[0] as string;
  writeFileSync(at('ca.crt'), ca.ca);
  writeFileSync(at('ca.key'), ca.caKey, { mode: 0o600 });
  app = await createTestHttp(fresh.database);
  registerRenewal(app, { database: fresh.database, authority: await openAuthority({ cert: at('ca.crt'), key: at('ca.key') }) });
  await app.listen({ host: '127.0.0.1', port: 0 });
  cloud = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
  mkdirSync(at('tls'));
  const token = await inTenant((client) => renewToken(client, gate));
  writeFileSync(at('token'), `${token}\n`, { mode: 0o600 });
  writeFileSync(at('keys.json'), '{"keys": []}');
  writeFileSync(
    at('gate.yaml'),
    `gate: ${gate}
readers: [{ name: in, path: ./reader }]
turnstile: { release: pulse, sensor: per_direction }
board:
  driver: sim
mqtt: { url: '${broker.url}', ca: ca.crt, cert: tls/gate.pem, key: tls/gate.key }
cloud: { url: '${cloud}', token_file: token, keys: keys.json }
store: { path: ./store }
`,
  );
  await eventFrom(30);
});
afterAll(async () => {
  await app.close();
  await broker.stop();
  await fresh.drop();
  rmSync(folder, { recursive: true });
});

const inTenant: <T>(work: Parameters<typeof fresh.database.withTenant<T>>[1]) => Promise<T> = (work) => fresh.database.withTenant(venue.tenantId, work);
/** The gate's event begins so many days from now. */
const eventFrom = (days: number) =>
  inTenant((client) =>
    client.query("UPDATE events SET starts_at = now() + make_interval(days => $1), ends_at = now() + make_interval(days => $1) + interval '3 hours'", [days]),
  );
/** Gives the machine a certificate that ends in so many days, and the cloud its record. */
async function machineWith(days: number, of = gate): Promise<Identity> {
  const identity = await ca.issue(of, days);
  const { raw, serialNumber, validTo } = new X509Certificate(identity.cert);
  await inTenant((client) =>
    client.query(
      "INSERT INTO gate_certificates (tenant_id, serial, device, certificate_sha256, not_after, issued_at) VALUES ($1, $2, $3, $4, $5, now() - interval '400 days')",
      [venue.tenantId, serialNumber.toLowerCase(), of, createHash('sha256').update(raw).digest(), new Date(validTo)],
    ),
  );
  writeFileSync(at('tls/gate.pem'), identity.cert);
  writeFileSync(at('tls/gate.key'), identity.key, { mode: 0o600 });
  return identity;
}
const renewed = () =>
  new Promise<{ code: number; said: string }>((done) => {
    execFile(process.execPath, [join(root, 'daemon/cli/main.ts'), 'renew', '--config', at('gate.yaml')], (error, stdout, stderr) =>
      done({ code: error === null ? 0 : Number(error.code), said: stdout + stderr }),
    );
  });
const here = () => ({ cert: readFileSync(at('tls/gate.pem'), 'utf8'), key: readFileSync(at('tls/gate.key'), 'utf8') });
const getsIn = async (identity: Identity) => {
  const peer = await connectPeer(broker.url, { ca: ca.ca, ...identity });
  await peer.end();
};

test('B5: a certificate renews once it is due, not before and not while its event runs; both certificates open the broker', async () => {
  await machineWith(825);
  expect(await renewed()).toMatchObject({ code: 0, said: expect.stringContaining('is due on') });
  const old = await machineWith(0.5);
  await eventFrom(0);
  expect(await renewed()).toMatchObject({ code: 75, said: expect.stringContaining('EVENT_RUNS') });
  expect(here()).toEqual(old);
  await eventFrom(30);
  expect(await renewed()).toMatchObject({ code: 0, said: expect.stringContaining('renewed until') });
  const now = here();
  expect([now.cert === old.cert, now.key === old.key, existsSync(at('tls/gate.pem.renewed'))]).toEqual([false, false, false]);
  expect(Date.parse(new X509Certificate(now.cert).validTo)).toBeGreaterThan(Date.now() + 800 * 86_400_000);
  await getsIn(now);
  await getsIn(old);
});

test('B5: a power cut between the two files is completed by the next run', async () => {
  const [before, after] = [await machineWith(825), await ca.issue(gate)];
  writeFileSync(at('tls/gate.pem.renewed'), `${after.cert.trimEnd()}\n${after.key.trimEnd()}\n`);
  writeFileSync(at('tls/gate.key'), after.key);
  expect(here().cert).toBe(before.cert);
  expect((await renewed()).code).toBe(0);
  const now = here();
  expect([new X509Certificate(now.cert).serialNumber, now.key.trim()]).toEqual([new X509Certificate(after.cert).serialNumber, after.key.trim()]);
});

test('B5: a gate from store renews an ended certificate after staff let it back, and not after 400 days', async () => {
  await inTenant((client) => client.query("UPDATE gate_certificates SET issued_at = now() - interval '2 days'"));
  await machineWith(-3);
  expect(await renewed()).toMatchObject({ code: 1, said: expect.stringContaining('LET_BACK_FIRST') });
  const letBack = () => inTenant((client) => client.query("UPDATE devices SET let_back_until = now() + interval '7 days' WHERE name = $1", [gate]));
  await letBack();
  expect((await renewed()).code).toBe(0);
  await getsIn(here());
  // The permission is used up.
  await machineWith(-3);
  expect((await renewed()).code).toBe(1);
  await machineWith(-401);
  await letBack();
  expect(await renewed()).toMatchObject({ code: 1, said: expect.stringContaining('ENDED_LONG_AGO') });
});

test('B5: neither a revoked certificate, nor another gate’s, nor a token without the old key is renewed', async () => {
  const asked = (identity: Identity, proofKey = identity.key) => {
    const csr = 'x'.repeat(40);
    const proof = sign('sha256', Buffer.from(csr), proofKey).toString('base64');
    const headers = { authorization: `Bearer ${readFileSync(at('token'), 'utf8').trim()}` };
    return app.inject({ method: 'POST', url: '/enroll/renew', headers, payload: { csr, certificate: identity.cert, proof } });
  };
  const mine = await machineWith(0.5);
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const stranger = privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
  expect((await asked(mine, stranger)).json()).toMatchObject({ error: 'NOT_YOUR_CERTIFICATE' });
  // The proof holds, so the request itself is looked at.
  expect((await asked(mine)).json()).toMatchObject({ error: 'BAD_REQUEST' });
  await machineWith(0.5, venue.gates[1] as string);
  expect(await renewed()).toMatchObject({ code: 1, said: expect.stringContaining('NOT_YOUR_CERTIFICATE') });
  const stolen = await machineWith(0.5);
  await inTenant((client) => revokeCertificates(client, gate, 'replaced'));
  expect(await renewed()).toMatchObject({ code: 1, said: expect.stringContaining('REVOKED') });
  expect(here()).toEqual(stolen);
});
