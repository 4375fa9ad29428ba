/** Revoked, replaced and removed gates at the real Mosquitto with TLS: the list that it reads, and the connections that it ends. */
import { webcrypto, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import mqtt, { type MqttClient } from 'mqtt';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { newEnrolmentToken } from '../devices/assignment.ts';
import { openAuthority, REVOCATION_LIST_DAYS, revocationList } from '../devices/certificates.ts';
import { registerEnrolment } from '../devices/enrolment.ts';
import type { App } from '../http/server.ts';
import { runCli } from './main.ts';

const DAY_MS = 86_400_000;
const EC = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const folder = mkdtempSync(join(tmpdir(), 'stile-pki-'));
const files = { cert: join(folder, 'ca.crt'), key: join(folder, 'ca.key') };
let fresh: FreshDatabase;
let venue: Venue;
let broker: Broker;
let app: App;

beforeAll(async () => {
  [fresh, broker] = await Promise.all([freshDatabase(), startBroker({ tls: true })]);
  venue = await makeVenue(fresh.url, { site: 'arena', gates: ['north', 'south', 'west'] });
  const { ca, caKey } = broker.ca as { ca: string; caKey: string };
  writeFileSync(files.cert, ca);
  writeFileSync(files.key, caKey, { mode: 0o600 });
  app = await createTestHttp(fresh.database);
  registerEnrolment(app, { database: fresh.database, authority: await openAuthority(files), keys: [], broker: null });
  await broker.reload(venue.gates.map((gate) => ({ gate, revoked: false })));
});
afterAll(async () => {
  await app.close();
  await broker.stop();
  await fresh.drop();
  rmSync(folder, { recursive: true });
});

async function cli(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ['', ''];
  const code = await runCli(args, {
    env: {
      DATABASE_URL: fresh.servingUrl,
      STILE_TENANT: venue.tenantName,
      STILE_MQTT_URL: broker.cloudUrl,
      STILE_MQTT_CA: files.cert,
      STILE_CA_CERT: files.cert,
      STILE_CA_KEY: files.key,
      STILE_PUBLIC_URL: 'https://127.0.0.1',
    },
    interactive: false,
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
  });
  return { code, out, err };
}
const sh = async (...args: string[]) => {
  const ran = await cli(...args);
  expect([args.join(' '), ran.code, ran.err]).toEqual([args.join(' '), 0, ran.err]);
  return ran;
};

interface Machine {
  readonly cert: string;
  readonly key: string;
}
/** A machine enrols as this gate, as stile-gate enroll does it. */
async function enrol(gate: string): Promise<Machine> {
  const made = await fresh.database.withTenant(venue.tenantId, (client) => newEnrolmentToken(client, venue.tenantId, gate, 1));
  x509.cryptoProvider.set(webcrypto as Crypto);
  const keys = (await webcrypto.subtle.generateKey(EC, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair;
  const csr = (await x509.Pkcs10CertificateRequestGenerator.create({ name: 'CN=x', keys, signingAlgorithm: EC })).toString('pem');
  const answer = await app.inject({ method: 'POST', url: '/enroll', payload: { token: made?.token, csr } });
  expect(answer.statusCode).toBe(200);
  return {
    cert: answer.json()['certificate'] as string,
    key: x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY'),
  };
}
const connect = async (machine: Machine): Promise<MqttClient> => {
  const client = await mqtt.connectAsync(broker.url, { protocolVersion: 5, reconnectPeriod: 0, ca: readFileSync(files.cert), ...machine }, false);
  client.on('error', () => undefined);
  return client;
};
const ledgerOf = (gate: string) => `stile/1/${gate}/ledger`;
/** Returns whether the broker lets it in and takes what it says. */
const getsIn = async (machine: Machine, gate: string): Promise<boolean> => {
  const client = await connect(machine).catch(() => null);
  if (client === null) return false;
  const taken = await speaks(client, gate);
  await client.endAsync(true);
  return taken;
};
const speaks = async (client: MqttClient, gate: string): Promise<boolean> =>
  client.connected &&
  (await Promise.race([
    client.publishAsync(ledgerOf(gate), 'x', { qos: 1 }).then(
      () => true,
      () => false,
    ),
    new Promise<boolean>((lost) => client.once('close', () => lost(false))),
  ]));
/** Does what stile-broker.service does, in its order. */
async function brokerService(): Promise<number> {
  const began = performance.now();
  await sh('crl', '--out', broker.crlFile);
  process.kill(broker.pid() as number, 'SIGHUP');
  await sh('end-sessions', '--crl', broker.crlFile, '--broker', broker.url);
  return performance.now() - began;
}
test('B5, promise 7: the stolen gate’s connection ends when its replacement is in, it cannot come back, and the replacement works', async () => {
  const gate = venue.gates[0] as string;
  const bystander = await connect(await enrol(venue.gates[1] as string));
  const stolen = await enrol(gate);
  const thief = await connect(stolen);
  await brokerService();
  expect(await speaks(thief, gate)).toBe(true);
  const replacement = await enrol(gate);
  // The list alone ends nobody.
  expect(await speaks(thief, gate)).toBe(true);
  expect(await brokerService()).toBeLessThan(10_000);
  await expect.poll(() => thief.connected).toBe(false);
  // Zero crossings: not once of many tries, not at the same moment as others.
  expect(await Promise.all(Array.from({ length: 10 }, () => getsIn(stolen, gate)))).toEqual(Array(10).fill(false));
  expect(await getsIn(replacement, gate)).toBe(true);
  // The others stayed connected all the while, and a second run disturbs nobody.
  const settled = await connect(replacement);
  await brokerService();
  expect([await speaks(settled, gate), await speaks(bystander, venue.gates[1] as string)]).toEqual([true, true]);
  await settled.endAsync();
  await bystander.endAsync();
});

test('B5: a TLS session from before the revocation does not get round the list', async () => {
  const gate = venue.gates[2] as string;
  const machine = await enrol(gate);
  await brokerService();
  const { port } = new URL(broker.url);
  const reach = (session?: Buffer) =>
    new Promise<{ session: Buffer | null; got: boolean; reused: boolean }>((done) => {
      let kept: Buffer | null = null;
      let got = false;
      const socket = tlsConnect({ host: '127.0.0.1', port: Number(port), ca: readFileSync(files.cert), cert: machine.cert, key: machine.key, session });
      socket.on('session', (ticket) => {
        kept = ticket;
      });
      // CONNECT of MQTT 3.1.1 with the client id "x": the certificate's name takes its place.
      socket.on('secureConnect', () => socket.write(Buffer.from([0x10, 13, 0, 4, 77, 81, 84, 84, 4, 2, 0, 60, 0, 1, 120])));
      socket.on('data', () => {
        got = true;
        setTimeout(() => socket.end(), 50);
      });
      socket.on('error', () => undefined);
      socket.on('close', () => done({ session: kept, got, reused: socket.isSessionReused() }));
    });
  const before = await reach();
  expect(before.got).toBe(true);
  await sh('gate', 'revoke', gate, '--yes', gate);
  await brokerService();
  expect((await reach(before.session ?? undefined)).got).toBe(false);
});

test('B5: the list is signed by the authority, names what is revoked and nothing else, and each is later than the one before', async () => {
  const gate = venue.gates[1] as string;
  const first = new X509Certificate((await enrol(gate)).cert).serialNumber.toLowerCase();
  const second = new X509Certificate((await enrol(gate)).cert).serialNumber.toLowerCase();
  const file = join(folder, 'list.crl');
  await sh('crl', '--out', file);
  const text = readFileSync(file, 'utf8');
  const list = revocationList(text);
  expect([list?.serials.has(first), list?.serials.has(second)]).toEqual([true, false]);
  expect(Math.round(((list?.nextUpdate.getTime() ?? 0) - Date.now()) / DAY_MS)).toBe(REVOCATION_LIST_DAYS);
  expect(await new x509.X509Crl(text).verify({ publicKey: new x509.X509Certificate(readFileSync(files.cert, 'utf8')).publicKey })).toBe(true);
  await sh('crl', '--out', file);
  expect(revocationList(readFileSync(file, 'utf8'))?.thisUpdate.getTime()).toBeGreaterThan(list?.thisUpdate.getTime() ?? Infinity);
  // An end that nobody can see coming is one that is missed.
  const shown = JSON.parse((await sh('pki', 'show', '--json')).out) as { name: string; of: string; days: number }[];
  expect(shown.filter(({ name }) => name === gate)).toEqual([{ name: gate, of: `gate, serial ${second}`, ends: expect.any(String), days: 824 }]);
  expect(shown.find(({ name }) => name === files.cert)?.days).toBeGreaterThan(3_000);
});

test('B5: what cannot be taken back asks for the name; a typo is removed, a gate with a record is not', async () => {
  const typo = 'aerna/north';
  await sh('gate', 'add', typo);
  expect((await cli('gate', 'remove', typo)).code).toBe(2);
  expect((await cli('gate', 'revoke', venue.gates[0] as string, '--yes', venue.gates[1] as string)).code).toBe(2);
  await sh('gate', 'remove', typo, '--yes', typo);
  expect((await cli('gate', 'remove', typo, '--yes', typo)).err).toContain('there is no gate');
  // Its site went with it: the name is free again for another tenant.
  expect((await fresh.database.asOwner((client) => client.query("SELECT 1 FROM sites WHERE site_id = 'aerna'"))).rowCount).toBe(0);
  const gate = venue.gates[1] as string;
  await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query("INSERT INTO ledgers (tenant_id, gate, site_id) VALUES ($1, $2, 'arena')", [venue.tenantId, gate]),
  );
  expect((await cli('gate', 'remove', gate, '--yes', gate)).err).toContain('its record stays');
});

test('B5: replace prints a code for a known gate and none for a typo; the machine in place goes on until the new one enrols', async () => {
  const gate = venue.gates[1] as string;
  const machine = await enrol(gate);
  const { out } = await sh('gate', 'replace', gate);
  expect(out).toMatch(/^STILE1:/);
  expect((await cli('gate', 'replace', 'arena/sotuh')).err).toContain('there is no gate');
  await brokerService();
  expect(await getsIn(machine, gate)).toBe(true);
});

test('S6: a key of the authority that root gave to the service’s group is read by root, one that others read is not', async () => {
  if (process.getuid?.() !== 0) return;
  const { chownSync, chmodSync } = await import('node:fs');
  const key = join(folder, 'given.key');
  writeFileSync(key, readFileSync(files.key));
  chownSync(key, 0, 65_534);
  chmodSync(key, 0o640);
  await openAuthority({ ...files, key });
  chmodSync(key, 0o644);
  await expect(openAuthority({ ...files, key })).rejects.toThrow('mode 644');
});
