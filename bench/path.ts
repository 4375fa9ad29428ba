/**
 * The way of a code, measured: last byte written into the reader's wire → release edge on the board, with real parts (serialport
 * on a pseudo-terminal, the decider in its worker with synchronous=FULL, the lane, the sim board), for manifests of three sizes.
 * Beside it, on the same disk and in the same run, the floor: the same-size write and fdatasync in a bare loop.
 *
 * The code comes as over a wire, in pieces at the port's baud (`--baud 0`: all at once, as from a reader on USB). For every second code the decider is not told of its
 * coming, so that what this is worth shows in one run.
 *
 *   node bench/path.ts [--codes 1000] [--sizes 10000,100000,1000000] [--baud 115200] [--pause 130] [--dir <folder on the disk to measure>]
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createSimBoard } from '../daemon/board/sim-board.ts';
import { createClock } from '../daemon/clock/clock.ts';
import { createDeciderClient } from '../daemon/decider/client.ts';
import { createGate, type Gate } from '../daemon/gate/gate.ts';
import { DEFAULT_LANE_CONFIG } from '../daemon/lane/config.ts';
import { createNoUplink } from '../daemon/link/lazy-uplink.ts';
import type { Decider, Reader } from '../daemon/ports.ts';
import { createSerialReader } from '../daemon/reader/serial-reader.ts';
import { openPtyPair } from '../daemon/sim/pty-pair.ts';
import { systemTimers } from '../daemon/timers.ts';
import { FLOOR_ROUNDS, type Floor, openFloor } from './disk-floor.ts';
import { createGuest } from './guest.ts';
import { quantile, table } from './table.ts';
import { codeOf, makeTicketList } from './ticket-list.ts';

const { values } = parseArgs({
  options: {
    codes: { type: 'string', default: '1000' },
    sizes: { type: 'string', default: '10000,100000,1000000' },
    baud: { type: 'string', default: '115200' },
    pause: { type: 'string', default: '130' },
    dir: { type: 'string', default: tmpdir() },
  },
});
const CODES = Number(values.codes);
const BAUD = Number(values.baud);
const SIZES = values.sizes.split(',').map(Number);
/** Between two guests: longer than the lane's own gap between pulses. */
const PAUSE_MS = Number(values.pause);
const GATE = 'arena/bench-01';

interface Times {
  readonly framing: number[];
  readonly toDesk: number[];
  readonly lookup: number[];
  readonly decision: number[];
  readonly commit: number[];
  readonly fromDesk: number[];
  readonly release: number[];
  readonly whole: number[];
  readonly floor: number[];
}
const newTimes = (): Times => ({ framing: [], toDesk: [], lookup: [], decision: [], commit: [], fromDesk: [], release: [], whole: [], floor: [] });

/** One gate with real parts, its ports listened at. `cold`: codes whose coming was not told. */
async function measure(
  folder: string,
  size: number,
  floor: Floor,
): Promise<{ readonly times: Times; readonly cold: Times; readonly rss_mb: number; readonly bytes: number }> {
  const list = await makeTicketList(folder, size, Date.now());
  const clock = createClock({ floorMs: 0 });
  const store = createDeciderClient({ path: join(folder, `store-${size}`), gate: GATE, verifyKeys: [list.signer.publicKey], clock });
  await store.open();
  const installed = await store.installManifest(list.file, list.wanted);
  if (!installed.ok) throw new Error(`the manifest was refused: ${installed.message}`);

  const kinds = { told: newTimes(), cold: newTimes() };
  let times = kinds.told;
  const now = () => Number(process.hrtime.bigint()) / 1_000;
  let framedUs = 0;
  let answeredUs = 0;
  const pty = openPtyPair();
  const serial = createSerialReader({ name: 'in', direction: 'in', path: pty.readerPath, baud: 115_200, frame: 'crlf' }, clock);
  const reader: Reader = {
    ...serial,
    open: (listener) =>
      serial.open((event) => {
        if (event.kind === 'frame') framedUs = now();
        listener(event);
      }),
  };
  const decider: Decider = {
    ...store,
    prepare() {
      if (times === kinds.told) store.prepare?.();
    },
    async decide(presentation) {
      const askedUs = now();
      const decision = await store.decide(presentation);
      answeredUs = now();
      const { lookup_us, decision_us, commit_us } = decision.stages;
      times.toDesk.push(askedUs - framedUs);
      times.lookup.push(lookup_us);
      times.decision.push(decision_us);
      times.commit.push(commit_us);
      times.fromDesk.push(answeredUs - askedUs - lookup_us - decision_us - commit_us);
      return decision;
    },
  };
  const board = createSimBoard(
    {
      config: {
        outputs: { release_in: { line: 17, active: 'high', safe: null }, green_in: { line: 22, active: 'high', safe: null } },
        inputs: { passage_in: { line: 20, active: 'low', bias: 'pull-up', debounceMs: null } },
        simSocket: null,
        simDraw: false,
        simGuest: true,
        simPassageMs: 10,
      },
    },
    clock,
  );
  let released: ((edgeUs: number) => void) | null = null;
  board.onOutput((output, active) => {
    if (output === 'release_in' && active) {
      released?.(now());
    }
  });
  board.turnstile({ kind: 'settings', settings: { delayMs: 5, rotateMs: 10 } });
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const gate = createGate({
    config: { gate: GATE, lane: { ...DEFAULT_LANE_CONFIG, pulseMs: 20 } },
    clock,
    decider,
    board,
    readers: [reader],
    uplink: createNoUplink(),
    log,
    timers: systemTimers(),
    restart() {},
    sync: { want: async () => {}, overlay: async () => {}, gap: async () => {}, refresh: async () => ({}) },
  });
  await gate.open();
  const guest = createGuest(pty.guestPath, BAUD);
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  for (let code = 0; code < CODES; code++) {
    times = code % 2 === 0 ? kinds.told : kinds.cold;
    const edge = new Promise<number>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`code ${code} did not open the lane within 5 s`)), 5_000);
      released = (edgeUs) => {
        clearTimeout(timer);
        resolve(edgeUs);
      };
    });
    // CR alone, so that the last byte is the one that ends the code.
    const [edgeUs, writtenUs] = await Promise.all([edge, guest.show(`${codeOf(Math.floor((code * size) / CODES))}\r`)]);
    times.framing.push(framedUs - writtenUs);
    times.release.push(edgeUs - answeredUs);
    times.whole.push(edgeUs - writtenUs);
    await idle(gate);
    // The turnstile wants a pause between two pulses; a disk and a processor that rested are part of every guest's way.
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    times.floor.push(floor.round());
  }
  const rss_mb = process.memoryUsage().rss / 1e6;
  await gate.close('done');
  await guest.end();
  pty.close();
  return { times: kinds.told, cold: kinds.cold, rss_mb, bytes: list.bytes };
}

/** Until the guest is through and the lane takes the next one. */
async function idle(gate: Gate): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (gate.state().in.grant !== null || gate.state().in.deciding) {
    if (performance.now() > deadline) throw new Error(`the lane did not become idle: ${JSON.stringify(gate.state().in)}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const folder = mkdtempSync(join(values.dir, 'stile-bench-'));
try {
  const floor = openFloor(folder);
  const hot = Array.from({ length: FLOOR_ROUNDS }, () => floor.round());
  process.stdout.write(
    `commit floor (4,120 bytes, pwrite + fdatasync, laid out before), one after the other: p50 ${quantile(hot, 0.5).toFixed(0)} µs, p99 ${quantile(hot, 0.99).toFixed(0)} µs\n\n`,
  );
  const compiled = existsSync(join(import.meta.dirname, '../node_modules/better-sqlite3/build/Release/better_sqlite3.node'));
  process.stdout.write(`database: ${compiled ? 'as in a bundle (fdatasync)' : 'prebuilt (fsync; node deploy/build-sqlite.ts for the one in a bundle)'}\n`);
  for (const size of SIZES) {
    const { times, cold, rss_mb, bytes } = await measure(folder, size, floor);
    const whole = quantile(times.whole, 0.5);
    const rows = (
      [
        ['wire and framing', 'framing'],
        ['loop → decider', 'toDesk'],
        ['lookup', 'lookup'],
        ['decision', 'decision'],
        ['commit', 'commit'],
        ['worker round trip', 'fromDesk'],
        ['release', 'release'],
        ['last byte → release', 'whole'],
        ['commit floor, between guests', 'floor'],
      ] as const
    ).map(([stage, key]) => [
      stage,
      ...[0.5, 0.9, 0.99].map((q) => quantile(times[key], q).toFixed(0)),
      `${((100 * quantile(times[key], 0.5)) / whole).toFixed(0)} %`,
      quantile(cold[key], 0.5).toFixed(0),
    ]);
    process.stdout.write(
      `${size.toLocaleString('en')} tickets (${(bytes / size).toFixed(1)} bytes a ticket in the file), ${times.whole.length + cold.whole.length} codes at ${BAUD === 0 ? 'once' : `${BAUD} baud`}, ${rss_mb.toFixed(0)} MB resident, load ${loadavg()[0]?.toFixed(1)}\n`,
    );
    process.stdout.write(`${table(['stage', 'p50 µs', 'p90 µs', 'p99 µs', 'share', 'coming not told: p50 µs'], rows)}\n`);
    const durable = (of: Times) =>
      quantile(
        of.lookup.map((value, index) => value + (of.decision[index] ?? 0) + (of.commit[index] ?? 0)),
        0.5,
      ) / quantile([...times.floor, ...cold.floor], 0.5);
    process.stdout.write(
      `durable decision (lookup + decision + commit) / commit floor at the guests' pace: ${durable(times).toFixed(2)}; coming not told: ${durable(cold).toFixed(2)}\n\n`,
    );
  }
  floor.close();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
