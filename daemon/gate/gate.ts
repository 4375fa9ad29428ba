/**
 * The gate's loop: input → the lane's step → effects, each carried out in one place. It knows ports only, so tests and the
 * simulation drive it with a time of their own.
 *
 * Inputs are queued and taken one at a time; nothing acts inside a reaction. A release follows the decision's promise, which
 * resolves after its commit. Fire and the staff button need neither the decider nor the uplink.
 */
import type { HealthMessage, StatsMessage } from '../../contract/messages.ts';
import type { LaneConfig } from '../lane/config.ts';
import { isDriven } from '../lane/release.ts';
import { initialLane, step } from '../lane/state-machine.ts';
import { BOTH, type LaneEffect, type LaneInput, type LaneState, type TimerName } from '../lane/types.ts';
import type { Log } from '../log/log.ts';
import type { Board, Clock, Decider, Reader, Uplink } from '../ports.ts';
import type { Timers } from '../timers.ts';
import { type Alerts, createAlerts } from './alerts.ts';
import { createAnnouncer } from './announcements.ts';
import { type CommandResult, createCommands, type GateCommand, type UntimedInput } from './commands.ts';
import { createPeripherals } from './devices.ts';
import { createLiveFeed, type GateEvent, type GateSnapshot } from './live-feed.ts';
import { createOutputs } from './outputs.ts';
import { createDecisions } from './pending-decisions.ts';
import { createPendingEntries } from './pending-entries.ts';
import { runSelftest, type SelftestWatcher } from './selftest.ts';
import { type GateParts, type HostHealth, healthOf, readSnapshot } from './snapshot.ts';
import { createStats } from './stats.ts';
import { createStoreSupervisor } from './store-supervisor.ts';
import { createUplinkHandler, type GateSync } from './uplink-events.ts';

/** The loop looks around so often: failed writes, alerts, the watchdog's proof that it turns. ms */
export const TICK_MS = 250;
/** The clock alert waits so long: a gate without a time server trusts its clock after the first round trip with the cloud, a moment after every start. ms */
export const CLOCK_ALERT_AFTER_MS = 15_000;
/** `close` waits so long for who is under way, then returns what is open. ms */
export const CLOSE_WAIT_MS = 8_000;
/** `close` waits so long for the last rows to be written, ms. */
export const FLUSH_WAIT_MS = 2_000;
const CONTROLLED = { mode: 'controlled', untilWallMs: null } as const;

export type { GateSync };

export interface GateOptions {
  readonly config: {
    /** `<site>/<gate>`. */ readonly gate: string;
    readonly lane: LaneConfig /** Stands open while no process drives it, so it is driven from the first moment. */;
    readonly exitStandsOpen?: boolean;
  };
  readonly clock: Clock;
  readonly decider: Decider;
  readonly board: Board;
  readonly readers: readonly Reader[];
  readonly uplink: Uplink;
  readonly sync: GateSync;
  readonly log: Log;
  readonly timers: Timers;
  /** The fire latch as the disk says, before the decider is open: it holds from the first moment. */
  readonly startOpen?: () => boolean;
  /** The lane is idle and an operator asked for it: end the process so that it is started again. */
  readonly restart: () => void;
}

export interface Gate {
  /** Board, decider, readers, uplink, in this order. A decider that fails is tried again; only a board that fails throws. */
  open(): Promise<void>;
  /** Nobody new, who is under way is waited for, the rest returned; then everything is given back. Bounded. */
  close(reason: string): Promise<void>;
  command(command: GateCommand): Promise<CommandResult>;
  /** The lane now, plain data. */
  state(): GateSnapshot;
  /** Snapshots and decisions as they come; returns the end of it. Throws where MAX_WATCHERS watch already. */
  subscribe(listener: (event: GateEvent) => void): () => void;
  /** Which reader each code comes from, never the code. Returns the end of it. */
  hear(listener: (reader: string) => void): () => void;
  /** When the loop last turned, boottime ms: feed the watchdog only where this is recent. */
  lastTurnMs(): number;
  telemetry(): {
    /** Of now. The longest lag of the loop since the last call is taken. */
    health(host: HostHealth): Omit<HealthMessage, 'schema'>;
    /** Of the window since the last call. */
    stats(): Omit<StatsMessage, 'schema'>;
  };
}

/** Nothing happens before `open`. */
export function createGate(options: GateOptions): Gate {
  const { clock, decider, board, uplink, readers, log, timers, sync } = options;
  const { gate } = options.config;
  let config = options.config.lane;

  let lane: LaneState = initialLane();
  let closing = false;
  let totalsBefore = { admissions: 0, refusals: 0, passages: 0 };
  let tick: { cancel(): void } | null = null;
  let lastTurnMs = clock.boottimeMs();
  let lagMs = 0;
  let idle: (() => void) | null = null;
  let restarting = false;
  let giveLinesBack: (() => void) | null = null;
  const inputs: LaneInput[] = [];
  let stepping = false;
  const running = new Map<TimerName, { cancel(): void }>();

  const stats = createStats(clock.boottimeMs());
  const announcer = createAnnouncer({ clock, uplink, watch: () => watch, stats });
  const watch = createLiveFeed({ snapshot, timers, failed: (error) => log.warn('a watcher failed and is taken off', { cause: said(error) }) });
  const alerts: Alerts = createAlerts({
    uplink,
    clock,
    changed({ id, severity, message }, active) {
      announcer.event('alert', active ? severity : 'info', { alert: id, active: active ? 1 : 0, message });
      log.info(active ? 'alert raised' : 'alert cleared', { alert: id, severity, detail: message });
      watch.changed();
    },
  });
  const outputs = createOutputs({
    board,
    clock,
    timers,
    lamps: config.lamps,
    changed: () => watch.changed(),
    failed: (output, error) => peripherals.boardFailed({ operation: `write ${output}`, cause: said(error), hint: 'see stile-gate doctor', healsItself: true }),
  });
  const pendingEntries = createPendingEntries({
    record: (note) => decider.record(note),
    timers,
    failed: (error) => storeSupervisor.failed(error),
    written(note, row) {
      storeSupervisor.works();
      announcer.written(note, row);
    },
  });
  const storeSupervisor = createStoreSupervisor({
    decider,
    clock,
    timers,
    log,
    alerts,
    dispatch,
    lane: () => lane,
    note: (note) => void pendingEntries.add(note),
    changed: () => watch.changed(),
    fetchProblem: () => sync.problem?.() ?? null,
    again: () => uplink.kick(true),
    heard: ({ conflicts }) => announcer.conflicts(conflicts?.newest ?? []),
    opened() {
      totalsBefore = storeSupervisor.status()?.totals ?? totalsBefore;
      pendingEntries.start();
    },
  });
  const decisions = createDecisions({
    decider,
    clock,
    dispatch,
    online: () => uplink.online(),
    ready: () => storeSupervisor.isOpen(),
    decided: announcer.decided,
    exits: pendingEntries,
    failed: (error) => storeSupervisor.failed(error),
    answered: () => storeSupervisor.works(),
  });
  const peripherals = createPeripherals({
    board,
    readers,
    clock,
    alerts,
    log,
    lane: () => lane,
    dispatch,
    coming: decisions.coming,
    present: decisions.present,
    note: (note) => void pendingEntries.add(note),
  });
  const command = createCommands({
    lane: () => lane,
    dispatch,
    pendingEntries,
    decider,
    uplink,
    clock,
    timers,
    refresh: () => sync.refresh(),
    diagnostics: async () => ({ ...snapshot(), decider: storeSupervisor.isOpen() ? await decider.status() : null }),
    selftest,
  });

  const inbox = createUplinkHandler({ decider, uplink, sync, alerts, log, command, backlog: storeSupervisor.backlog, changed: () => watch.changed() });

  // ---------------------------------------------------------------- the loop

  /** Queues an input; takes all that wait, one step each. */
  function dispatch(input: UntimedInput, atMs: number = clock.boottimeMs()): void {
    inputs.push({ ...input, atMs, wallMs: clock.wallMs() } as LaneInput);
    if (stepping) return;
    stepping = true;
    try {
      for (let next = inputs.shift(); next !== undefined; next = inputs.shift()) {
        const result = step(lane, next, config);
        lane = result.state;
        for (const effect of result.effects) carryOut(effect, next.atMs);
      }
    } finally {
      stepping = false;
    }
    lastTurnMs = clock.boottimeMs();
    watch.changed();
  }

  function carryOut(effect: LaneEffect, stepMs: number): void {
    switch (effect.kind) {
      case 'write':
        return outputs.write(effect.output, effect.active);
      case 'signal':
        return outputs.show(effect.direction, effect.signal);
      case 'set_timer':
        return setTimer(effect.timer, effect.dueMs, stepMs);
      case 'cancel_timer':
        return cancelTimer(effect.timer);
      case 'decide':
        return decisions.decide(effect.presentation, effect.direction, effect.mode, effect.exit);
      case 'expect':
        return pendingEntries.expect(effect.exit);
      case 'abandon':
        return abandonDecision(effect.presentation, effect.why);
      case 'drop':
        if (effect.shown !== 'gate_locked') stats.notTaken(effect.shown);
        return decisions.drop(effect.presentation);
      case 'record':
        return void pendingEntries.add(effect.note, effect.override);
      case 'fire_latch':
        return storeSupervisor.persistFireLatch(effect.latched);
      case 'raise':
        return alerts.raise(effect.alert, effect.severity, effect.message);
      case 'clear':
        return alerts.clear(effect.alert);
      case 'refused':
        return announcer.refusedLocally(effect.direction, effect.reason);
      case 'idle':
        return idle?.();
    }
  }

  function setTimer(timer: TimerName, dueMs: number, stepMs: number): void {
    running.get(timer)?.cancel();
    // A pulse is as long as the turnstile needs it: counted from its write, which on a busy processor comes well after the step.
    const fromMs = timer.startsWith('pulse:') ? stepMs : clock.boottimeMs();
    running.set(
      timer,
      timers.after(dueMs - fromMs, () => {
        running.delete(timer);
        dispatch({ kind: 'timer', timer });
      }),
    );
  }

  function cancelTimer(timer: TimerName): void {
    running.get(timer)?.cancel();
    running.delete(timer);
  }

  function abandonDecision(presentation: number, why: 'late' | 'overruled'): void {
    decisions.abandon(presentation);
    if (why === 'late') storeSupervisor.bad('the store has not answered in time');
  }

  // ---------------------------------------------------------------- looking around

  function around(): void {
    const nowMs = clock.boottimeMs();
    lagMs = Math.max(lagMs, nowMs - lastTickMs - TICK_MS);
    lastTickMs = nowMs;
    lastTurnMs = nowMs;
    outputs.repair();
    peripherals.around();
    storeSupervisor.around();
    lookAtClock(nowMs);
    tick = timers.after(TICK_MS, around);
  }
  let lastTickMs = clock.boottimeMs();

  function lookAtClock(nowMs: number): void {
    if (clock.trusted()) {
      untrustedSinceMs = null;
      return alerts.clear('clock');
    }
    untrustedSinceMs ??= nowMs;
    if (nowMs - untrustedSinceMs >= CLOCK_ALERT_AFTER_MS)
      alerts.raise('clock', 'warning', 'the wall clock is not trusted: validity is judged by the policy for it');
  }
  let untrustedSinceMs: number | null = null;

  // ---------------------------------------------------------------- what people see

  async function selftest(watcher: SelftestWatcher | null): Promise<Record<string, unknown>> {
    if (giveLinesBack !== null) throw new Error('a self-test is running already');
    // Who turns the turnstile now is nobody's passage.
    giveLinesBack = peripherals.borrow(() => undefined);
    const stopWas = outputs.level('stop');
    outputs.write('stop', false);
    try {
      const steps = await runSelftest({
        board,
        config,
        timers,
        write: outputs.write,
        resting: (direction) => isDriven(lane[direction].release),
        readers,
        ended: () => (lane.fire.latched ? 'by the fire input' : closing ? 'because the gate stops' : null),
        listen: peripherals.borrow,
        hear: (listener) => peripherals.hear(listener, true),
        watcher,
      });
      return { steps };
    } finally {
      giveLinesBack();
      giveLinesBack = null;
      if (stopWas && lane.stopHeld && !lane.fire.latched) outputs.write('stop', true);
      for (const direction of BOTH) outputs.show(direction, lane[direction].signal);
    }
  }

  /** Totals of the ledger as it was opened, and what has been since. */
  function totals() {
    const since = stats.totals();
    return {
      admissions: totalsBefore.admissions + since.admissions,
      refusals: totalsBefore.refusals + since.refusals,
      passages: totalsBefore.passages + since.passages,
    };
  }

  function reported(): GateParts {
    return {
      gate,
      clock,
      uplink,
      readers,
      outputs,
      lane,
      boardOk: peripherals.boardOk(),
      decider: storeSupervisor.status(),
      pendingEntryCount: pendingEntries.pending(),
      totals: totals(),
      notTaken: stats.totals().notTaken,
      alerts: alerts.active(),
      decisions: watch.decisions(),
    };
  }

  function snapshot() {
    return readSnapshot(reported());
  }

  function health(host: HostHealth) {
    const lag = lagMs;
    lagMs = 0;
    return healthOf(reported(), host, lag);
  }

  // ---------------------------------------------------------------- beginning and end

  /** The way out stood open until now: it is as the lane says, and whoever is in it already went out freely. */
  function takeOverExit(): void {
    lane = { ...lane, out: { ...lane.out, freeTailMs: clock.boottimeMs() + config.passageTimeoutMs } };
    outputs.write('release_out', isDriven(lane.out.release));
  }

  async function drain(): Promise<void> {
    let late: { cancel(): void } | null = null;
    const settled = new Promise<void>((resolve) => {
      idle = resolve;
      late = timers.after(CLOSE_WAIT_MS, resolve);
    });
    dispatch({ kind: 'drain', cancel: false });
    await settled;
    (late as { cancel(): void } | null)?.cancel();
  }

  return {
    async open() {
      await peripherals.openBoard();
      config = { ...config, unsensedDirections: peripherals.unsensedDirections(config) };
      // Out is open before anything else is known.
      dispatch({ kind: 'condition', condition: 'booted', ok: false });
      if (options.config.exitStandsOpen === true) takeOverExit();
      if (options.startOpen?.() === true) dispatch({ kind: 'restore', modes: { in: CONTROLLED, out: CONTROLLED }, fireLatched: true });
      peripherals.readLevels();
      for (const direction of BOTH) outputs.show(direction, lane[direction].signal);
      lastTickMs = clock.boottimeMs();
      tick = timers.after(TICK_MS, around);
      idle = () => {
        if (restarting || closing) return;
        restarting = true;
        options.restart();
      };
      await storeSupervisor.open();
      sync.changed?.(storeSupervisor.look);
      peripherals.openReaders();
      uplink.open(inbox);
    },
    async close(reason) {
      if (closing) return;
      closing = true;
      storeSupervisor.close();
      await Promise.all(readers.map((reader) => reader.close()));
      await drain();
      dispatch({ kind: 'stop' });
      outputs.close();
      await board.close({ releaseOpen: lane.fire.latched || lane.fire.asserted });
      if (storeSupervisor.isOpen() && !(await pendingEntries.flush(FLUSH_WAIT_MS)))
        log.error('the last notes could not be written', { count: pendingEntries.pending() });
      pendingEntries.close();
      await uplink.close(reason);
      tick?.cancel();
      for (const timer of running.values()) timer.cancel();
      watch.close();
      await decider.close();
    },
    command,
    state: snapshot,
    subscribe: (listener) => watch.subscribe(listener),
    hear: (listener) => peripherals.hear(listener, false),
    lastTurnMs: () => lastTurnMs,
    telemetry: () => ({ health, stats: () => stats.take(clock.boottimeMs()) }),
  };
}

function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
