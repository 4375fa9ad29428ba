/**
 * A gate of a simulated world: a turnstile with guests before it, a clock that drifts, a card that can lose its power, and the product's
 * own process on it (the loop, the lane, the decider on SQLite, the uplink), started and killed at any moment.
 */
import type { Direction, RowPosition } from '../../contract/ids.ts';
import { createClock, type GateClock } from '../../daemon/clock/clock.ts';
import { createGate, type Gate } from '../../daemon/gate/gate.ts';
import { TICK_MS } from '../../daemon/gate/loop.ts';
import { DEFAULT_LANE_CONFIG } from '../../daemon/lane/config.ts';
import { createUplink, type MqttUplink } from '../../daemon/link/mqtt-uplink.ts';
import type { Board, BoardEvent, InputName, OutputName, Reader, ReaderEvent, Uplink } from '../../daemon/ports.ts';
import { BASE_MS } from './fixture.ts';
import { createSimDesk, type DeskWatcher, type DiskState, type SimDesk } from './gate-decider.ts';
import { createSimSync, type SimSync } from './gate-sync.ts';
import { liesOnDisk, storeAfterKill, storeAfterPowerCut } from './power.ts';
import type { Owner } from './scheduler.ts';
import type { World } from './types.ts';

/** The act of a guest at a release. late: in the grace. after: when the lane has given up. stuck: stays between the arms. */
export type Act = 'pass' | 'late' | 'none' | 'after' | 'stuck';
const BEGINS_MS: Readonly<Record<Act, number>> = { pass: 700, late: 5_700, none: 0, after: 7_600, stuck: 600 };
const TURN_MS = 450;
const STUCK_MS = 31_500;
/** The loop ticks every TICK_MS; a simulated one does it so much less often, as a loaded machine would. */
const LAZY_TICK_MS = 1_500;
/** Round trips after a connect: fewer than the product's, for speed alone. */
const TIME_BURST = 2;
/** Of rounding: a timer never comes before its time. */
const EARLY_MS = 0.001;
const BOTH: readonly Direction[] = ['in', 'out'];

const LINES: ReadonlySet<string> = new Set(['release_in', 'release_out', 'passage_in', 'passage_out', 'button', 'fire']);
const INFO = {
  version: 'sim',
  commit: 'sim',
  runtime: 'sim',
  kernel: 'sim',
  image: null,
  hardware_model: null,
  hardware_serial: null,
  boot_id: 'sim',
  booted_at: new Date(BASE_MS).toISOString(),
  config_sha256: 'sim',
  readers: [],
  cert_expires_at: null,
};
const silent = () => undefined;
const LOG = { debug: silent, info: silent, warn: silent, error: silent };

/** One life of the process. */
export interface Life extends Owner {
  readonly number: number;
  readonly gate: Gate;
  readonly decider: SimDesk;
  readonly uplink: MqttUplink;
  readonly clock: GateClock;
}

export interface GateWatcher extends DeskWatcher {
  started(life: number): void;
  /** Another card is in: what the old one had heard is not on it. */
  exchanged(kept: RowPosition | null): void;
  /** A release line rose. */
  released(direction: Direction, life: number): void;
  ledgerSent(payload: Uint8Array): void;
}

export interface SimGate {
  readonly name: string;
  readonly disk: DiskState;
  life(): Life | null;
  /** What is wrong with this gate's clock; from the next look on. */
  readonly oscillator: { driftPpm: number; wallErrorMs: number; synchronised: boolean };
  start(path?: string): void;
  kill(): void;
  /** Answers how many commits of the ledger the cut took. */
  powerCut(): number;
  /** The card as it is now. */
  path(): string;
  /** Every folder that this gate has had for a card. */
  readonly folders: readonly string[];
  /** `kept`: the last row on the card that goes in; null: it is new. */
  replaceCard(path: string, kept: RowPosition | null): void;
  show(code: string, direction: Direction, acts: readonly Act[]): void;
  push(direction: Direction): void;
  press(): void;
  fire(active: boolean): void;
  burns(): boolean;
  level(output: OutputName): boolean;
  /** Rotations that really happened. */
  readonly turned: Readonly<Record<Direction, number>>;
  readonly reachable: () => boolean;
  webCut: boolean;
  /** A technician is at it: nobody turns the turnstile. */
  barred: boolean;
}

export function createSimGate(world: World, name: string, firstPath: string, watcher: (gate: SimGate) => GateWatcher): SimGate {
  const { scheduler, random, mutant } = world;
  const levels = new Map<OutputName, boolean>();
  const inputs = new Map<InputName, boolean>();
  const guests: Record<Direction, Act[]> = { in: [], out: [] };
  const turned: Record<Direction, number> = { in: 0, out: 0 };
  const oscillator = { driftPpm: 0, wallErrorMs: 0, synchronised: true };
  const disk: DiskState = { stallMs: 0, fails: false };
  let path = firstPath;
  const folders = [firstPath];
  const use = (folder: string): void => {
    path = folder;
    folders.push(folder);
  };
  let boot = { id: '', beganMs: 0, number: 0 };
  let lives = 0;
  let life: Life | null = null;
  let boardSays: ((event: BoardEvent) => void) | null = null;
  const readers = new Map<Direction, (event: ReaderEvent) => void>();

  const newBoot = (): void => {
    boot = { id: `${name.replace('/', '-')}-boot-${boot.number + 1}`, beganMs: scheduler.nowMs() - 1_000 - random.below(20_000), number: boot.number + 1 };
  };
  newBoot();
  const boottimeMs = (): number => (scheduler.nowMs() - boot.beganMs) * (1 + oscillator.driftPpm / 1_000_000);

  const line = (input: InputName, active: boolean): void => {
    inputs.set(input, active);
    if (mutant === 'fire-ignored' && input === 'fire') return;
    if (life !== null) boardSays?.({ kind: 'input', input, active, atMs: boottimeMs() });
  };
  const turn = (direction: Direction, lastsMs: number): void => {
    if (inputs.get(`passage_${direction}`) === true || self.barred) return;
    turned[direction] += 1;
    line(`passage_${direction}`, true);
    scheduler.after(lastsMs, null, () => line(`passage_${direction}`, false));
  };
  const act = (direction: Direction): void => {
    const next = guests[direction].shift() ?? 'none';
    if (next === 'none') return;
    scheduler.after(BEGINS_MS[next] + random.below(300), null, () => turn(direction, next === 'stuck' ? STUCK_MS : TURN_MS));
  };
  const drive = (output: OutputName, active: boolean): void => {
    const was = levels.get(output) ?? false;
    levels.set(output, active);
    if (!active || was || (output !== 'release_in' && output !== 'release_out')) return;
    const direction = output === 'release_in' ? 'in' : 'out';
    world.trace.add(scheduler.nowMs(), `${name} releases ${direction}`);
    watch.released(direction, life?.number ?? lives);
    act(direction);
  };
  const board: Board = {
    async open(listener) {
      boardSays = listener;
      for (const output of ['release_in', 'release_out'] as const) levels.set(output, false);
    },
    has: (one) => LINES.has(one),
    write: drive,
    read: (input) => inputs.get(input) ?? false,
    async close() {
      levels.clear();
    },
    ok: () => true,
  };
  const reader = (direction: Direction): Reader => ({
    name: direction,
    direction,
    open(listener) {
      readers.set(direction, listener);
      listener({ kind: 'up', reader: direction });
    },
    close: async () => undefined,
    ok: () => true,
  });

  const begin = (): void => {
    lives += 1;
    const owner: Owner = { alive: true };
    // As the runtime's timers: by this machine's own clock, in whole milliseconds, never early.
    const timers = {
      after: (delayMs: number, run: () => void) =>
        scheduler.after(EARLY_MS + Math.ceil(delayMs === TICK_MS ? LAZY_TICK_MS : delayMs) / (1 + oscillator.driftPpm / 1_000_000), owner, run),
    };
    const clock = createClock({
      source: {
        boottimeMs,
        systemMs: () => BASE_MS + scheduler.nowMs() + oscillator.wallErrorMs,
        synchronised: () => oscillator.synchronised,
        bootId: boot.id,
      },
      floorMs: BASE_MS - 86_400_000,
    });
    const planted = (presentation: { readonly direction: Direction }): void => {
      if (mutant === 'release-before-commit') drive(presentation.direction === 'in' ? 'release_in' : 'release_out', true);
    };
    const decider = createSimDesk({ world, gate: name, path, clock, owner, disk, watcher: watch, planted });
    const uplink = createUplink({
      gate: name,
      url: 'mqtt://sim',
      clock,
      decider: told(decider),
      info: INFO,
      log: LOG,
      peersDropped: () => void sync.gap(),
      timing: { timeBurst: TIME_BURST },
      world: { openSession: world.broker.sessionFor(owner), timers, random: random.next },
    });
    const sync: SimSync = createSimSync({ world, gate: name, decider, owner, reachable });
    const opened: Uplink = {
      ...uplink,
      open: (listener) =>
        uplink.open((event) => {
          if (event.kind === 'online') sync.connected();
          return listener(event);
        }),
    };
    const gate = createGate({
      // Exits are known by code, so that they are part of the account.
      config: { gate: name, lane: { ...DEFAULT_LANE_CONFIG, exit: 'code', button: 'in' } },
      clock,
      decider,
      board,
      readers: BOTH.map(reader),
      uplink: opened,
      sync,
      log: LOG,
      timers,
      restart: silent,
    });
    life = Object.assign(owner, { number: lives, gate, decider, uplink, clock });
    watch.started(lives);
    world.trace.add(scheduler.nowMs(), `${name} starts (${boot.id})`);
    const look = (): void => {
      clock.takeJump();
      scheduler.after(2_000, owner, look);
    };
    look();
    void gate.open().then(() => {
      if (mutant === 'unknown-released-again') void releaseUnknown(decider);
    });
  };
  /** A planted fault: what was open when the process died is opened once more. */
  const releaseUnknown = async (decider: SimDesk): Promise<void> => {
    const { epoch, lastSeq } = await decider.status();
    const last = (await decider.rows([epoch, Math.max(0, lastSeq - 1)], 1))[0];
    if (last?.entry['outcome'] === 'unknown') drive(last.entry['direction'] === 'out' ? 'release_out' : 'release_in', true);
  };
  const reachable = (): boolean => !self.webCut && world.cloud.up;
  /** The ledger's batches, seen as they go out. A planted fault takes the broker's word for the cloud's. */
  const told = (decider: SimDesk) => ({
    rememberTransaction: decider.rememberTransaction,
    async nextBatch(after: RowPosition | null) {
      const batch = await decider.nextBatch(after);
      if (batch !== null) watch.ledgerSent(batch.payload);
      if (batch !== null && mutant === 'puback-as-recorded')
        scheduler.after(60, life, () => {
          void decider.acknowledge({
            schema: 1,
            epochs: [{ epoch: batch.epoch, upto_seq: batch.uptoSeq, missing: [] }],
            cloud_time: new Date(BASE_MS).toISOString(),
          });
        });
      return batch;
    },
  });
  const end = (): Life | null => {
    const ended = life;
    if (ended === null) return null;
    ended.alive = false;
    life = null;
    boardSays = null;
    readers.clear();
    // The stop step, outside the process: every output in its defined state.
    for (const output of ['release_in', 'release_out'] as const) levels.set(output, inputs.get('fire') === true);
    return ended;
  };

  const self: SimGate = {
    name,
    disk,
    life: () => life,
    oscillator,
    start(other) {
      if (life !== null) return;
      if (other !== undefined) use(other);
      begin();
    },
    kill() {
      const ended = end();
      if (ended === null) return;
      const next = world.fixture.folderFor(name);
      storeAfterKill(path, next);
      ended.decider.drop();
      use(next);
      world.broker.abandoned(name);
      world.trace.add(scheduler.nowMs(), `${name} killed`);
    },
    powerCut() {
      const ended = end();
      if (ended === null) return 0;
      const next = world.fixture.folderFor(name);
      const lost = storeAfterPowerCut(path, next, random);
      ended.decider.drop();
      use(next);
      newBoot();
      world.broker.abandoned(name);
      world.trace.add(scheduler.nowMs(), `${name} without power`);
      return lost;
    },
    path: () => path,
    folders,
    replaceCard(other, kept) {
      liesOnDisk(other);
      use(other);
      newBoot();
      watch.exchanged(kept);
    },
    show(code, direction, acts) {
      const listener = readers.get(direction);
      if (life === null || listener === undefined) return;
      guests[direction] = [...acts];
      const atMs = boottimeMs();
      listener({ kind: 'frame', reader: direction, direction, bytes: Buffer.from(code), atMs, lastByteMs: atMs });
    },
    push: (direction) => turn(direction, TURN_MS),
    press() {
      guests.in = ['pass'];
      line('button', true);
      scheduler.after(60, null, () => line('button', false));
    },
    fire: (active) => line('fire', active),
    burns: () => inputs.get('fire') === true,
    level: (output) => levels.get(output) ?? false,
    turned,
    reachable,
    webCut: false,
    barred: false,
  };
  const watch = watcher(self);
  return self;
}
