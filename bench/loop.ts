/**
 * Presentations through the gate's loop in the simulator: the loop with its lane, a turnstile and guests of software, a clock that
 * is moved by hand, and the real decider in its worker on the real disk. No wire and no waiting, so what is left is the gate's own work.
 *
 *   node bench/loop.ts [--presentations 10000] [--dir <folder on the disk to measure>]
 *
 * Of ten codes seven are good, one is shown again later, one is unknown, one is rubbish. The floor (the same write and fdatasync in a bare
 * loop) is measured in between, on the same disk.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createDeciderClient } from '../daemon/decider/client.ts';
import { createGate } from '../daemon/gate/gate.ts';
import { DEFAULT_LANE_CONFIG } from '../daemon/lane/config.ts';
import { createNoUplink } from '../daemon/link/lazy-uplink.ts';
import type { Board, BoardEvent, Clock, Decider, InputName, Reader, ReaderEvent } from '../daemon/ports.ts';
import { initialTurnstile, stepTurnstile, type TurnstileInput } from '../daemon/sim/turnstile.ts';
import { type Floor, openFloor } from './disk-floor.ts';
import { quantile, table } from './table.ts';
import { codeOf, makeTicketList } from './ticket-list.ts';

const { values } = parseArgs({ options: { presentations: { type: 'string', default: '10000' }, dir: { type: 'string', default: tmpdir() } } });
const PRESENTATIONS = Number(values.presentations);
const GATE = 'arena/bench-01';
const WALL_MS = Date.parse('2027-05-01T17:00:00.000Z');
/** From one guest's code to the next one's, ms of the simulated clock: longer than the passage, and than the red of a refusal. */
const GUEST_MS = 3_500;
/** The floor is measured after so many codes. */
const FLOOR_EVERY = 10;

/** A clock that stands still until it is moved, and timers that follow it. */
function createTime() {
  let nowMs = 1_000;
  let serial = 0;
  const due: { atMs: number; serial: number; run: () => void }[] = [];
  const clock: Clock = {
    boottimeMs: () => nowMs,
    wallMs: () => WALL_MS + nowMs,
    bootId: 'bench',
    offset: () => ({ offsetMs: WALL_MS, boundMs: 1 }),
    trusted: () => true,
    observe: () => undefined,
  };
  const after = (delayMs: number, run: () => void) => {
    const one = { atMs: nowMs + Math.max(0, delayMs), serial: serial++, run };
    due.push(one);
    return {
      cancel: () => {
        const at = due.indexOf(one);
        if (at >= 0) due.splice(at, 1);
      },
    };
  };
  /** Everything due until `untilMs`, in order; the decider's answers come before anything later. */
  const pass = async (untilMs: number, settled: () => Promise<void>): Promise<void> => {
    for (;;) {
      await settled();
      const next = due.toSorted((a, b) => a.atMs - b.atMs || a.serial - b.serial)[0];
      if (next === undefined || next.atMs > untilMs) break;
      due.splice(due.indexOf(next), 1);
      nowMs = Math.max(nowMs, next.atMs);
      next.run();
    }
    nowMs = untilMs;
  };
  return { clock, timers: { after }, pass, nowMs: () => nowMs };
}

/** The lane's lines with a software turnstile at their other end. */
function createLane(time: ReturnType<typeof createTime>, released: () => void): Board {
  let turnstile = initialTurnstile({ delayMs: 300, rotateMs: 400 });
  let listener: (event: BoardEvent) => void = () => undefined;
  let waiting: { cancel(): void } | null = null;
  const inputs = new Map<InputName, boolean>();
  const move = (input: TurnstileInput): void => {
    const atMs = time.nowMs();
    const step = stepTurnstile(turnstile, input, atMs);
    turnstile = step.state;
    waiting?.cancel();
    waiting = step.deadlineMs === null ? null : time.timers.after(step.deadlineMs - atMs, () => move({ kind: 'tick' }));
    for (const { input: name, active } of step.effects) {
      inputs.set(name, active);
      listener({ kind: 'input', input: name, active, atMs });
    }
  };
  return {
    async open(heard) {
      listener = heard;
    },
    has: (line) => ['release_in', 'green_in', 'red_in', 'amber_in', 'passage_in'].includes(line),
    write(output, active) {
      if (output === 'release_in' && active) released();
      // Nothing answers before the write has returned.
      time.timers.after(0, () => move({ kind: 'output', output, active }));
    },
    read: (input) => inputs.get(input) ?? false,
    close: async () => undefined,
    ok: () => true,
  };
}

interface Measured {
  readonly release: number[];
  readonly refusal: number[];
  readonly durable: number[];
  readonly floor: number[];
  readonly wholeMs: number;
  readonly counts: { granted: number; refused: number; passed: number };
}

async function measure(folder: string, floor: Floor): Promise<Measured> {
  const time = createTime();
  const list = await makeTicketList(folder, PRESENTATIONS, WALL_MS);
  const store = createDeciderClient({ path: join(folder, 'store'), gate: GATE, verifyKeys: [list.signer.publicKey], clock: time.clock });
  await store.open();
  const installed = await store.installManifest(list.file, list.wanted);
  if (!installed.ok) throw new Error(`the list was refused: ${installed.message}`);

  const release: number[] = [];
  const refusal: number[] = [];
  const durable: number[] = [];
  let shownAt = 0;
  const underWay = new Set<Promise<unknown>>();
  const track = <T>(answer: Promise<T>): Promise<T> => {
    const one = answer.then(
      () => void underWay.delete(one),
      () => void underWay.delete(one),
    );
    underWay.add(one);
    return answer;
  };
  /** The decider has answered everything, and the loop has taken it. */
  const settled = async (): Promise<void> => {
    do {
      await Promise.all(underWay);
      await new Promise((resolve) => setImmediate(resolve));
    } while (underWay.size > 0);
  };
  const decider: Decider = {
    ...store,
    decide: (presentation) =>
      track(
        store.decide(presentation).then((decision) => {
          const { lookup_us, decision_us, commit_us } = decision.stages;
          durable.push(lookup_us + decision_us + commit_us);
          return decision;
        }),
      ),
    record: (note) => track(store.record(note)),
    status: () => track(store.status()),
  };
  let hear: (event: ReaderEvent) => void = () => undefined;
  const reader: Reader = {
    name: 'in',
    direction: 'in',
    open(listener) {
      hear = listener;
      listener({ kind: 'up', reader: 'in' });
    },
    close: async () => undefined,
    ok: () => true,
  };
  const since = () => (performance.now() - shownAt) * 1000;
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const gate = createGate({
    config: { gate: GATE, lane: DEFAULT_LANE_CONFIG },
    clock: time.clock,
    decider,
    board: createLane(time, () => release.push(since())),
    readers: [reader],
    uplink: createNoUplink(),
    log,
    timers: time.timers,
    restart() {},
    sync: { want: async () => {}, overlay: async () => {}, gap: async () => {}, refresh: async () => ({}) },
  });
  await gate.open();
  gate.subscribe((event) => event.kind === 'decision' && event.decision.outcome === 'refusal' && refusal.push(since()));
  await time.pass(time.nowMs() + GUEST_MS, settled);

  const floors: number[] = [];
  const began = performance.now();
  let floorMs = 0;
  for (let n = 0; n < PRESENTATIONS; n++) {
    const bytes = Buffer.from(codeFor(n));
    const atMs = time.nowMs();
    shownAt = performance.now();
    hear({ kind: 'frame', reader: 'in', direction: 'in', bytes, atMs, lastByteMs: atMs });
    await time.pass(atMs + GUEST_MS, settled);
    if (n % FLOOR_EVERY > 0) continue;
    const beganFloor = performance.now();
    floors.push(floor.round());
    floorMs += performance.now() - beganFloor;
  }
  const wholeMs = performance.now() - began - floorMs;
  const { totals } = gate.state();
  const ending = gate.close('done');
  await time.pass(time.nowMs() + 60_000, settled);
  await ending;
  return { release, refusal, durable, floor: floors, wholeMs, counts: { granted: release.length, refused: refusal.length, passed: totals.passages } };
}

/** Seven good codes of ten; the others are a good one from before, an unknown one, and rubbish. */
function codeFor(n: number): string | Uint8Array {
  if (n % 10 === 7) return codeOf(n - 5);
  if (n % 10 === 8) return codeOf(n + 1_000_000_000);
  return n % 10 === 9 ? Uint8Array.of(0x41, 0xff, 0xfe, n & 0xff) : codeOf(n);
}

const folder = mkdtempSync(join(values.dir, 'stile-loop-'));
const floor = openFloor(folder);
try {
  const load = loadavg()[0] ?? 0;
  const measured = await measure(folder, floor);
  const { counts, wholeMs } = measured;
  const p50 = quantile(measured.floor, 0.5);
  const good = Array.from({ length: PRESENTATIONS }, (_, n) => n % 10).filter((kind) => kind < 7).length;
  if (counts.granted !== good || counts.passed !== good || counts.refused !== PRESENTATIONS - good)
    throw new Error(`wrong answers: ${JSON.stringify(counts)}, of ${PRESENTATIONS} codes ${good} are good`);
  const line = (name: string, times: readonly number[]) => [
    name,
    String(times.length),
    ...[0.5, 0.99, 0.999].map((q) => quantile(times, q).toFixed(0)),
    (quantile(times, 0.5) / p50).toFixed(2),
  ];
  process.stdout.write(
    `${PRESENTATIONS.toLocaleString('en')} presentations through the loop, the lane and the decider on its disk: ${counts.granted} admitted and passed, ${counts.refused} refused, in ${(wholeMs / 1000).toFixed(1)} s (${(PRESENTATIONS / (wholeMs / 1000)).toFixed(0)} a second, passage and rows included), load ${load.toFixed(1)}\n`,
  );
  process.stdout.write(
    `${table(
      ['', 'times', 'p50 µs', 'p99 µs', 'p99.9 µs', '× floor'],
      [
        line('code → release', measured.release),
        line('code → refusal shown', measured.refusal),
        line('of it lookup, decision, commit', measured.durable),
        line('floor: 4,120 bytes, pwrite + fdatasync', measured.floor),
      ],
    )}\n`,
  );
} finally {
  floor.close();
  rmSync(folder, { recursive: true, force: true });
}
