/**
 * Runs inside the guest, on Debian's kernel with gpio-sim and under systemd, by the bundle's own runtime: the gate drives a Pi's
 * header that the kernel simulates, and what it does is seen from the kernel's side. Says on the console what came of each step:
 *
 *   PROOF <name>: ok <detail> | FAILED <detail>      TIME <seconds of the guest>      DONE
 *
 * PROVE=short: onoff alone, each proof once. full: both drivers, the board's contract on each, and KILLS ends in mid-pulse on each.
 * ends: onoff and its KILLS ends, then what planted does. planted: the unit without its stop step, then without its watchdog, must be
 * seen to hold the release.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectGate } from '../../daemon/control/client.ts';
import type { GateStatus } from '../../daemon/control/protocol.ts';
import { count, HEARD, heard, must, oneMore, PATIENCE_MS, proof, property, type Row, rows, run, say, short, until } from './proving.ts';
import { type Header, LABEL, makeHeader, monotonicMs } from './sim-gpio.ts';

const PROVE = process.env['PROVE'] ?? 'short';
const KILLS = Number(process.env['KILLS'] ?? 0);
const SOCKET = '/run/stile/gate.sock';
const READER = '/dev/ttyS1';
const DROP_IN = '/run/systemd/system/stile-gate.service.d/no-sysfs.conf';
/** BCM lines of gate.yaml. */
const RELEASE = 17;
const GREEN = 22;
const RED = 23;
const AMBER = 24;
const PASSAGE = 20;
const BUTTON = 13;
const FIRE = 19;
const TAMPER = 26;
const PULSE_MS = 200;
/** An emulated processor is some 20 times slower than a Pi's, and shares its machine. */
const PULSE_LATE_MS = 150;
/** LANE.md: killed, the release is safe within 1 s; hung, within 5 s. */
const KILLED_BOUND_MS = 1_000;
const HUNG_BOUND_MS = 5_000;
/** Levels are read at least so often, so fire is seen within this whatever becomes of the edge; the rest is the emulation's. */
const FIRE_BOUND_MS = 500;

let header: Header;
let reader: ChildProcess;
const codes = readFileSync('/opt/prove/codes', 'utf8').split('\n');
let ticket = 0;
const released = () => header.wire(RELEASE) === 'high';

/** A code before the reader. */
const present = (number: number) => void reader.stdin?.write(`${codes[number]}\r\n`);

/** One call over the gate's own socket: a command line would start a runtime, which takes the emulated processor seconds. */
async function call<T>(name: string, args: Record<string, unknown> = {}): Promise<T> {
  const client = await connectGate(SOCKET);
  try {
    return await client.call<T>(name, args);
  } finally {
    client.close();
  }
}

/** Waits for a gate that decides. Answers its process. */
async function ready(): Promise<number> {
  let pid = 0;
  await until(
    'a gate that decides',
    async () => {
      const now = await call<GateStatus>('status').catch(() => null);
      pid = now?.pid ?? 0;
      return now !== null && now.manifests.length > 0 && now.readers.every(({ ok }) => ok) && now.signals.in === 'ready';
    },
    PATIENCE_MS,
    100,
  );
  return pid;
}

async function begin(): Promise<void> {
  const { code, out } = run('systemctl', 'start', 'stile-gate');
  must(code === 0, `the gate does not start: ${out}`);
  await ready();
}

/** The next ticket is shown; answers when the kernel drives the release. */
async function shown(): Promise<number> {
  await until('the lane is shut', () => !released());
  header.forget();
  const from = monotonicMs();
  present(ticket);
  ticket += 1;
  await until('the release', released, 20_000, 2);
  return monotonicMs() - from;
}

async function walkThrough(): Promise<void> {
  header.drive(PASSAGE, 'low');
  await sleep(150);
  header.drive(PASSAGE, 'high');
}

/** The pulse as the kernel drove it. */
function pulse(): string {
  const edges = header.driven(RELEASE);
  const up = edges.find(({ level }) => level === 'high');
  const down = edges.find(({ level, atMs }) => level === 'low' && up !== undefined && atMs > up.atMs);
  must(up !== undefined && down !== undefined, `the kernel saw no pulse: ${JSON.stringify(edges)}`);
  const lengthMs = (down?.atMs ?? 0) - (up?.atMs ?? 0);
  must(lengthMs >= PULSE_MS - 5 && lengthMs <= PULSE_MS + PULSE_LATE_MS, `the pulse was ${lengthMs.toFixed(1)} ms`);
  return `pulse ${lengthMs.toFixed(1)} ms`;
}

const BY: Readonly<Record<Driver, string>> = { onoff: `onoff (sysfs, ${LABEL} at `, cdev: 'character device (/dev/gpiochip0' };
type Driver = 'onoff' | 'cdev';

async function proveLane(driver: Driver): Promise<void> {
  await proof(`${driver}: chosen by itself, lines in their defined state`, async () => {
    await begin();
    const by = () =>
      heard('info')
        .map((text) => (JSON.parse(text) as { board?: { by?: string } }).board?.by ?? '')
        .at(-1) ?? '';
    await until('the gate says who drives its lines', () => by().startsWith(BY[driver]), 20_000, 100);
    must(!released() && header.wire(GREEN) === 'low', 'the release or green is driven');
    await until('amber (active low) is lit: ready', () => header.wire(AMBER) === 'low', 5_000);
    const file = readFileSync('/run/stile/release.conf', 'utf8');
    must(file.includes(driver === 'onoff' ? '\nsysfs ' : '\nchip /dev/gpiochip0 17 0'), `the stop step is told: ${file}`);
    if (driver === 'cdev') must(header.pull(PASSAGE) === 'pull-up', `the passage line's bias is ${header.pull(PASSAGE)}`);
    return by();
  });
  await proof(`${driver}: a guest is admitted and walks through`, async () => {
    const passed = oneMore((row) => row.kind === 'passage' && row.outcome === 'passed');
    const openMs = await shown();
    await until('green', () => header.wire(GREEN) === 'high', 2_000, 5);
    await until('the release returns', () => !released(), 2_000, 5);
    const length = pulse();
    await walkThrough();
    await passed('the passage row at the broker');
    await until('green goes out', () => header.wire(GREEN) === 'low', 10_000);
    return `release ${openMs.toFixed(0)} ms after the code was shown, ${length}, green and amber, passage recorded`;
  });
  await proof(`${driver}: the same ticket is refused`, async () => {
    // Longer than the longest held_gap_ms: sooner it would be the same presentation, and silent.
    await sleep(9_000);
    const refused = oneMore((row) => row.kind === 'refusal');
    header.forget();
    present(ticket - 1);
    await refused('the refusal at the broker');
    await until('red', () => header.wire(RED) === 'high', 3_000, 5);
    must(
      header.driven(RELEASE).every(({ level }) => level === 'low'),
      'the release was driven',
    );
    await until('red goes out', () => header.wire(RED) === 'low', 10_000);
    return `${rows().findLast(({ kind }) => kind === 'refusal')?.reason}, red lit and out again, no release`;
  });
  await proof(`${driver}: pulses of 50 ms are a passage, chatter is none`, async () => {
    const passed = (row: Row) => row.kind === 'passage' && row.outcome === 'passed';
    await shown();
    const before = count(passed);
    let longestMs = 0;
    for (let n = 0; n < 6; n += 1) {
      const from = monotonicMs();
      header.drive(PASSAGE, 'low');
      header.drive(PASSAGE, 'high');
      // One processor: the gate may run between the two.
      longestMs = Math.max(longestMs, monotonicMs() - from);
    }
    await sleep(700);
    must(count(passed) === before && header.wire(GREEN) === 'high', 'chatter was taken for a passage');
    const one = oneMore(passed);
    header.drive(PASSAGE, 'low');
    const from = monotonicMs();
    while (monotonicMs() - from < 50) await sleep(5);
    header.drive(PASSAGE, 'high');
    const lengthMs = monotonicMs() - from;
    await one('the passage');
    return `6 dips of at most ${longestMs.toFixed(1)} ms dropped, one of ${lengthMs.toFixed(0)} ms kept`;
  });
  await proof(`${driver}: the staff button opens`, async () => {
    const override = oneMore((row) => row.kind === 'override' && row.actor === 'button');
    const passed = oneMore((row) => row.kind === 'passage');
    await until('the lane is shut', () => !released());
    await sleep(300);
    header.forget();
    const from = monotonicMs();
    header.drive(BUTTON, 'low');
    await until('the release', released, 5_000, 2);
    const openMs = monotonicMs() - from;
    header.drive(BUTTON, 'high');
    await until('the release returns', () => !released(), 2_000, 5);
    const length = pulse();
    await walkThrough();
    await override('the override at the broker');
    await passed('its passage');
    return `release ${openMs.toFixed(0)} ms after the press, ${length}, recorded`;
  });
}

async function proveFire(driver: Driver): Promise<void> {
  await proof(`${driver}: the fire loop opens the lane, and it stays open`, async () => {
    await until('the lane is shut', () => !released());
    header.forget();
    const from = monotonicMs();
    header.drive(FIRE, 'low');
    await until('the release', released, 5_000, 2);
    const openMs = (header.driven(RELEASE).find(({ level }) => level === 'high')?.atMs ?? Number.POSITIVE_INFINITY) - from;
    must(openMs <= FIRE_BOUND_MS, `the release was driven after ${openMs.toFixed(1)} ms`);
    await until('the latch on disk', () => existsSync('/var/lib/stile/fire-latched'), 5_000);
    header.drive(FIRE, 'high');
    await sleep(1_000);
    must(released(), 'shut again when the loop closed, without a reset');
    const words = PROVE === 'short' ? '' : await killedInFire(driver);
    await call('reset-emergency', { actor: 'staff-1', reason: 'drill over' });
    await until('the lane shut', () => !released(), 10_000);
    return `driven ${openMs.toFixed(1)} ms after the loop opened; latched; ${words}shut by reset-emergency`;
  });
}

/** The gate is killed while the fire is latched, and started again. */
async function killedInFire(driver: Driver): Promise<string> {
  const { pid } = await call<GateStatus>('status');
  let shutMs = 0;
  process.kill(pid, 'SIGKILL');
  let last = monotonicMs();
  const another = async () => (await call<GateStatus>('status').catch(() => ({ pid }))).pid !== pid;
  const again = until('the gate again', another, PATIENCE_MS, 100);
  const looking = setInterval(() => {
    const now = monotonicMs();
    if (!released()) shutMs += now - last;
    last = now;
  }, 10);
  await again.finally(() => clearInterval(looking));
  await until('open again', released, 2_000);
  // A line of the character device that nobody holds goes to its pull on gpio-sim, unlike on a Pi's kernel.
  must(driver === 'cdev' || shutMs === 0, `shut for ${shutMs.toFixed(0)} ms while the fire was latched`);
  return driver === 'cdev' ? `let go by gpio-sim for ${shutMs.toFixed(0)} ms without a process, open again with it; ` : 'open through kill -9 and restart; ';
}

interface Held {
  /** From the release until the kernel drove it no more, and from the end of the process until then, ms. */
  readonly heldMs: number;
  readonly afterMs: number;
}

/** Ends the gate while its release is driven. The process is another one afterwards, and decides. */
async function endedInMidPulse(how: Way): Promise<Held> {
  const pid = await ready();
  await shown();
  const onMs = header.driven(RELEASE).find(({ level }) => level === 'high')?.atMs ?? Number.NaN;
  const endMs = monotonicMs();
  if (how === 'stop') {
    const { code, out } = run('systemctl', 'stop', 'stile-gate');
    must(code === 0 && !released(), `stop ended with ${code}, the release is ${header.wire(RELEASE)}: ${out}`);
    must(property('Result') === 'success', `the unit's result is ${property('Result')}`);
    const offMs = header.driven(RELEASE).find(({ level, atMs }) => level === 'low' && atMs > onMs)?.atMs ?? Number.POSITIVE_INFINITY;
    return { heldMs: offMs - onMs, afterMs: Math.max(0, offMs - endMs) };
  }
  process.kill(pid, how === 'hang' ? 'SIGSTOP' : 'SIGKILL');
  const afterMs = await until('the release returns', () => !released(), 15_000, 1);
  return { heldMs: endMs + afterMs - onMs, afterMs };
}

const WAYS = ['kill -9', 'hang', 'stop'] as const;
type Way = (typeof WAYS)[number];
const BOUNDS: Readonly<Record<Way, number>> = { 'kill -9': KILLED_BOUND_MS, hang: HUNG_BOUND_MS, stop: HUNG_BOUND_MS };

/** Returns the stop step's complaints since the machine booted, in all runs of the unit. */
function complaints(): string {
  const lines = run('journalctl', '-u', 'stile-gate', '--no-pager', '-o', 'cat').out.split('\n');
  return lines.filter((line) => line.startsWith('stile-release:')).join('; ');
}

async function proveEnds(driver: Driver): Promise<void> {
  for (const how of WAYS)
    await proof(`${driver}: defined state after ${how} in mid-pulse`, async () => {
      const { heldMs, afterMs } = await endedInMidPulse(how);
      must(afterMs <= BOUNDS[how], `the release came back after ${afterMs.toFixed(0)} ms, and the bound is ${BOUNDS[how]} ms`);
      // The stop step takes one output after the other.
      await until('green is dark', () => header.wire(GREEN) === 'low', 500, 2);
      must(!released(), 'the release is driven again');
      const said = complaints();
      must(said === '', said);
      return `release back after ${afterMs.toFixed(0)} ms (bound ${BOUNDS[how]}), held ${heldMs.toFixed(0)} ms in all`;
    });
}

/** Many ends, one way after another. Each is told as it comes: it may take minutes. */
async function proveKills(driver: Driver): Promise<void> {
  if (KILLS === 0) return;
  await proof(`${driver}: ${KILLS} ends in mid-pulse`, async () => {
    const all: (Held & { readonly how: Way })[] = [];
    for (let n = 0; n < KILLS; n += 1) {
      const how = WAYS[n % WAYS.length] ?? 'stop';
      if (property('ActiveState') !== 'active') await begin();
      const held = await endedInMidPulse(how);
      say(`END ${n + 1} ${how}: back after ${held.afterMs.toFixed(0)} ms, held ${held.heldMs.toFixed(0)} ms`);
      must(held.afterMs <= BOUNDS[how], `${how} number ${n + 1}: the release came back after ${held.afterMs.toFixed(0)} ms (bound ${BOUNDS[how]})`);
      all.push({ ...held, how });
    }
    const said = complaints();
    must(said === '', said);
    const longest = (how: Way, of: (held: Held) => number) => Math.max(...all.filter((one) => one.how === how).map(of)).toFixed(0);
    const each = WAYS.map((how) => `${all.filter((one) => one.how === how).length} ${how}`).join(', ');
    return `${each}; longest until the release was back: ${WAYS.map((how) => `${how} ${longest(how, (held) => held.afterMs)} ms (bound ${BOUNDS[how]})`).join(', ')}; longest hold ${WAYS.map((how) => `${how} ${longest(how, (held) => held.heldMs)} ms`).join(', ')}`;
  });
}

/** Takes away what the bounds rest on: the release must then stay driven, or its return proves nothing. */
async function provePlanted(): Promise<void> {
  const plant = async (settings: string, how: Way, forMs: number): Promise<string> => {
    mkdirSync(dirname(DROP_IN), { recursive: true });
    writeFileSync(DROP_IN, `[Service]\nRestart=no\n${settings}\n`);
    run('systemctl', 'daemon-reload');
    await begin();
    await shown();
    const { pid } = await call<GateStatus>('status');
    process.kill(pid, how === 'hang' ? 'SIGSTOP' : 'SIGKILL');
    await sleep(forMs);
    const driven = released();
    run('systemctl', 'kill', '--signal=KILL', 'stile-gate');
    run('systemctl', 'stop', 'stile-gate');
    header.unexport();
    must(driven, `the release came back all the same within ${forMs} ms`);
    return `still driven ${forMs} ms after it`;
  };
  await proof('onoff: planted, without the stop step, kill -9 in mid-pulse', () => plant('ExecStopPost=', 'kill -9', 2 * KILLED_BOUND_MS));
  await proof('onoff: planted, without the watchdog, hang in mid-pulse', () => plant('WatchdogSec=0', 'hang', 2 * HUNG_BOUND_MS));
}

function startBroker(): void {
  writeFileSync('/run/mosquitto.conf', 'listener 1883 127.0.0.1\nallow_anonymous true\nuser root\n');
  spawn('/usr/sbin/mosquitto', ['-c', '/run/mosquitto.conf'], { stdio: 'ignore' });
  const file = openSync(HEARD, 'a');
  const listen = () => {
    const client = spawn('/usr/bin/mosquitto_sub', ['-h', '127.0.0.1', '-v', '-t', 'stile/1/#'], { stdio: ['ignore', file, 'ignore'] });
    client.on('exit', () => setTimeout(listen, 100));
  };
  listen();
  process.on('exit', () => closeSync(file));
}

function rest(): void {
  for (const line of [PASSAGE, BUTTON, FIRE, TAMPER]) header.drive(line, 'high');
}

async function main(): Promise<void> {
  await proof('Debian kernel with a Pi header', () => {
    header = makeHeader();
    rest();
    startBroker();
    // What udev does for a reader when a whole system starts.
    run('chgrp', 'dialout', READER);
    chmodSync(READER, 0o660);
    reader = spawn('/opt/prove/loop-reader', [READER], { stdio: ['pipe', 'ignore', 'inherit'] });
    // And what the installer does.
    run('chown', '-R', 'stile-gate:stile-gate', '/var/lib/stile');
    run('chgrp', '-R', 'stile-gate', '/etc/stile');
    chmodSync('/etc/stile', 0o750);
    return `${readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim()}, ${LABEL} with 54 lines`;
  });
  if (PROVE === 'full')
    for (const driver of ['onoff', 'cdev'] as const)
      await proof(`${driver}: the board's contract on a real kernel`, () => {
        const { code, out } = run('/opt/stile/bin/node', '/opt/prove/test/kernel/contract-on-kernel.ts', driver);
        header.unexport();
        must(code === 0, out);
        return out;
      });
  rest();
  if (PROVE === 'planted') return provePlanted();
  for (const driver of PROVE === 'full' ? (['onoff', 'cdev'] as const) : (['onoff'] as const)) {
    if (driver === 'cdev') {
      // A kernel without sysfs GPIO, as far as the gate can see.
      mkdirSync(dirname(DROP_IN), { recursive: true });
      writeFileSync(DROP_IN, '[Service]\nTemporaryFileSystem=/sys/class/gpio:ro\n');
      run('systemctl', 'daemon-reload');
    }
    if (PROVE !== 'ends') {
      await proveLane(driver);
      await proveFire(driver);
      await proveEnds(driver);
    }
    await proveKills(driver);
    run('systemctl', 'stop', 'stile-gate');
    header.unexport();
    rest();
  }
  if (PROVE === 'ends') await provePlanted();
  reader.kill();
}

const uptimeS = () => readFileSync('/proc/uptime', 'utf8').split(' ')[0];
say(`TIME ${uptimeS()}`);
try {
  await main();
} catch (error) {
  say(`PROOF the whole: FAILED ${short((error as Error).stack ?? '')}`);
}
say(`TIME ${uptimeS()}`);
say('DONE');
