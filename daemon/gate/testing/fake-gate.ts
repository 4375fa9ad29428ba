/** The ports in memory, in simulated time, for the loop's own tests. The decider honours its contract: in order, durable before it answers. */
import type { Direction, RowPosition } from '../../../contract/ids.ts';
import type { AlertId } from '../../../contract/messages.ts';
import type { Command } from '../../../contract/requests.ts';
import type { Verdict } from '../../../rules/facts.ts';
import { DEFAULT_LANE_CONFIG, type LaneConfig } from '../../lane/config.ts';
import { WORLD_CONFIG } from '../../lane/testing/lane-harness.ts';
import type {
  Board,
  BoardEvent,
  Clock,
  Decider,
  DeciderStatus,
  Decision,
  InputName,
  Note,
  OutputName,
  Presentation,
  Reader,
  ReaderEvent,
  Uplink,
  UplinkEvent,
} from '../../ports.ts';
import type { Timers } from '../../timers.ts';
import { createGate, type Gate, type GateSync } from '../gate.ts';

export const WORLD_WALL_MS = Date.UTC(2026, 5, 1, 18, 0, 0);

/** A row as the ledger has it: a note, or a decision. */
export type WorldRow = {
  readonly position: RowPosition;
  readonly atMs: number;
  readonly note: Note | { readonly kind: 'grant' | 'decided refusal' | 'decided exit_unmatched'; readonly units: number; readonly direction: Direction };
};

export interface GateWorld {
  readonly gate: Gate;
  /** Time passes, in the order of what is due; promises settle in between. */
  wait(ms: number): Promise<void>;
  nowMs(): number;
  /** A code of the form "good", "good-2" (units), "bad-…" is shown. */
  show(code: string, direction?: Direction): Promise<void>;
  reader(event: ReaderEvent): Promise<void>;
  line(input: InputName, active: boolean): Promise<void>;
  pass(direction?: Direction): Promise<void>;
  uplinkSays(event: UplinkEvent): Promise<void>;
  /** Tickets or peers' rows were fetched and are in the decider. */
  fetched(): void;
  /** A request from the cloud; answers the response. */
  request(
    command: Command,
    args?: object,
  ): Promise<{ readonly status: string; readonly data?: Record<string, unknown>; readonly error?: { readonly code: string; readonly message: string } }>;
  readonly rows: WorldRow[];
  /** Rows in short words. */
  words(): readonly string[];
  /** Every write of a release or stop: [ms, output, level]. */
  readonly writes: (readonly [number, OutputName, boolean])[];
  level(output: OutputName): boolean;
  readonly alerts: ReadonlyMap<AlertId, string>;
  readonly events: { readonly type: string; readonly detail: Record<string, unknown> }[];
  readonly calls: string[];
  /** What the disk does from now on: how long a commit takes, or that it fails. */
  disk: { delayMs: number; fails: boolean; openFails: boolean };
  clockTrusted: boolean;
  status: Partial<DeciderStatus>;
  /** `writeMs`: what passes before a write of a release has taken effect. */
  readonly board: { okay: boolean; failWrites: boolean; writeMs: number };
  latchOnDisk: boolean | null;
}

const GATE = 'arena/north-03';

export async function createGateWorld(
  options: {
    config?: Partial<LaneConfig>;
    readers?: readonly Direction[];
    unwired?: readonly (InputName | OutputName)[];
    startOpen?: boolean;
    before?: (world: GateWorld) => void;
    closed?: boolean;
  } = {},
): Promise<GateWorld> {
  const config = { ...DEFAULT_LANE_CONFIG, ...WORLD_CONFIG, ...options.config };
  let nowMs = 10_000;
  let serial = 0;
  const due: { atMs: number; serial: number; run: () => void }[] = [];
  const timers: Timers = {
    after(delayMs, run) {
      serial += 1;
      const one = { atMs: nowMs + Math.max(0, delayMs), serial, run };
      due.push(one);
      return { cancel: () => void (due.includes(one) && due.splice(due.indexOf(one), 1)) };
    },
  };
  const later = (ms: number) => new Promise<void>((resolve) => void timers.after(ms, resolve));
  const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
  const clock: Clock = {
    boottimeMs: () => nowMs,
    wallMs: () => WORLD_WALL_MS + nowMs,
    bootId: 'boot',
    offset: () => ({ offsetMs: WORLD_WALL_MS, boundMs: 5 }),
    trusted: () => world.clockTrusted,
    observe: () => undefined,
  };

  const levels = new Map<OutputName, boolean>();
  const inputs = new Map<InputName, boolean>();
  let boardSays: (event: BoardEvent) => void = () => undefined;
  const board: Board = {
    async open(listener) {
      boardSays = listener;
      world.calls.push('board open');
    },
    has: (line) => !(options.unwired ?? []).includes(line),
    write(output, active) {
      if (world.board.failWrites) throw new Error('EIO');
      levels.set(output, active);
      if (output.startsWith('release')) nowMs += world.board.writeMs;
      if (output.startsWith('release') || output === 'stop') world.writes.push([nowMs, output, active]);
    },
    read: (input) => inputs.get(input) ?? false,
    async close({ releaseOpen }) {
      world.calls.push(`board close${releaseOpen ? ', open' : ''}`);
    },
    ok: () => world.board.okay && !world.board.failWrites,
  };

  const readerSays = new Map<Direction, (event: ReaderEvent) => void>();
  const readerOk = new Map<Direction, boolean>();
  const readers: Reader[] = (options.readers ?? ['in', 'out']).map((direction) => ({
    name: direction,
    direction,
    open(listener) {
      readerSays.set(direction, listener);
      readerOk.set(direction, true);
      world.calls.push(`reader ${direction} open`);
      listener({ kind: 'up', reader: direction });
    },
    async close() {
      world.calls.push(`reader ${direction} close`);
    },
    ok: () => readerOk.get(direction) ?? false,
  }));

  const decider = createMemoryDecider(
    () => world,
    later,
    () => nowMs,
  );
  let uplinkListener: (event: UplinkEvent) => void | Promise<void> = () => undefined;
  const alerts = new Map<AlertId, string>();
  const uplink: Uplink = {
    open(listener) {
      uplinkListener = listener;
      world.calls.push('uplink open');
    },
    async close(reason) {
      world.calls.push(`uplink close ${reason}`);
    },
    online: () => true,
    kick: () => undefined,
    health: () => undefined,
    stats: () => undefined,
    info: () => undefined,
    event({ type, detail }) {
      world.events.push({ type: String(type), detail: detail as Record<string, unknown> });
    },
    raise: (alert, _, message) => void alerts.set(alert, message),
    clear: (alert) => void alerts.delete(alert),
  };
  let fetched: () => void = () => undefined;
  const sync: GateSync = {
    changed(listener) {
      fetched = listener;
    },
    async want() {
      world.calls.push('sync want');
    },
    async overlay() {
      world.calls.push('sync overlay');
    },
    async gap() {
      world.calls.push('sync gap');
    },
    async refresh() {
      world.calls.push('sync refresh');
      return { fetched: 1 };
    },
  };
  const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
  const gate = createGate({
    config: { gate: GATE, lane: config },
    clock,
    decider,
    board,
    readers,
    uplink,
    sync,
    log,
    timers,
    restart: () => void world.calls.push('restart'),
    startOpen: () => options.startOpen === true,
  });

  async function wait(ms: number): Promise<void> {
    const untilMs = nowMs + ms;
    await settle();
    for (;;) {
      const next = due.filter((one) => one.atMs <= untilMs).sort((a, b) => a.atMs - b.atMs || a.serial - b.serial)[0];
      if (next === undefined) break;
      due.splice(due.indexOf(next), 1);
      nowMs = Math.max(nowMs, next.atMs);
      next.run();
      await settle();
    }
    nowMs = untilMs;
  }

  const world: GateWorld = {
    gate,
    wait,
    nowMs: () => nowMs,
    rows: [],
    writes: [],
    alerts,
    events: [],
    calls: [],
    disk: { delayMs: 0, fails: false, openFails: false },
    clockTrusted: true,
    status: {},
    board: { okay: true, failWrites: false, writeMs: 0 },
    latchOnDisk: null,
    async show(code, direction = 'in') {
      await world.reader({ kind: 'frame', reader: direction, direction, bytes: Buffer.from(code), atMs: nowMs, lastByteMs: nowMs });
    },
    async reader(event) {
      const direction = 'direction' in event ? event.direction : (event.reader as Direction);
      if (event.kind === 'up' || event.kind === 'down') readerOk.set(direction, event.kind === 'up');
      readerSays.get(direction)?.(event);
      await settle();
    },
    async line(input, active) {
      inputs.set(input, active);
      boardSays({ kind: 'input', input, active, atMs: nowMs });
      await settle();
    },
    async pass(direction = 'in') {
      await world.line(`passage_${direction}`, true);
      await wait(400);
      await world.line(`passage_${direction}`, false);
      await wait(50);
    },
    fetched: () => fetched(),
    async uplinkSays(event) {
      await uplinkListener(event);
      await settle();
    },
    async request(command, args = {}) {
      const answer = new Promise<Awaited<ReturnType<GateWorld['request']>>>((resolve) => {
        const request = {
          schema: 1 as const,
          transaction: `tx-${serial}-0000`,
          actor: 'staff-1',
          reason: 'test',
          issued_at: '2026-06-01T18:00:00.000Z',
          expires_at: '2026-06-01T19:00:00.000Z',
          args,
        };
        void uplinkListener({ kind: 'request', command, request: request as never, respond: (response) => resolve(response as never) });
      });
      await settle();
      let done = false;
      void answer.then(() => {
        done = true;
      });
      for (let waited = 0; waited < 60_000 && !done; waited += 100) await wait(done ? 0 : 100);
      return answer;
    },
    words: () =>
      world.rows.map(({ note }) => {
        if (note.kind === 'passage') return `${note.outcome} ${note.unit ?? ''} of ${note.of?.join('/') ?? 'nobody'}`;
        if (note.kind === 'refusal') return `refusal ${note.reason}`;
        if (note.kind === 'override') return `override ${note.action} by ${note.actor}`;
        if (note.kind === 'mode') return `${note.direction} ${note.from} → ${note.to}`;
        if (note.kind === 'exit_unmatched') return `exit_unmatched ${note.reason}`;
        if (note.kind === 'grant' || note.kind === 'decided refusal' || note.kind === 'decided exit_unmatched') return `${note.kind} ${note.direction}`;
        return `${note.kind} ${(note as Extract<Note, { what: string }>).what}`;
      }),
    level: (output) => levels.get(output) ?? false,
  };
  options.before?.(world);
  if (options.closed !== true) {
    const opened = gate.open();
    await wait(1);
    await opened;
    await settle();
  }
  return world;
}

/** Codes: "good" is granted, "good-3" for three, "bad" refused. One call after the other, like a worker. */
function createMemoryDecider(world: () => GateWorld, later: (ms: number) => Promise<void>, now: () => number): Decider {
  let seq = 0;
  let turn: Promise<unknown> = Promise.resolve();
  const abandoned = new Set<Presentation>();
  const granted = new Map<Presentation, Decision>();
  const fault = () =>
    Object.assign(new Error('disk full'), { fault: { operation: 'commit', cause: 'the disk is full', hint: 'make room', healsItself: true } });

  function append(note: WorldRow['note']): RowPosition {
    seq += 1;
    world().rows.push({ position: [7, seq], atMs: now(), note });
    return [7, seq];
  }
  function inOrder<T>(work: () => T): Promise<T> {
    const { delayMs, fails } = world().disk;
    const result = turn.then(async () => {
      if (delayMs > 0) await later(delayMs);
      if (fails || world().disk.fails) throw fault();
      return work();
    });
    // The next one in line does not fail with this one; its caller hears it.
    turn = result.catch(() => undefined);
    return result;
  }
  function giveBack(presentation: Presentation, decision: Decision): void {
    if (decision.verdict.kind !== 'grant') return;
    for (let unit = 1; unit <= decision.verdict.units; unit += 1)
      append({ kind: 'passage', of: decision.row, direction: presentation.direction, unit, outcome: 'returned' });
  }
  const status = (): DeciderStatus => ({
    epoch: 7,
    lastSeq: seq,
    backlog: seq,
    backlogOldestMs: null,
    usageComplete: true,
    manifests: [{ eventId: 'fair', version: 3, overlayVersion: 0, generatedAtMs: WORLD_WALL_MS, expiresAtMs: WORLD_WALL_MS + 86_400_000, tickets: 10 }],
    modes: { in: { mode: 'controlled', untilMs: null }, out: { mode: 'controlled', untilMs: null } },
    fireLatched: world().latchOnDisk ?? false,
    totals: { admissions: 0, refusals: 0, passages: 0 },
    diskFreeBytes: 1e9,
    ...world().status,
  });
  return {
    async open() {
      if (world().disk.openFails) throw fault();
      world().calls.push('decider open');
      return status();
    },
    async close() {
      world().calls.push('decider close');
    },
    decide: (presentation) =>
      inOrder(() => {
        const code = Buffer.from(presentation.bytes).toString();
        const verdict: Verdict = code.startsWith('good')
          ? {
              kind: 'grant',
              type: 'first_entry',
              direction: presentation.direction,
              units: Number(code.split('-')[1] ?? 1),
              flags: [],
              lastEntryMs: null,
              vip: false,
            }
          : code.startsWith('passback')
            ? { kind: 'refusal', reason: 'passback', facts: {}, explanation: 'no entry is known', validAgainAtMs: null }
            : { kind: 'refusal', reason: 'already_redeemed', facts: {}, explanation: 'already used at 18:02, gate north-01', validAgainAtMs: null };
        const units = verdict.kind === 'grant' ? verdict.units : 0;
        const row = append({
          kind: verdict.kind === 'grant' ? 'grant' : presentation.opened === true ? 'decided exit_unmatched' : 'decided refusal',
          units,
          direction: presentation.direction,
        });
        const decision: Decision = {
          verdict,
          row,
          eventId: 'fair',
          ticketId: 't1',
          ticketRef: 'ab'.repeat(16),
          medium: 'opaque',
          stages: { lookup_us: 5, decision_us: 5, commit_us: 90 },
        };
        granted.set(presentation, decision);
        if (abandoned.has(presentation)) giveBack(presentation, decision);
        return decision;
      }),
    abandon(presentation) {
      abandoned.add(presentation);
      const decision = granted.get(presentation);
      if (decision !== undefined) giveBack(presentation, decision);
    },
    record: (note) => inOrder(() => append(note)),
    setFireLatch: (latched) => inOrder(() => void (world().latchOnDisk = latched)),
    rememberTransaction: async () => true,
    nextBatch: async () => null,
    async acknowledge() {
      world().calls.push('decider acknowledge');
      return { backlog: 0, ahead: false };
    },
    async resend(from) {
      world().calls.push(`decider resend ${from?.join('/') ?? 'what the ack leaves out'}`);
      return [[7, 3, 9]];
    },
    applyPeer: async ({ payload }) => ({ applied: 1, gap: Buffer.from(payload).toString() === 'gap' }),
    vector: async () => ({}),
    caughtUp: async () => undefined,
    installManifest: async () => ({ ok: true, version: 1 }),
    applyOverlay: async () => ({ ok: true, version: 1 }),
    want: async () => [],
    status: () => inOrder(status),
    rows: async () => [],
  };
}
