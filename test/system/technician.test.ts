/** A new gate, from a token to the first guest, and what doctor says of it: real cloud, real broker with TLS and ACL. */

import { type ChildProcess, spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectGate } from '../../daemon/control/client.ts';
import type { GateStatus } from '../../daemon/control/protocol.ts';
import { openPtyPair, type PtyPair } from '../../daemon/sim/pty-pair.ts';
import { writeTestCa } from '../../deploy/mosquitto/test-ca.ts';
import { decodeEnrolment, encodeEnrolment } from '../../rules/enrolment-code.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { type FreshDatabase, freshDatabase } from '../../testkit/database.ts';
import { openStack, run, type Stack } from '../../testkit/stack.ts';
import { eventually } from './environment.ts';

const STILE_GATE = fileURLToPath(new URL('../../daemon/stile-gate', import.meta.url));
const STILE_CLOUD = fileURLToPath(new URL('../../cloud/stile-cloud', import.meta.url));
const GATE = 'arena/north';
const CODE = 'A0B1C2D3E4F5061728394A5B6C7D8E9F';
let [dir, folder] = ['', ''];
let broker: Broker;
let database: FreshDatabase;
let stack: Stack;
let reader: PtyPair;
let gate: ChildProcess | null = null;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'stile-technician-'));
  folder = join(dir, 'etc');
  mkdirSync(folder);
  mkdirSync(join(dir, 'store'));
  broker = await startBroker({ tls: true, acl: [{ gate: GATE, revoked: false }] });
  const pki = join(dir, 'pki');
  if (broker.ca === null) throw new Error('no authority');
  await writeTestCa(broker.ca, pki, []);
  writeFileSync(join(pki, 'gates-ca.key'), broker.ca.caKey, { mode: 0o600 });
  database = await freshDatabase();
  stack = await openStack({
    dir,
    databaseUrl: database.servingUrl,
    mqtt: { url: broker.cloudUrl, ca: join(pki, 'gates-ca.crt'), cert: join(pki, 'cloud.crt'), key: join(pki, 'cloud.key') },
    env: { STILE_CA_CERT: join(pki, 'gates-ca.crt'), STILE_CA_KEY: join(pki, 'gates-ca.key'), STILE_GATE_BROKER_URL: broker.url },
  });
  writeFileSync(join(dir, 'tickets.csv'), `ticket_id,code,tier\nT-1,${CODE},standard\n`);
  await stack.cloud('event', 'put', 'concert', '--site', 'arena', '--name', 'Concert', '--ends', '2099-01-01T00:00Z', '--no-wait');
  await stack.cloud('import', 'concert', join(dir, 'tickets.csv'), '--no-wait');
  await stack.cloud('assign', GATE, 'concert', '--new', '--token-file', join(dir, 'first.token'), '--no-wait');
  await stack.startCloud();
  reader = openPtyPair({ readerLink: join(dir, 'reader'), guestLink: join(dir, 'guest') });
  writeFileSync(
    join(folder, 'gate.yaml'),
    `gate: ${GATE}
readers: [{ name: in, path: ../reader }]
board: { driver: sim, sim_socket: ../sim.sock, sim_passage_ms: 50 }
store: { path: ../store }
control: { socket: ../gate.sock }
`,
  );
});
afterAll(async () => {
  gate?.kill('SIGKILL');
  reader?.close();
  await stack?.close();
  await database?.drop();
  await broker?.stop();
  rmSync(dir, { recursive: true, force: true });
});

const cli = (...args: readonly string[]) => run(STILE_GATE, [...args, '--config', join(folder, 'gate.yaml')]);
const newToken = async (name = GATE) => (JSON.parse(await stack.cloud('enroll', name, '--json')) as { token: string }).token;
const until = (fits: (now: GateStatus) => boolean) => async () => {
  const client = await connectGate(join(dir, 'gate.sock')).catch(() => null);
  if (client === null) return false;
  try {
    return fits(await client.call<GateStatus>('status'));
  } finally {
    client.close();
  }
};
const enroll = (...args: readonly string[]) => cli('enroll', '--cloud', stack.cloudUrl, '--broker', broker.url, ...args);

test('what is wrong is said before the token is spent', async () => {
  const token = await newToken();
  expect(await cli('enroll', '--token', token)).toMatchObject({ code: 2, stderr: expect.stringContaining("cloud's address is missing") });
  expect(await cli('enroll', '--token', token, '--cloud', 'http://cloud.example', '--broker', broker.url)).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('https://'),
  });
  expect(await cli('enroll', '--token', token, '--cloud', 'http://127.0.0.1:9', '--broker', broker.url)).toMatchObject({ code: 69 });
  expect(await enroll('--token', 'stile-enrol-never-given-0123456789')).toMatchObject({ code: 1, stderr: expect.stringContaining('opens nothing') });
  expect(existsSync(join(folder, 'tls/gate.key'))).toBe(false);
  expect(existsSync(join(folder, 'conf.d/50-enrolment.yaml'))).toBe(false);
});

test('a token from the boot partition makes it a gate: certificate, keys, tickets, first guest; doctor finds nothing to mend', async () => {
  const token = await newToken();
  const boot = join(dir, 'stile-enroll.yaml');
  writeFileSync(boot, `cloud: ${stack.cloudUrl}\nbroker: ${broker.url}\ntoken: ${token}\n`);
  const bought = await cli('enroll', '--file', boot);
  expect(bought).toMatchObject({ code: 0, stdout: expect.stringMatching(/this is arena\/north now[\s\S]*assigned to concert[\s\S]*next: systemctl restart/) });
  expect(new X509Certificate(readFileSync(join(folder, 'tls/gate.pem'))).subject).toContain(`CN=${GATE}`);
  for (const secret of ['tls/gate.key', 'cloud-token']) expect(statSync(join(folder, secret)).mode & 0o007).toBe(0);
  expect(await cli('check-config')).toMatchObject({ code: 0 });
  expect(bought.stdout).not.toContain(token);
  gate = spawn(STILE_GATE, ['run', '--config', join(folder, 'gate.yaml')], { stdio: 'ignore' });
  await eventually(
    'the gate is online and has its tickets',
    until((now) => now.uplink?.online === true && now.manifests.length === 1 && now.signals.in === 'ready'),
  );
  writeFileSync(join(dir, 'guest'), `${CODE}\r\n`);
  await eventually(
    'the guest is in',
    until((now) => now.totals.passages === 1),
  );
  await eventually(
    'the clock is measured',
    until((now) => now.clock.offset_ms !== null),
  );
  const { stdout } = await cli('doctor', '--json');
  const { checks } = JSON.parse(stdout) as { checks: { part: string; result: string; cause: string }[] };
  expect(checks.filter(({ result }) => result === 'fail')).toEqual([]);
  const cause = (part: string) => checks.find((check) => check.part === part)?.cause;
  expect([cause('cloud'), cause('keys'), cause('broker')]).toEqual([
    `${stack.cloudUrl} answers and takes the token`,
    expect.stringMatching(/^the cloud signs with .*, which is pinned$/),
    `online at ${broker.url}`,
  ]);
});

test('a second enrolment wants --force; another gate’s token changes nothing; a forgotten key or a wrong token is named', async () => {
  const token = await newToken();
  expect(await enroll('--token', token)).toMatchObject({ code: 1, stderr: expect.stringContaining('--force') });
  const before = readFileSync(join(folder, 'tls/gate.pem'), 'utf8');
  await stack.cloud('assign', 'arena/south', 'concert', '--new', '--token-file', join(dir, 'south.token'), '--no-wait');
  expect(await enroll('--token', await newToken('arena/south'), '--force')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('configured as arena/north'),
  });
  expect(readFileSync(join(folder, 'tls/gate.pem'), 'utf8')).toBe(before);
  expect(await enroll('--token', token, '--force')).toMatchObject({ code: 0 });
  expect(readFileSync(join(folder, 'tls/gate.pem'), 'utf8')).not.toBe(before);
  const keys = JSON.parse(readFileSync(join(folder, 'keys.json'), 'utf8')) as { keys: { key_id: string }[] };
  writeFileSync(join(folder, 'keys.json'), JSON.stringify({ keys: keys.keys.map((key) => ({ ...key, key_id: 'another' })) }));
  const strange = JSON.parse((await cli('doctor', '--json')).stdout) as { checks: { part: string; result: string; cause: string }[] };
  expect(strange.checks.find(({ part }) => part === 'keys')).toMatchObject({ result: 'fail', cause: expect.stringContaining('another pinned') });
  writeFileSync(join(folder, 'cloud-token'), 'not-the-token\n', { mode: 0o600 });
  const refused = JSON.parse((await cli('doctor', '--json')).stdout) as { checks: { part: string; result: string; cause: string }[] };
  expect(refused.checks.find(({ part }) => part === 'cloud')).toMatchObject({ result: 'fail', cause: expect.stringContaining('the token is not taken') });
});

/** Stands before the cloud with TLS, as an installation's proxy does. */
async function proxyBefore(cloudUrl: string, tls: { readonly cert: string; readonly key: string }): Promise<{ readonly url: string; close(): void }> {
  const server = createServer(tls, (request, response) => {
    const target = new URL(request.url ?? '/', cloudUrl);
    const onward = httpRequest(target, { method: request.method, headers: { ...request.headers, 'x-forwarded-for': '192.0.2.7' } }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    request.pipe(onward);
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, close: () => server.close() };
}

test('one code enrols a gate: address, authority and broker come with it; a cloud with another authority never sees the token', async () => {
  const pem = (name: string) => readFileSync(join(dir, 'pki', name), 'utf8');
  const proxy = await proxyBefore(stack.cloudUrl, { cert: pem('broker.crt'), key: pem('broker.key') });
  const add = (...args: string[]) => run(STILE_CLOUD, ['gate', 'add', ...args, '--no-wait'], { ...stack.env, STILE_PUBLIC_URL: proxy.url });
  try {
    const qr = join(dir, 'east.svg');
    const made = await add('arena/east', 'concert', '--qr', qr);
    expect(made).toMatchObject({ code: 0, stdout: expect.stringMatching(/^STILE1:[0-9A-Z $%*+\-./:]+\n$/) });
    expect(readFileSync(qr, 'utf8')).toContain('<svg');
    expect(statSync(qr).mode & 0o077).toBe(0);
    const code = made.stdout.replace(/\n$/, '');

    const east = join(dir, 'east');
    mkdirSync(east);
    writeFileSync(
      join(dir, 'wiring.yaml'),
      `readers: [{ name: in, path: ../reader }]\nboard: { driver: sim, sim_socket: ../east.sock }\nstore: { path: ../store-east }\n`,
    );
    const enrolled = (shown: string) => run(STILE_GATE, ['enroll', shown, '--wiring', join(dir, 'wiring.yaml'), '--config', join(east, 'gate.yaml')]);

    // Another cloud under an address that this code's fingerprint does not fit.
    const other = decodeEnrolment(code);
    if (!other.ok) throw new Error(other.cause);
    const forged = encodeEnrolment({ ...other.code, fingerprint: new Uint8Array(32) });
    expect(await enrolled(forged)).toMatchObject({ code: 1, stderr: expect.stringContaining('another fingerprint') });
    expect(await enrolled(code.slice(0, -4))).toMatchObject({ code: 2 });
    expect(await enrolled(code)).toMatchObject({ code: 0, stdout: expect.stringMatching(/this is arena\/east now[\s\S]*assigned to concert/) });
    const settings = readFileSync(join(east, 'conf.d/50-enrolment.yaml'), 'utf8');
    expect(settings).toContain(`url: ${JSON.stringify(broker.url)}`);
    expect(settings).toContain(`url: ${JSON.stringify(proxy.url)}`);
    expect(await run(STILE_GATE, ['check-config', '--config', join(east, 'gate.yaml')])).toMatchObject({ code: 0 });
    // Good once.
    expect(await run(STILE_GATE, ['enroll', code, '--force', '--config', join(east, 'gate.yaml')])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('opens nothing'),
    });

    const lanes = join(dir, 'lanes.csv');
    writeFileSync(lanes, 'gate,events,zones\narena/w-1,concert,A B\narena/w-2,concert,\n');
    expect(await add('--file', lanes, '--sheet', join(dir, 'gates.html'))).toMatchObject({ code: 0, stdout: '' });
    expect(readFileSync(join(dir, 'gates.html'), 'utf8')).toMatch(/arena\/w-1[\s\S]*arena\/w-2/);
    writeFileSync(lanes, 'gate,events\narena/w-3,concert\narena/w-4,concrt\n');
    expect(await add('--file', lanes)).toMatchObject({ code: 1, stderr: expect.stringContaining('line 3') });
    // One bad line makes none of them.
    expect(await stack.cloud('gates')).not.toContain('arena/w-3');
  } finally {
    proxy.close();
  }
});
