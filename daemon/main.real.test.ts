/** The whole gate as a process: launcher, configuration, real pseudo-terminal, real store, software turnstile; without a broker, then with one. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { generateKeyPairSync, sign } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Aedes } from 'aedes';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { signedText } from '../contract/chain.ts';
import { connectGate } from './cli/client.ts';
import { createSimClock } from './clock.ts';
import type { GateStatus, WatchItem } from './control-calls.ts';
import { createDesk } from './desk.ts';
import { ticketRefOf } from './desk-facts.ts';
import { openPtyPair, type PtyPair } from './sim/pty-pair.ts';
import { buildManifestFile } from './store/build-manifest.ts';

const LAUNCHER = process.env.STILE_TEST_LAUNCHER ?? new URL('./stile-gate', import.meta.url).pathname;
const SALT = '00112233445566778899aabbccddeeff';
const HOUR_MS = 3_600_000;
const GATE = 'arena/north-03';
const codeOf = (n: number) => `STILE-TEST-CODE-${String(n).padStart(8, '0')}`;

const root = mkdtempSync(join(tmpdir(), 'stile-main-'));
const dir = join(root, 'gate');
const config = join(dir, 'gate.yaml');
const children = new Set<ChildProcess>();
let reader: PtyPair;

/** A gate's folder with tickets on it, as the cloud would have brought them. */
beforeAll(async () => {
  mkdirSync(join(dir, 'store'), { recursive: true });
  reader = openPtyPair({ readerLink: join(dir, 'reader'), guestLink: join(dir, 'guest') });
  writeFileSync(
    config,
    `gate: ${GATE}
readers: [{ name: in, path: ./reader }]
board: { driver: sim, sim_socket: ./sim.sock, sim_passage_ms: 50 }
cloud: { url: "http://127.0.0.1:9", keys: ./keys.json }
store: { path: ./store }
control: { socket: ./gate.sock }
`,
  );
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const key = {
    key_id: 'k1',
    use: 'manifest' as const,
    alg: 'Ed25519' as const,
    spki: publicKey.export({ format: 'der', type: 'spki' }).toString('base64'),
    not_after: null,
  };
  writeFileSync(join(dir, 'keys.json'), JSON.stringify([key]));
  const at = (ms: number) => new Date(Date.now() + ms).toISOString();
  const file = join(root, 'manifest.download');
  const { sha256, size } = await buildManifestFile(file, {
    head: {
      schema: 1,
      event_id: 'concert',
      version: 1,
      generated_at: at(-HOUR_MS),
      expires_at: at(24 * HOUR_MS),
      name: 'Concert',
      starts_at: at(-HOUR_MS),
      ends_at: at(6 * HOUR_MS),
      time_zone: 'Europe/Berlin',
      salt: SALT,
      policies: {},
      keys: [],
      revoked: { version: 0, refs: [] },
      upto: {},
    },
    tickets: Array.from({ length: 20 }, (_, n) => ({
      ticket_id: `t-${n}`,
      ticket_ref: ticketRefOf(Buffer.from(SALT, 'hex'), codeOf(n)).toString('hex'),
      tier: 'standard',
      zone: null,
      status: 'valid' as const,
      max_scans: null,
      units: 1,
      valid_from: null,
      valid_until: null,
      vip: false,
      note: null,
    })),
  });
  const payload = { event_id: 'concert', version: 1, overlay_version: 1, sha256, size, url: '/m', key_id: 'k1' };
  const wanted = { ...payload, signature: sign(null, Buffer.from(signedText(payload)), privateKey).toString('base64') };
  const desk = createDesk({ path: join(dir, 'store'), gate: GATE, verifyKeys: [key], clock: createSimClock({ wallMs: Date.now() }) });
  await desk.open();
  await desk.want(Buffer.from(JSON.stringify({ schema: 1, events: [wanted] })));
  expect(await desk.installManifest(file, wanted)).toEqual({ ok: true, version: 1 });
  await desk.close();
}, 60_000);
afterEach(async () => {
  for (const child of children) await end(child, 'SIGKILL');
});
afterAll(() => {
  reader.close();
  rmSync(root, { recursive: true });
});

async function start(env: Record<string, string> = {}): Promise<ChildProcess> {
  const child = spawn(LAUNCHER, ['run', '--config', config], { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ...env } });
  children.add(child);
  let log = '';
  await new Promise<void>((resolve, reject) => {
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      log += text;
      if (log.includes('the gate decides')) resolve();
    });
    child.once('exit', (code) => reject(new Error(`the gate ended with ${code}:\n${log}`)));
  });
  return child;
}

function end(child: ChildProcess, signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
  children.delete(child);
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve(child.exitCode);
  const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)));
  child.kill(signal);
  return ended;
}

/** Runs a command line to its end. */
function cli(
  args: readonly string[],
  options: { readonly cwd?: string; readonly launcher?: string; readonly env?: Record<string, string> } = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(
      options.launcher ?? LAUNCHER,
      [...args],
      { cwd: options.cwd ?? root, env: { ...process.env, ...options.env }, maxBuffer: 16 * 1024 * 1024 },
      (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number((error as { code?: number }).code), stdout, stderr });
      },
    );
  });
}
const gateCli = (...args: string[]) => cli([...args, '--config', config]);

/** Outputs as the software turnstile drives them. */
function lamps(): { readonly seen: string[]; close(): void } {
  const seen: string[] = [];
  const socket = connect(join(dir, 'sim.sock'));
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n')) {
      const message = JSON.parse(text.slice(0, at)) as { output?: string; active?: boolean };
      text = text.slice(at + 1);
      if (message.output !== undefined) seen.push(`${message.output} ${message.active ? 'on' : 'off'}`);
    }
  });
  return { seen, close: () => socket.destroy() };
}

async function until<T>(what: () => T | Promise<T>, fits: (value: T) => boolean): Promise<T> {
  const deadline = Date.now() + 15_000;
  for (;;) {
    const value = await what();
    if (fits(value)) return value;
    if (Date.now() > deadline) throw new Error(`did not come true; last: ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const status = async (): Promise<GateStatus> => JSON.parse((await gateCli('status', '--json')).stdout);
const show = (n: number) => writeFileSync(join(dir, 'guest'), `${codeOf(n)}\r\n`);

test('a code before the reader opens the lane; the same code again does not; an unknown one neither', async () => {
  const gate = await start();
  const outputs = lamps();
  show(1);
  await until(
    () => outputs.seen,
    (seen) => seen.includes('release_in on') && seen.includes('green_in on'),
  );
  await until(status, (now) => now.totals.passages === 1);
  writeFileSync(join(dir, 'guest'), 'NOT-A-TICKET-OF-OURS-0001\r\n');
  await until(
    () => outputs.seen,
    (seen) => seen.includes('red_in on'),
  );
  await until(
    () => outputs.seen,
    (seen) => seen.includes('red_in off'),
  );
  // Within the time in which a code that is held before the reader counts as one presentation, it shows the same again and writes nothing.
  await new Promise((resolve) => setTimeout(resolve, 4_200));
  show(1);
  const now = await until(status, (found) => found.totals.refusals === 2);
  expect(now.totals).toMatchObject({ admissions: 1, refusals: 2, passages: 1 });
  expect(outputs.seen.filter((change) => change === 'release_in on')).toHaveLength(1);
  expect(now.recent.map(({ words }) => words).join('\n')).toMatch(/admitted \(.*ticket t-1\)|admitted.*\(ticket t-1\)/);
  expect(now.recent.map(({ words }) => words).join('\n')).toMatch(/refused: not a ticket for this event[\s\S]*refused: already used/);
  outputs.close();

  const rows = JSON.parse((await gateCli('ledger', 'ls', '--json')).stdout) as { entry: { kind: string } }[];
  expect(rows.map(({ entry }) => entry.kind).filter((kind) => kind !== 'clock')).toEqual(['grant', 'passage', 'refusal', 'refusal']);
  expect(await gateCli('ledger', 'verify')).toMatchObject({ code: 0, stdout: expect.stringContaining('none missing, none changed') });
  const exported = (await gateCli('ledger', 'export')).stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { gate: string; entries: unknown[] });
  expect(exported).toMatchObject([{ gate: GATE, entries: expect.any(Array) }]);
  expect(exported[0]?.entries).toHaveLength(rows.length);
  expect((await gateCli('manifest', 'show')).stdout).toMatch(/concert\s+1\s+1\s+20/);
  // A code is nowhere on this machine but in the guest's hand.
  for (const file of ['store/ledger.sqlite', 'store/ledger.sqlite-wal', 'store/usage.sqlite']) {
    if (existsSync(join(dir, file))) expect(readFileSync(join(dir, file)).includes(codeOf(1))).toBe(false);
  }
  expect(await end(gate, 'SIGTERM')).toBe(0);
  expect(existsSync(join(dir, 'gate.sock'))).toBe(false);
}, 60_000);

test('orders through the control socket are obeyed and recorded; the lane is found in its mode again after a restart', async () => {
  let gate = await start();
  const opened = await gateCli('open', '--reason', 'wheelchair', '--actor', 'anna-7');
  expect(opened).toMatchObject({ code: 0, stdout: expect.stringContaining('anna-7') });
  await until(status, (now) => now.recent.some(({ kind, words }) => kind === 'override' && words.includes('wheelchair')));
  await until(status, (now) => now.recent.some(({ kind }) => kind === 'passage'));
  expect(await gateCli('mode', 'locked', '--reason', 'pause', '--until', '2099-01-01T00:00:00Z', '--actor', 'anna-7')).toMatchObject({ code: 0 });
  await until(status, (now) => now.modes.in.mode === 'locked');
  expect(await gateCli('open', '--reason', 'x', '--actor', 'anna-7')).toMatchObject({ code: 1, stderr: expect.stringContaining('closed') });
  expect(await gateCli('reset-emergency', '--reason', 'x', '--actor', 'anna-7')).toMatchObject({ code: 1, stderr: expect.stringContaining('no emergency') });
  await end(gate, 'SIGKILL');
  gate = await start();
  expect((await status()).modes.in).toEqual({ mode: 'locked', until: '2099-01-01T00:00:00.000Z' });
  expect(await gateCli('mode', 'controlled', '--reason', 'pause over', '--actor', 'anna-7')).toMatchObject({ code: 0 });
  const rows = JSON.parse((await gateCli('ledger', 'ls', '-n', '100', '--json')).stdout) as { entry: { kind: string; actor?: string; reason?: string } }[];
  expect(rows.filter(({ entry }) => entry.kind === 'override').map(({ entry }) => [entry.actor, entry.reason])).toEqual([
    ['anna-7', 'wheelchair'],
    ['anna-7', 'pause'],
    ['anna-7', 'pause over'],
  ]);
  await end(gate, 'SIGTERM');
}, 60_000);

test('a second gate on the same folder ends at once and touches nothing', async () => {
  const gate = await start();
  const second = await gateCli('run');
  expect(second).toMatchObject({ code: 1, stderr: expect.stringContaining('another gate is running') });
  expect((await status()).board.ok).toBe(true);
  await end(gate, 'SIGTERM');
}, 60_000);

test('the socket bounds what it takes, and says what is wrong', async () => {
  const gate = await start();
  const client = await connectGate(join(dir, 'gate.sock'));
  await expect(client.call('nonsense')).rejects.toThrow('knows no call nonsense');
  await expect(client.call('open', { units: 1000, actor: 'a', reason: 'b' })).rejects.toThrow(/units/);
  await expect(client.call('open', {})).rejects.toThrow(/actor and reason/);
  await expect(client.call('ledger', { after: 'x' })).rejects.toThrow(/after is/);
  client.close();
  const raw = connect(join(dir, 'gate.sock'));
  const closed = new Promise<void>((resolve) => raw.once('close', () => resolve()));
  raw.on('error', () => undefined);
  raw.write('x'.repeat(200_000));
  await closed;
  expect((await status()).gate).toBe(GATE);
  await end(gate, 'SIGTERM');
}, 60_000);

test('watch tells what happens, as it happens', async () => {
  const gate = await start();
  const client = await connectGate(join(dir, 'gate.sock'));
  const items: WatchItem[] = [];
  const ended = client.call('watch', {}, (item) => items.push(item as WatchItem)).catch(() => undefined);
  await until(
    () => items,
    (found) => found.length > 0,
  );
  show(2);
  await until(
    () => items,
    (found) => found.some((item) => 'line' in item && item.line.kind === 'granted'),
  );
  await until(
    () => items,
    (found) => found.some((item) => 'status' in item && item.status.lamps.in.green),
  );
  client.close();
  await ended;
  await end(gate, 'SIGTERM');
}, 60_000);

test('with a broker: state, health, the ledger until it is acknowledged, and the clock from round trips', async () => {
  const broker = await Aedes.createBroker();
  const server = createServer(broker.handle);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const heard = new Map<string, unknown>();
  const ledger: { epoch: number; entries: { seq: number; kind: string; ticket_id?: string }[] }[] = [];
  broker.on('publish', (packet, client) => {
    if (client === null) return;
    const topic = packet.topic.replace(`stile/1/${GATE}/`, '');
    const payload = packet.payload.length === 0 ? null : JSON.parse(packet.payload.toString());
    heard.set(topic, payload);
    if (topic === 'ledger') ledger.push(payload as (typeof ledger)[number]);
    if (topic === 'time') {
      const now = Date.now();
      const { n } = payload as { n: number };
      broker.publish(
        {
          cmd: 'publish',
          topic: `stile/1/${GATE}/time/${n}`,
          qos: 0,
          retain: false,
          dup: false,
          payload: Buffer.from(JSON.stringify({ ...(payload as object), received_unix_ms: now, answered_unix_ms: now })),
        },
        () => undefined,
      );
    }
  });
  const gate = await start({ STILE_MQTT_URL: `mqtt://127.0.0.1:${port}` });
  try {
    await until(status, (now) => now.uplink.online);
    expect(heard.get('state')).toMatchObject({ state: 'online' });
    expect(heard.get('info')).toMatchObject({ readers: [{ name: 'in' }] });
    await until(status, (now) => now.clock.trusted && now.clock.offset_ms !== null);
    show(3);
    // Rows of the tests before come along: those of this guest are meant.
    const ofThisGuest = () => ledger.flatMap(({ entries }) => entries.filter((entry) => entry.ticket_id === 't-3').map(({ kind }) => kind));
    await until(ofThisGuest, (kinds) => kinds.includes('grant') && kinds.includes('passage'));
    const { epoch, last_seq: upto } = (await status()).ledger;
    broker.publish(
      {
        cmd: 'publish',
        topic: `stile/1/${GATE}/ack`,
        qos: 1,
        retain: true,
        dup: false,
        payload: Buffer.from(JSON.stringify({ schema: 1, epochs: [{ epoch, upto_seq: upto, missing: [] }], cloud_time: new Date().toISOString() })),
      },
      () => undefined,
    );
    await until(status, (now) => now.ledger.backlog === 0);
    expect(await end(gate, 'SIGTERM')).toBe(0);
    expect(heard.get('state')).toMatchObject({ state: 'offline' });
  } finally {
    await end(gate, 'SIGKILL');
    await new Promise<void>((resolve) => broker.close(() => resolve()));
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }
}, 60_000);

test('exit codes, from any folder and through links', async () => {
  const link = join(root, 'a-link');
  symlinkSync(LAUNCHER, link);
  symlinkSync('a-link', join(root, 'another'));
  expect(await cli(['--help'], { cwd: '/', launcher: join(root, 'another') })).toMatchObject({ code: 0, stdout: expect.stringContaining('First steps') });
  expect((await cli(['--help'])).stdout).not.toMatch(/enroll|support-bundle|selftest/);
  expect(await cli(['open', '--help'])).toMatchObject({ code: 0, stdout: expect.stringContaining('--reason "wheelchair"') });
  expect(await cli(['opne'])).toMatchObject({ code: 2, stderr: expect.stringContaining('open') });
  expect(await cli(['open', '--config', config])).toMatchObject({ code: 2, stderr: expect.stringContaining('--reason') });
  expect(await gateCli('mode', 'emergency', '--reason', 'x')).toMatchObject({ code: 2, stderr: expect.stringContaining('fire input') });
  expect(await gateCli('mode', 'free', '--reason', 'x', '--until', '2001-01-01T00:00:00Z')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('has passed'),
  });
  expect(await gateCli('status')).toMatchObject({ code: 69, stderr: expect.stringContaining('no gate answers') });
  expect(await gateCli('check-config')).toMatchObject({ code: 0, stdout: expect.stringContaining(GATE) });
  const bad = join(root, 'bad.yaml');
  writeFileSync(bad, 'gate: arena/x\nreders: []\n');
  expect(await cli(['check-config', '--config', bad])).toMatchObject({
    code: 78,
    stderr: expect.stringMatching(/bad\.yaml:2: reders: .*did you mean readers/),
  });
  expect(await cli(['run', '--config', bad])).toMatchObject({ code: 78, stderr: expect.stringContaining('nothing was started') });
  expect(await cli(['check-config', '--config', bad, '--json'])).toMatchObject({ code: 78, stdout: expect.stringContaining('"line": 2') });
  expect(await gateCli('config')).toMatchObject({ code: 0, stdout: expect.stringMatching(/turnstile\.pulse_ms: 200\s+# default/) });
  expect(JSON.parse((await gateCli('config', '--json')).stdout)).toMatchObject({ gate: GATE, turnstile: { pulse_ms: 200 } });
  const sick = await gateCli('doctor', '--json');
  expect(sick.code).toBe(1);
  const { checks } = JSON.parse(sick.stdout) as { checks: { part: string; result: string; mend: string }[] };
  expect(checks.find(({ part }) => part === 'cloud')).toMatchObject({ result: 'fail', mend: expect.any(String) });
  expect(checks.find(({ part }) => part === 'reader in')).toMatchObject({ result: 'ok' });
  expect(checks.filter(({ result, mend }) => result !== 'ok' && mend === '')).toEqual([]);
}, 60_000);
