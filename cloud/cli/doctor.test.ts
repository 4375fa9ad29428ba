/** What `stile-cloud doctor` says of each fault, with real Postgres, a real broker and real certificates. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { type FreshDatabase, freshDatabase, makeVenue } from '../../testkit/database.ts';
import { writeCertificates } from '../devices/certificates.ts';
import { aclFile } from '../mqtt/broker-acl.ts';
import type { Check } from './doctor.ts';
import { doctorCommand } from './doctor.ts';
import { createHost, type Host } from './init/host.ts';

let fresh: FreshDatabase;
let broker: Broker;
let server: Server;
let publicUrl: string;
let gates: readonly string[];
const folder = mkdtempSync(join(tmpdir(), 'stile-doctor-'));
const root = join(folder, 'root');
const pki = join(root, 'etc/stile/pki');
const file = (path: string, text: string) => {
  mkdirSync(join(root, path, '..'), { recursive: true });
  writeFileSync(join(root, path), text);
};

beforeAll(async () => {
  fresh = await freshDatabase();
  gates = (await makeVenue(fresh.url)).gates;
  broker = await startBroker();
  mkdirSync(pki, { recursive: true });
  await writeCertificates(pki, ['127.0.0.1']);
  const pem = (name: string) => readFileSync(join(pki, name), 'utf8');
  server = createServer({ cert: pem('broker.crt'), key: pem('broker.key') }, (request, response) => {
    response.writeHead(request.url === '/enroll/ca' ? 200 : 404, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ success: true, ca: pem('gates-ca.crt') }));
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  publicUrl = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  file('etc/mosquitto/stile/gates.crl', pem('gates.crl'));
});
afterAll(async () => {
  server.close();
  await broker.stop();
  await fresh.drop();
  rmSync(folder, { recursive: true });
});

/** Programs of the machine answer as told; its files are those below `root`. */
const hostWith = (answers: Readonly<Record<string, string>>): Host => ({
  ...createHost(root),
  has: () => true,
  run: (program) => ({ status: 0, out: answers[program] ?? '', err: '' }),
});
const settings = () => ({
  DATABASE_URL: fresh.servingUrl,
  STILE_MQTT_URL: broker.url,
  STILE_CA_CERT: join(pki, 'gates-ca.crt'),
  STILE_CA_KEY: join(pki, 'gates-ca.key'),
  STILE_PUBLIC_URL: publicUrl,
});
async function examine(env: Readonly<Record<string, string>> = {}, answers: Readonly<Record<string, string>> = { timedatectl: 'yes\n' }) {
  let out = '';
  const said = await doctorCommand(
    { env: { ...settings(), ...env }, interactive: false, out: (text) => void (out += text), err: () => undefined },
    { json: true },
    hostWith(answers),
  ).catch((error: Error) => error);
  const { checks } = JSON.parse(out) as { checks: Check[] };
  return { failed: said instanceof Error, of: (part: string) => checks.filter((check) => check.part === part) };
}

test('doctor finds nothing to correct where all is well, but that no backup was ever made', async () => {
  file('etc/mosquitto/stile/acl', aclFile(gates.map((gate) => ({ gate, revoked: false }))));
  const { failed, of } = await examine();
  expect(failed).toBe(false);
  for (const part of ['settings', 'database', 'roles', 'schema', 'broker', 'broker rights', 'revocations', 'certificates', 'public address', 'time'])
    expect([part, of(part)]).toEqual([part, [expect.objectContaining({ result: 'ok' })]]);
  expect(of('backup')).toEqual([expect.objectContaining({ result: 'warn', what: expect.stringContaining('none was ever made') })]);
});

test('doctor names each fault with what to do', async () => {
  const stranger = join(folder, 'stranger');
  mkdirSync(stranger);
  await writeCertificates(stranger, ['127.0.0.1']);
  file('etc/mosquitto/stile/acl', aclFile([]));
  file('var/lib/stile-cloud/backup.json', JSON.stringify({ backup_at: new Date(Date.now() - 5 * 86_400_000).toISOString() }));
  const cases: readonly (readonly [env: Record<string, string>, part: string, result: string, what: RegExp])[] = [
    [{ STILE_MQTT_URL: '' }, 'settings', 'fail', /STILE_MQTT_URL/],
    [{ DATABASE_URL: 'postgres://stile:wrong@127.0.0.1:9/stile' }, 'database', 'fail', /can't be reached|refused/],
    [{ DATABASE_URL: fresh.url }, 'roles', 'fail', /superuser|owner/],
    [{ STILE_MQTT_URL: 'mqtt://127.0.0.1:9' }, 'broker', 'fail', /9/],
    [{}, 'broker rights', 'fail', /not what enrolment says/],
    [{ STILE_CA_CERT: join(stranger, 'gates-ca.crt'), STILE_CA_KEY: join(stranger, 'gates-ca.key') }, 'public address', 'fail', /another cloud|certificate/],
    [{ STILE_PUBLIC_URL: 'https://127.0.0.1:9' }, 'public address', 'fail', /ECONNREFUSED/],
    [{}, 'time', 'warn', /no time server/],
    [{}, 'backup', 'warn', /5 days old/],
  ];
  for (const [env, part, result, what] of cases) {
    const { failed, of } = await examine(env, { timedatectl: 'no\n' });
    expect([part, of(part)]).toEqual([part, [{ part, result, what: expect.stringMatching(what), hint: expect.any(String) }]]);
    expect(failed).toBe(true);
  }
  file('etc/mosquitto/stile/gates.crl', 'rubbish');
  expect((await examine()).of('revocations')).toEqual([expect.objectContaining({ result: 'fail', hint: expect.stringContaining('stile-broker.service') })]);
});
