/**
 * Builds the gate from its parts and gives it its public face. It knows ports only, so tests and the simulation drive it with a
 * time of their own.
 *
 * Inwards: input → loop → the lane's step → effects (effects.ts). Outwards: what a part finds out → `report` → outcomes.ts. A
 * release follows the decision's promise, which resolves after its commit. Fire and the staff button need neither the decider
 * nor the uplink.
 */
import type { HealthMessage, StatsMessage } from '../../contract/messages.ts';
import type { LaneConfig } from '../lane/config.ts';
import { isDriven } from '../lane/release.ts';
import { BOTH } from '../lane/types.ts';
import type { Log } from '../log/log.ts';
import type { Board, Clock, Decider, GateSync, Reader, ReaderEvent, Uplink } from '../ports.ts';
import type { Timers } from '../timers.ts';
import { createAlerts, createClockAlert, createPowerAlert, createUsageAlert } from './alerts.ts';
import { createAnnouncer } from './announcements.ts';
import { type CommandResult, createCommands, type GateCommand } from './commands.ts';
import { createDevices } from './devices.ts';
import { createEffects } from './effects.ts';
import { createLiveFeed, type GateEvent, type GateSnapshot } from './live-feed.ts';
import { createLaneTimers, createLoop } from './loop.ts';
import type { Report } from './outcome.ts';
import { createOutcomeHandler } from './outcomes.ts';
import { createOutputs } from './outputs.ts';
import { createDecisions } from './pending-decisions.ts';
import { createPendingEntries } from './pending-entries.ts';
import { createSelftest } from './selftest.ts';
import { type GateParts, type HostHealth, healthOf, snapshotOf } from './snapshot.ts';
import { createStats } from './stats.ts';
import { createStoreSupervisor } from './store-supervisor.ts';
import { createUplinkHandler } from './uplink-events.ts';

/** `close` waits this long for a passage in progress, ms; then it records open grants as returned. */
export const CLOSE_WAIT_MS = 8_000;
/** `close` waits this long for the last entries to be committed, ms; then it logs how many are lost. */
export const FLUSH_WAIT_MS = 2_000;
const CONTROLLED = { mode: 'controlled', untilWallMs: null } as const;

export type { GateSync };

export interface GateOptions {
  readonly config: {
    /** `<site>/<gate>`. */
    readonly gate: string;
    readonly lane: LaneConfig;
    /** The exit stands open while no process drives it, so it is driven from the first moment. */
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
  /** Returns the fire latch of the disk before the decider is open: it holds from the first moment. */
  readonly startOpen?: () => boolean;
  /** Ends the process so that it is started again: an operator ordered it, and the lane is idle. */
  readonly restart: () => void;
}

export interface Gate {
  /** Opens board, decider, readers and uplink, in this order. Retries a decider that fails; throws only when the board fails. */
  open(): Promise<void>;
  /** Admits no new guest, waits for a passage in progress, returns open grants, then closes every port. Bounded. */
  close(reason: string): Promise<void>;
  command(command: GateCommand): Promise<CommandResult>;
  /** Returns the snapshot of now, plain data. */
  state(): GateSnapshot;
  /** Publishes snapshots and decisions to `listener`. Throws when MAX_SUBSCRIBERS have subscribed. Returns the function that unsubscribes. */
  subscribe(listener: (event: GateEvent) => void): () => void;
  /** Passes the reader of each code to `listener`, never the code. Returns the function that ends it. */
  tapReaders(listener: (reader: string) => void): () => void;
  /** Passes every event of the readers to `listener`, raw bytes included: for a technician at the lane. Returns the function that ends it. */
  tapBytes(listener: (event: ReaderEvent) => void): () => void;
  /** Returns when the loop last turned, boottime ms: feed the watchdog only while this is recent. */
  lastTurnMs(): number;
  /** Takes a reading of the supply's voltage: 1 is too low. */
  underVoltage(reading: 0 | 1 | undefined): void;
  telemetry(): {
    /** Returns the health of now, with the loop's longest lag since the last call. */
    health(host: HostHealth): Omit<HealthMessage, 'schema'>;
    /** Returns the statistics of the window since the last call. */
    stats(): Omit<StatsMessage, 'schema'>;
  };
}

/** Builds the gate. It does nothing before `open`. */
export function createGate(options: GateOptions): Gate {
  const { clock, decider, board, uplink, readers, log, timers, sync } = options;
  const { gate } = options.config;
  let closing = false;
  let restarting = false;
  let onIdle: (() => void) | null = null;

  // The one reference to what is built below: no part reports before `open`.
  const report: Report = (outcome) => handle(outcome);
  const lane = () => loop.lane();

  const stats = createStats(clock.boottimeMs());
  const alerts = createAlerts({ uplink, clock, report });
  const clockAlert = createClockAlert({ clock, report });
  const usageAlert = createUsageAlert({ report });
  const powerAlert = createPowerAlert({ report });
  const announcer = createAnnouncer({ clock, uplink, stats, report });
  const liveFeed = createLiveFeed({ snapshot, timers, report });
  const outputs = createOutputs({ board, clock, timers, lamps: options.config.lane.lamps, report });
  const pendingEntries = createPendingEntries({ decider, timers, report });
  const storeSupervisor = createStoreSupervisor({ decider, clock, timers, log, sync, lane, report });
  const decisions = createDecisions({ decider, clock, uplink, storeIsOpen: storeSupervisor.isOpen, report });
  const devices = createDevices({ board, readers, clock, log, lane, report });
  const laneTimers = createLaneTimers({ clock, timers, report });
  const carryOut = createEffects({ announcer, decisions, laneTimers, outputs, pendingEntries, stats, storeSupervisor, report });
  const loop = createLoop({ clock, timers, config: options.config.lane, carryOut, report });
  const selftest = createSelftest({ board, config: loop.config, devices, lane, outputs, readers, timers, isClosing: () => closing, report });
  const command = createCommands({ lane, report, pendingEntries, decider, uplink, clock, timers, sync, diagnostics, selftest });
  const onUplink = createUplinkHandler({ decider, uplink, sync, log, command, report });
  const handle = createOutcomeHandler({
    alerts,
    announcer,
    clockAlert,
    usageAlert,
    decisions,
    devices,
    liveFeed,
    log,
    loop,
    outputs,
    pendingEntries,
    stats,
    storeSupervisor,
    uplink,
    onIdle: () => onIdle?.(),
  });

  function parts(): GateParts {
    return {
      gate,
      clock,
      uplink,
      readers,
      outputs,
      lane: lane(),
      boardOk: devices.boardOk(),
      readerWatch: devices.readers,
      decider: storeSupervisor.status(),
      pendingEntryCount: pendingEntries.pending(),
      totals: stats.ledgerTotals(),
      notTaken: stats.totals().notTaken,
      alerts: alerts.active(),
      decisions: liveFeed.decisions(),
    };
  }

  function snapshot(): GateSnapshot {
    return snapshotOf(parts());
  }

  async function diagnostics(): Promise<Record<string, unknown>> {
    return { ...snapshot(), decider: storeSupervisor.isOpen() ? await decider.status() : null };
  }

  /** Takes over an exit that stood open until now: drives it as the lane says, and counts a passage in progress as free. */
  function takeOverExit(): void {
    loop.countFreeExitsUntil(clock.boottimeMs() + loop.config().passageTimeoutMs);
    outputs.write('release_out', isDriven(lane().out.release));
  }

  async function drain(): Promise<void> {
    let late: { cancel(): void } | null = null;
    const settled = new Promise<void>((resolve) => {
      onIdle = resolve;
      late = timers.after(CLOSE_WAIT_MS, resolve);
    });
    loop.dispatch({ kind: 'drain', cancel: false });
    await settled;
    (late as { cancel(): void } | null)?.cancel();
  }

  return {
    async open() {
      await devices.openBoard();
      loop.configure({ ...loop.config(), unsensedDirections: devices.unsensedDirections(loop.config()) });
      // Out opens before anything else is known.
      loop.dispatch({ kind: 'condition', condition: 'booted', ok: false });
      if (options.config.exitStandsOpen === true) takeOverExit();
      if (options.startOpen?.() === true) loop.dispatch({ kind: 'restore', modes: { in: CONTROLLED, out: CONTROLLED }, fireLatched: true });
      devices.readLevels();
      for (const direction of BOTH) outputs.show(direction, lane()[direction].signal);
      loop.startTicking();
      onIdle = () => {
        if (restarting || closing) return;
        restarting = true;
        options.restart();
      };
      await storeSupervisor.open();
      sync.changed?.(storeSupervisor.refreshSoon);
      devices.openReaders();
      uplink.open(onUplink);
    },
    async close(reason) {
      if (closing) return;
      closing = true;
      storeSupervisor.close();
      await Promise.all(readers.map((reader) => reader.close()));
      await drain();
      loop.dispatch({ kind: 'stop' });
      outputs.close();
      await board.close({ releaseOpen: lane().fire.latched || lane().fire.asserted });
      if (storeSupervisor.isOpen() && !(await pendingEntries.flush(FLUSH_WAIT_MS)))
        log.error('write of the last entries failed', { count: pendingEntries.pending() });
      pendingEntries.close();
      await uplink.close(reason);
      loop.stopTicking();
      laneTimers.cancelAll();
      liveFeed.close();
      await decider.close();
    },
    command,
    state: snapshot,
    subscribe: (listener) => liveFeed.subscribe(listener),
    tapReaders: (listener) => devices.tapReaders(listener, false),
    tapBytes: (listener) => devices.tapBytes(listener),
    lastTurnMs: loop.lastTurnMs,
    underVoltage: (reading) => powerAlert.read(clock.boottimeMs(), reading),
    telemetry: () => ({ health: (host) => healthOf(parts(), host, loop.takeLagMs()), stats: () => stats.takeWindow(clock.boottimeMs()) }),
  };
}
