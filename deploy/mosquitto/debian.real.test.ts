/**
 * The broker as INSTALL.md sets it up (B3, B5): Debian's own main file, ours beside it in conf.d, certificates made by
 * `stile-cloud certificates`, Mosquitto under its own user. Only ports and folders are this test's own.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openAuthority } from '../../cloud/devices/certificates.ts';
import { aclFile } from '../../cloud/mqtt/broker-acl.ts';
import { newSigningRequest } from '../../daemon/cli/csr.ts';
import { accepts, findMosquitto, freePort } from '../../testkit/broker.ts';
import { connectPeer } from '../../testkit/mqtt-client.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const OURS = readFileSync(join(import.meta.dirname, 'mosquitto.conf'), 'utf8');
/** Of the package: installed, or unpacked by deploy/setup. */
const MAIN = ['/etc/mosquitto/mosquitto.conf', join(root, '.tools/mosquitto/etc/mosquitto/mosquitto.conf')].find((path) => existsSync(path));
/** bookworm's main file names a pid_file, trixie's has that line as a comment; all else is the same. */
const MAINS: readonly (readonly [string, (text: string) => string])[] = [
  ['12', (text) => text.replace(/^#(?=pid_file )/m, '')],
  ['13', (text) => text.replace(/^(?=pid_file )/m, '#')],
];
const START_MS = 45_000;

/** Mosquitto's own user where this runs as root and there is one; null: as whoever runs this. */
function mosquittoIds(): { readonly uid: number; readonly gid: number } | null {
  if (process.getuid?.() !== 0) return null;
  const found = spawnSync('id', ['-u', 'mosquitto'], { encoding: 'utf8' });
  if (found.status !== 0) return null;
  return { uid: Number(found.stdout), gid: Number(execFileSync('id', ['-g', 'mosquitto'], { encoding: 'utf8' })) };
}

let folder: string;
let running: ReturnType<typeof spawn> | null = null;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'stile-debian-'));
});
afterEach(() => {
  running?.kill('SIGKILL');
  running = null;
  rmSync(folder, { recursive: true, force: true });
});

/** /etc/mosquitto, /var/lib/mosquitto and so on below `folder`, with what INSTALL.md puts there. */
async function setUp(main: string): Promise<{ readonly gates: number; readonly cloud: number }> {
  const ports = { gates: await freePort(), cloud: await freePort() };
  const [etc, lib, log, run] = ['etc', 'lib', 'log', 'run'].map((name) => join(folder, name)) as [string, string, string, string];
  for (const path of [join(etc, 'conf.d'), join(etc, 'stile'), lib, log, run]) mkdirSync(path, { recursive: true });
  const here = (text: string) =>
    text
      .replaceAll('/etc/mosquitto', etc)
      .replaceAll('/var/lib/mosquitto', lib)
      .replaceAll('/var/log/mosquitto', log)
      .replaceAll('/run/mosquitto', run)
      .replace('listener 8883', `listener ${ports.gates} 127.0.0.1`)
      .replace('listener 8884', `listener ${ports.cloud}`);
  writeFileSync(join(etc, 'mosquitto.conf'), here(main));
  writeFileSync(join(etc, 'conf.d/stile.conf'), here(OURS));
  const pki = join(folder, 'pki');
  execFileSync(join(root, 'cloud/stile-cloud'), ['certificates', pki, '--host', 'localhost', '--host', '127.0.0.1'], { stdio: 'pipe' });
  for (const file of ['gates-ca.crt', 'cloud-ca.crt', 'broker.crt', 'broker.key', 'gates.crl'])
    writeFileSync(join(etc, 'stile', file), readFileSync(join(pki, file)), { mode: 0o640 });
  writeFileSync(join(etc, 'stile/acl'), aclFile([{ gate: 'arena/north', revoked: false }]), { mode: 0o640 });
  const ids = mosquittoIds();
  chmodSync(folder, 0o755);
  if (ids === null) return ports;
  for (const path of [lib, log, run]) chownSync(path, ids.uid, ids.gid);
  for (const path of ['', ...readdirSync(join(etc, 'stile'))].map((name) => join(etc, 'stile', name))) chownSync(path, 0, ids.gid);
  return ports;
}

/** null: it listens; else what it said as it ended. */
async function start(port: number): Promise<string | null> {
  const { binary, libraries } = findMosquitto();
  const child = spawn(binary, ['-c', join(folder, 'etc/mosquitto.conf')], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...(libraries === null ? {} : { LD_LIBRARY_PATH: libraries }) },
  });
  running = child;
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk: Buffer) => (said += chunk.toString('utf8')));
  const logFile = join(folder, 'log/mosquitto.log');
  const logged = () => `${said}${existsSync(logFile) ? readFileSync(logFile, 'utf8') : ''}`;
  const deadline = Date.now() + START_MS;
  // Its log is written in blocks: that it runs stands there late.
  while (!(await accepts(port))) {
    if (child.exitCode !== null || Date.now() > deadline) return logged();
    await sleep(20);
  }
  return null;
}

test.skipIf(MAIN === undefined).each(MAINS)(
  'B3: starts under the main file of Debian %s, as its own user, and lets gate and cloud in',
  async (_version, asOf) => {
    const ports = await setUp(asOf(readFileSync(MAIN as string, 'utf8')));
    expect(await start(ports.gates)).toBeNull();
    const ids = mosquittoIds();
    if (ids !== null) expect(statSync(`/proc/${running?.pid}`).uid).toBe(ids.uid);
    const pki = (file: string) => readFileSync(join(folder, 'pki', file), 'utf8');
    const authority = await openAuthority({ cert: join(folder, 'pki/gates-ca.crt'), key: join(folder, 'pki/gates-ca.key') });
    const { key, csr } = await newSigningRequest('arena/north');
    const signed = await authority.sign(csr, 'arena/north');
    const cloud = await connectPeer(`mqtts://localhost:${ports.cloud}`, { ca: pki('gates-ca.crt'), cert: pki('cloud.crt'), key: pki('cloud.key') });
    await cloud.subscribe('stile/1/#');
    const gate = await connectPeer(`mqtts://127.0.0.1:${ports.gates}`, { ca: pki('gates-ca.crt'), cert: signed?.certificate ?? '', key });
    expect(await gate.publish('stile/1/arena/north/health', 'well', { qos: 1 })).toBe(0);
    await cloud.wait(({ topic }) => topic === 'stile/1/arena/north/health');
    await gate.end();
    await cloud.end();
  },
);

test.skipIf(MAIN === undefined)('B3: a second persistence_location is what stops it: the check is able to fail', async () => {
  const { gates } = await setUp(readFileSync(MAIN as string, 'utf8'));
  const ours = join(folder, 'etc/conf.d/stile.conf');
  writeFileSync(ours, readFileSync(ours, 'utf8').replace('persistence true', `persistence true\npersistence_location ${folder}/lib/`));
  expect(await start(gates)).toContain('Duplicate persistence_location');
});

test('B5: certificates are made for the names given, made anew on the next call, and by the same authority; keys are their owner’s alone', () => {
  const pki = join(folder, 'pki');
  const make = (...args: string[]) => spawnSync(join(root, 'cloud/stile-cloud'), ['certificates', pki, ...args], { encoding: 'utf8' });
  expect(make('--host', 'https://venue.example')).toMatchObject({ status: 2, stderr: expect.stringContaining('a name or an address alone') });
  expect(existsSync(pki)).toBe(false);
  expect(make('--host', 'venue.example', '--host', '192.168.1.10')).toMatchObject({ status: 0, stderr: '' });
  const read = () => Object.fromEntries(readdirSync(pki).map((name) => [name, readFileSync(join(pki, name), 'utf8')]));
  const first = read();
  for (const name of Object.keys(first)) if (name.endsWith('.key')) expect([name, statSync(join(pki, name)).mode & 0o777]).toEqual([name, 0o600]);
  expect(make('--host', 'venue.example')).toMatchObject({ status: 0 });
  const again = read();
  for (const name of Object.keys(first)) expect([name, again[name] === first[name]]).toEqual([name, !/^(broker|cloud|ingest)\./.test(name)]);
  writeFileSync(join(pki, 'gates-ca.key'), 'nothing');
  expect(make('--host', 'venue.example')).toMatchObject({ status: 78, stderr: expect.stringContaining('gates-ca.key') });
  expect(read()['broker.crt']).toBe(again['broker.crt']);
});
