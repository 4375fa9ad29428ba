/**
 * The way of a code, measured: last byte written into the reader's wire → release edge on the board, with real parts (serialport
 * on a pseudo-terminal, the desk in its worker with synchronous=FULL, the lane, the sim board), for manifests of three sizes.
 * Beside it, on the same disk and in the same run, the floor: the same-size write and fdatasync in a bare loop.
 *
 *   node bench/path.ts [--codes 1000] [--sizes 10000,100000,1000000] [--dir <folder on the disk to measure>]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createSimBoard } from '../daemon/board/sim-board.ts';
import { createClock } from '../daemon/clock.ts';
import { createDesk } from '../daemon/desk.ts';
import { systemTimers } from '../daemon/gate/timers.ts';
import { createGate, type Gate } from '../daemon/gate.ts';
import { DEFAULT_LANE_CONFIG } from '../daemon/lane/config.ts';
import { createNoUplink } from '../daemon/late-uplink.ts';
import type { Desk, Reader } from '../daemon/ports.ts';
import { createSerialReader } from '../daemon/reader/serial-reader.ts';
import { openPtyPair } from '../daemon/sim/pty-pair.ts';
import { FLOOR_ROUNDS, type Floor, openFloor } from './floor.ts';
import { quantile, table } from './table.ts';
import { codeOf, makeTicketList } from './ticket-list.ts';

const { values } = parseArgs({
  options: {
    codes: { type: 'string', default: '1000' },
    sizes: { type: 'string', default: '10000,100000,1000000' },
    dir: { type: 'string', default: tmpdir() },
  },
});
const CODES = Number(values.codes);
const SIZES = values.sizes.split(',').map(Number);
/** Between two guests: longer than the lane's own gap between pulses. */
const PAUSE_MS = 130;
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
/** One gate with real parts, its ports listened at. */
async function measure(folder: string, size: number, floor: Floor): Promise<{ readonly times: Times; readonly rss_mb: number; readonly bytes: number }> {
  const list = await makeTicketList(folder, size, Date.now());
  const clock = createClock({ floorMs: 0 });
  const store = createDesk({ path: join(folder, `store-${size}`), gate: GATE, verifyKeys: [list.signer.publicKey], clock });
  await store.open();
  const installed = await store.installManifest(list.file, list.wanted);
  if (!installed.ok) throw new Error(`the manifest was refused: ${installed.message}`);

  const times: Times = { framing: [], toDesk: [], lookup: [], decision: [], commit: [], fromDesk: [], release: [], whole: [], floor: [] };
  const now = () => performance.now() * 1000;
  let writtenUs = 0;
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
  const desk: Desk = {
    ...store,
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
  let released: (() => void) | null = null;
  board.onOutput((output, active) => {
    if (output === 'release_in' && active) {
      const edgeUs = now();
      times.framing.push(framedUs - writtenUs);
      times.release.push(edgeUs - answeredUs);
      times.whole.push(edgeUs - writtenUs);
      released?.();
    }
  });
  board.turnstile({ kind: 'settings', settings: { delayMs: 5, rotateMs: 10 } });
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const gate = createGate({
    config: { gate: GATE, lane: { ...DEFAULT_LANE_CONFIG, pulseMs: 20 } },
    clock,
    desk,
    board,
    readers: [reader],
    uplink: createNoUplink(),
    log,
    timers: systemTimers(),
    restart() {},
    sync: { want: async () => {}, overlay: async () => {}, gap: async () => {}, refresh: async () => ({}) },
  });
  await gate.open();
  await new Promise((resolve) => setTimeout(resolve, 300));
  for (let code = 0; code < CODES; code++) {
    const edge = new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`code ${code} did not open the lane within 5 s`)), 5_000);
      released = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    const bytes = `${codeOf(Math.floor((code * size) / CODES))}\r\n`;
    writtenUs = now();
    writeFileSync(pty.guestPath, bytes);
    await edge;
    await idle(gate);
    // The turnstile wants a pause between two pulses; a disk and a processor that rested are part of every guest's way.
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    times.floor.push(floor.round());
  }
  const rss_mb = process.memoryUsage().rss / 1e6;
  await gate.close('done');
  pty.close();
  return { times, rss_mb, bytes: list.bytes };
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
  for (const size of SIZES) {
    const { times, rss_mb, bytes } = await measure(folder, size, floor);
    const whole = quantile(times.whole, 0.5);
    const rows = (
      Object.entries({
        'wire and framing': times.framing,
        'loop → desk': times.toDesk,
        lookup: times.lookup,
        decision: times.decision,
        commit: times.commit,
        'worker round trip': times.fromDesk,
        release: times.release,
        'last byte → release': times.whole,
        'commit floor, between guests': times.floor,
      }) as [string, number[]][]
    ).map(([stage, list]) => [stage, ...[0.5, 0.99, 0.999].map((q) => quantile(list, q).toFixed(0)), `${((100 * quantile(list, 0.5)) / whole).toFixed(0)} %`]);
    process.stdout.write(
      `${size.toLocaleString('en')} tickets (${(bytes / size).toFixed(1)} bytes a ticket in the file), ${times.whole.length} codes, ${rss_mb.toFixed(0)} MB resident\n`,
    );
    process.stdout.write(`${table(['stage', 'p50 µs', 'p99 µs', 'p99.9 µs', 'share'], rows)}\n`);
    const durable = quantile(
      times.lookup.map((value, index) => value + (times.decision[index] ?? 0) + (times.commit[index] ?? 0)),
      0.5,
    );
    process.stdout.write(
      `durable decision (lookup + decision + commit) / commit floor: ${(durable / quantile(times.floor, 0.5)).toFixed(2)} (floor at the guests' pace)\n\n`,
    );
  }
  floor.close();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
