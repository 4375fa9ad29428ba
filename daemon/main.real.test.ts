/** The whole gate as a process: launcher, configuration, real pseudo-terminal, real store, software turnstile; without a broker, then with one. */
import { copyFileSync, existsSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { Aedes } from 'aedes';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { CHECKOUT_LAUNCHER, codeOf, createTestGate, GATE, type TestGate, until } from '../testkit/gate.ts';
import { loadConfig } from './config/load.ts';
import { connectGate } from './control/client.ts';
import type { WatchItem } from './control/protocol.ts';
import { runGate } from './main.ts';

let at: TestGate;
beforeAll(async () => {
  at = await createTestGate();
});
afterEach(() => at.killAll());
afterAll(() => at.remove());

test('a code before the reader opens the lane; the same code again does not; an unknown one neither', async () => {
  const gate = await at.start();
  const outputs = at.outputs();
  at.show(codeOf(1));
  await until(
    () => outputs.seen,
    (seen) => seen.includes('release_in on') && seen.includes('green_in on'),
  );
  await until(at.status, (now) => now.totals.passages === 1 && now.signals.in === 'ready');
  at.show('NOT-A-TICKET-OF-OURS-0001');
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
  await until(at.status, (found) => found.signals.in === 'ready');
  at.show(codeOf(1));
  const now = await until(at.status, (found) => found.totals.refusals === 2);
  expect(now.totals).toMatchObject({ admissions: 1, refusals: 2, passages: 1 });
  expect(outputs.seen.filter((change) => change === 'release_in on')).toHaveLength(1);
  expect(now.recent.map(({ words }) => words).join('\n')).toMatch(/admitted \(.*ticket t-1\)|admitted.*\(ticket t-1\)/);
  expect(now.recent.map(({ words }) => words).join('\n')).toMatch(/refused: not a ticket for this event[\s\S]*refused: already used/);
  outputs.close();

  const rows = JSON.parse((await at.cli('ledger', 'ls', '--json')).stdout) as { entry: { kind: string } }[];
  expect(rows.map(({ entry }) => entry.kind).filter((kind) => kind !== 'clock')).toEqual(['grant', 'passage', 'refusal', 'refusal']);
  expect(await at.cli('ledger', 'verify')).toMatchObject({ code: 0, stdout: expect.stringContaining('none missing, none changed') });
  const exported = (await at.cli('ledger', 'export')).stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { gate: string; entries: unknown[] });
  expect(exported).toMatchObject([{ gate: GATE, entries: expect.any(Array) }]);
  expect(exported[0]?.entries).toHaveLength(rows.length);
  expect((await at.cli('manifest', 'show')).stdout).toMatch(/concert\s+1\s+1\s+20/);
  // A code is nowhere on this machine but in the guest's hand.
  for (const file of ['store/ledger.sqlite', 'store/ledger.sqlite-wal', 'store/usage.sqlite']) {
    if (existsSync(join(at.dir, file))) expect(readFileSync(join(at.dir, file)).includes(codeOf(1))).toBe(false);
  }
  expect(await at.end(gate, 'SIGTERM')).toBe(0);
  expect(existsSync(join(at.dir, 'gate.sock'))).toBe(false);
});

test('orders through the control socket are obeyed and recorded; the lane is found in its mode again after a restart', async () => {
  let gate = await at.start();
  const opened = await at.cli('open', '--reason', 'wheelchair', '--actor', 'anna-7');
  expect(opened).toMatchObject({ code: 0, stdout: expect.stringContaining('anna-7') });
  await until(at.status, (now) => now.recent.some(({ kind, words }) => kind === 'override' && words.includes('wheelchair')));
  await until(at.status, (now) => now.recent.some(({ kind }) => kind === 'passage'));
  expect(await at.cli('mode', 'locked', '--reason', 'pause', '--until', '2099-01-01T00:00:00Z', '--actor', 'anna-7')).toMatchObject({ code: 0 });
  await until(at.status, (now) => now.modes.in.mode === 'locked');
  expect(await at.cli('open', '--reason', 'x', '--actor', 'anna-7')).toMatchObject({ code: 1, stderr: expect.stringContaining('closed') });
  expect(await at.cli('reset-emergency', '--reason', 'x', '--actor', 'anna-7')).toMatchObject({ code: 1, stderr: expect.stringContaining('no emergency') });
  await at.end(gate, 'SIGKILL');
  gate = await at.start();
  expect((await at.status()).modes.in).toEqual({ mode: 'locked', until: '2099-01-01T00:00:00.000Z' });
  expect(await at.cli('mode', 'controlled', '--reason', 'pause over', '--actor', 'anna-7')).toMatchObject({ code: 0 });
  const rows = JSON.parse((await at.cli('ledger', 'ls', '-n', '100', '--json')).stdout) as { entry: { kind: string; actor?: string; reason?: string } }[];
  expect(rows.filter(({ entry }) => entry.kind === 'override').map(({ entry }) => [entry.actor, entry.reason])).toEqual([
    ['anna-7', 'wheelchair'],
    ['anna-7', 'pause'],
    ['anna-7', 'pause over'],
  ]);
  await at.end(gate, 'SIGTERM');
});

test('a second gate on the same folder ends at once and touches nothing', async () => {
  const gate = await at.start();
  const second = await at.cli('run');
  expect(second).toMatchObject({ code: 1, stderr: expect.stringContaining('another gate is running') });
  expect((await at.status()).board.ok).toBe(true);
  await at.end(gate, 'SIGTERM');
});

test('the socket bounds what it takes, and says what is wrong', async () => {
  const gate = await at.start();
  const client = await connectGate(join(at.dir, 'gate.sock'));
  await expect(client.call('nonsense')).rejects.toThrow('knows no call nonsense');
  await expect(client.call('open', { units: 1000, actor: 'a', reason: 'b' })).rejects.toThrow(/units/);
  await expect(client.call('open', {})).rejects.toThrow(/actor and reason/);
  await expect(client.call('ledger', { after: 'x' })).rejects.toThrow(/after is/);
  client.close();
  const raw = connect(join(at.dir, 'gate.sock'));
  const closed = new Promise<void>((resolve) => raw.once('close', () => resolve()));
  raw.on('error', () => undefined);
  raw.write('x'.repeat(200_000));
  await closed;
  expect((await at.status()).gate).toBe(GATE);
  await at.end(gate, 'SIGTERM');
});

test('watch tells what happens, as it happens', async () => {
  const gate = await at.start();
  const client = await connectGate(join(at.dir, 'gate.sock'));
  const items: WatchItem[] = [];
  const ended = client.call('watch', {}, (item) => items.push(item as WatchItem)).catch(() => undefined);
  await until(
    () => items,
    (found) => found.length > 0,
  );
  at.show(codeOf(2));
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
  await at.end(gate, 'SIGTERM');
});

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
  const gate = await at.start({ STILE_MQTT_URL: `mqtt://127.0.0.1:${port}` });
  try {
    await until(at.status, (now) => now.uplink.online);
    expect(heard.get('state')).toMatchObject({ state: 'online' });
    expect(heard.get('info')).toMatchObject({ readers: [{ name: 'in' }] });
    // Long before its period: health comes with the connection, and again when a flag has changed.
    await until(
      () => heard.get('health') as { mode?: string } | undefined,
      (health) => health?.mode === 'controlled',
    );
    expect(await at.cli('mode', 'locked', '--reason', 'test', '--actor', 'anna-7')).toMatchObject({ code: 0 });
    await until(
      () => heard.get('health') as { mode?: string } | undefined,
      (health) => health?.mode === 'locked',
    );
    expect(await at.cli('mode', 'controlled', '--reason', 'test', '--actor', 'anna-7')).toMatchObject({ code: 0 });
    await until(at.status, (now) => now.clock.trusted && now.clock.offset_ms !== null);
    at.show(codeOf(3));
    // Rows of the tests before come along: those of this guest are meant.
    const ofThisGuest = () => ledger.flatMap(({ entries }) => entries.filter((entry) => entry.ticket_id === 't-3').map(({ kind }) => kind));
    await until(ofThisGuest, (kinds) => kinds.includes('grant') && kinds.includes('passage'));
    const { epoch, last_seq: upto } = (await at.status()).ledger;
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
    await until(at.status, (now) => now.ledger.backlog === 0);
    expect(await at.end(gate, 'SIGTERM')).toBe(0);
    expect(heard.get('state')).toMatchObject({ state: 'offline' });
  } finally {
    await at.end(gate, 'SIGKILL');
    await new Promise<void>((resolve) => broker.close(() => resolve()));
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }
});

test('fire opens the lane, is kept over a kill, and the stop step is told; only a person ends it', async () => {
  const targets = () => readFileSync(join(at.dir, 'release.conf'), 'utf8').match(/release_in (\d)/)?.[1];
  let gate = await at.start();
  expect(targets()).toBe('0');
  await at.tellTurnstile({ input: 'fire', active: true });
  await until(at.status, (now) => now.fire.latched && now.modes.in.mode === 'emergency');
  await until(targets, (level) => level === '1');
  expect(await at.cli('reset-emergency', '--reason', 'x', '--actor', 'anna-7')).toMatchObject({ code: 1, stderr: expect.stringContaining('still asserted') });
  await at.end(gate, 'SIGKILL');
  gate = await at.start();
  // The software loop is closed again; the latch is not.
  expect((await at.status()).fire).toEqual({ asserted: false, latched: true });
  expect(targets()).toBe('1');
  expect(await at.cli('reset-emergency', '--reason', 'all clear', '--actor', 'anna-7')).toMatchObject({ code: 0 });
  await until(at.status, (now) => now.modes.in.mode === 'controlled');
  await until(targets, (level) => level === '0');
  await at.end(gate, 'SIGTERM');
});

test('stopping waits for the guest under way; a second signal does not', async () => {
  const gate = await at.start();
  await at.tellTurnstile({ walk: { mode: 'nobody' } });
  at.show(codeOf(5));
  await until(at.status, (now) => now.lamps.in.green);
  const ended = new Promise<number | null>((resolve) => gate.once('exit', (code) => resolve(code)));
  gate.kill('SIGTERM');
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(gate.exitCode).toBeNull();
  gate.kill('SIGTERM');
  expect(await ended).toBe(1);
});

test('an unexpected error ends the process with the lane in its defined state', async () => {
  const planted = join(at.root, 'planted.mjs');
  writeFileSync(planted, "process.on('SIGUSR2', () => { throw new Error('planted'); });");
  const gate = await at.start({ NODE_OPTIONS: `--import ${planted}` });
  expect(await at.cli('mode', 'free', '--reason', 'test', '--actor', 'anna-7')).toMatchObject({ code: 0 });
  const wire = (name: string) => readFileSync(join(at.dir, 'sim.sock.wires', name), 'utf8').trim();
  await until(
    () => wire('green_in'),
    (level) => level === '1',
  );
  const ended = new Promise<number | null>((resolve) => gate.once('exit', (code) => resolve(code)));
  gate.kill('SIGUSR2');
  expect(await ended).toBe(1);
  expect(['release_in', 'green_in', 'red_in', 'amber_in', 'buzzer'].map(wire)).toEqual(['0', '0', '0', '0', '0']);
});

test('in panic the board goes first, and what is left can still be given back', async () => {
  const loaded = loadConfig(at.config);
  if (!loaded.ok) throw new Error("the test's configuration is wrong");
  const running = await runGate(loaded.config);
  const wire = (name: string) => readFileSync(join(at.dir, 'sim.sock.wires', name), 'utf8').trim();
  expect((await running.gate.command({ command: 'mode', args: { mode: 'free' }, actor: 'anna-7', reason: 'test' })).status).toBe('ok');
  await until(
    () => wire('green_in'),
    (level) => level === '1',
  );
  await running.panic(new Error('nobody expected this'));
  expect(['release_in', 'green_in', 'red_in', 'amber_in', 'buzzer'].map(wire)).toEqual(['0', '0', '0', '0', '0']);
  expect(await running.stop('test')).toBe(true);
});

test('exit codes, from any folder and through links', async () => {
  const link = join(at.root, 'a-link');
  symlinkSync(CHECKOUT_LAUNCHER, link);
  symlinkSync('a-link', join(at.root, 'another'));
  expect(await at.run(['--help'], { cwd: '/', launcher: join(at.root, 'another') })).toMatchObject({ code: 0, stdout: expect.stringContaining('First steps') });
  expect((await at.run(['--help'])).stdout).toMatch(/enroll[\s\S]*readers[\s\S]*sim[\s\S]*selftest[\s\S]*support-bundle/);
  expect(await at.run(['open', '--help'])).toMatchObject({ code: 0, stdout: expect.stringContaining('--reason "wheelchair"') });
  expect(await at.run(['opne'])).toMatchObject({ code: 2, stderr: expect.stringContaining('open') });
  expect(await at.run(['open', '--config', at.config])).toMatchObject({ code: 2, stderr: expect.stringContaining('--reason') });
  expect(await at.cli('mode', 'emergency', '--reason', 'x')).toMatchObject({ code: 2, stderr: expect.stringContaining('fire input') });
  expect(await at.cli('mode', 'free', '--reason', 'x', '--until', '2001-01-01T00:00:00Z')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('has passed'),
  });
  expect(await at.cli('status')).toMatchObject({ code: 69, stderr: expect.stringContaining('no gate answers') });
  expect(await at.cli('check-config')).toMatchObject({ code: 0, stdout: expect.stringContaining(GATE) });
  const bad = join(at.root, 'bad.yaml');
  writeFileSync(bad, 'gate: arena/x\nreders: []\n');
  expect(await at.run(['check-config', '--config', bad])).toMatchObject({
    code: 78,
    stderr: expect.stringMatching(/bad\.yaml:2: reders: .*did you mean readers/),
  });
  expect(await at.run(['run', '--config', bad])).toMatchObject({ code: 78, stderr: expect.stringContaining('nothing was started') });
  expect(await at.run(['check-config', '--config', bad, '--json'])).toMatchObject({ code: 78, stdout: expect.stringContaining('"line": 2') });
  expect(await at.cli('config')).toMatchObject({ code: 0, stdout: expect.stringMatching(/turnstile\.pulse_ms: 200\s+# default/) });
  expect(JSON.parse((await at.cli('config', '--json')).stdout)).toMatchObject({ gate: GATE, turnstile: { pulse_ms: 200 } });
  const gpio = join(at.root, 'gpio.yaml');
  writeFileSync(
    gpio,
    'gate: arena/x\nreaders: [{ name: in, path: /dev/x }]\nboard: { outputs: { release_in: 17 }, inputs: { passage_in: 20, fire: 19 } }\nmqtt: { url: "mqtts://b:8883", ca: /nowhere.pem }\n',
  );
  expect(await at.run(['check-config', '--config', gpio])).toMatchObject({ code: 78, stderr: expect.stringContaining('mqtt.ca') });
  expect(await at.run(['check-config', '--skip-files', '--config', gpio])).toMatchObject({ code: 0 });
  writeFileSync(gpio, readFileSync(gpio, 'utf8').replace(/mqtt:.*/, ''));
  expect((await at.run(['config', '--boot-lines', '--config', gpio])).stdout).toBe('gpio=17=op,dl\ngpio=20=ip,pu\ngpio=19=ip,pd\n');
  const alone = join(at.root, 'alone');
  copyFileSync(CHECKOUT_LAUNCHER, alone);
  expect(await at.run(['status'], { launcher: alone })).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining("run 'make setup'") });
  const sick = await at.cli('doctor', '--json');
  expect(sick.code).toBe(1);
  const { checks } = JSON.parse(sick.stdout) as { checks: { part: string; result: string; hint: string }[] };
  expect(checks.find(({ part }) => part === 'cloud')).toMatchObject({ result: 'fail', hint: expect.any(String) });
  expect(checks.find(({ part }) => part === 'reader in')).toMatchObject({ result: 'ok' });
  expect(checks.filter(({ result, hint }) => result !== 'ok' && hint === '')).toEqual([]);
});
