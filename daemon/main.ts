/**
 * Composes one gate: opens its parts in order and releases them in reverse order.
 *
 * log → clock → control socket (so that two gates never drive one lane) → board, decider, readers (gate.open: from here on guests
 * are decided) → uplink and its library → telemetry. The watchdog is fed only when the loop has turned.
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { stileVersion } from '../runtime/build-info.ts';
import { createSdNotify, type SdNotify } from '../runtime/sd-notify.ts';
import { withTimeout } from '../runtime/timeout.ts';
import { createBoard } from './board/create-board.ts';
import { type LaneBoard, writeReleaseFile } from './board/failsafe-file.ts';
import { createGateClock, type GateClock } from './clock/clock.ts';
import { createClockWatch } from './clock/jump-detector.ts';
import type { Config } from './config/load.ts';
import { createHandlers } from './control/handlers.ts';
import { createControl } from './control/server.ts';
import type { EarlyWorker } from './decider/early-start.ts';
import { createGate, type Gate } from './gate/gate.ts';
import { composeLink } from './link/compose.ts';
import { createLog, type ProcessLog } from './log/log.ts';
import type { Board, Decider, Uplink } from './ports.ts';
import { createSerialReader } from './reader/serial-reader.ts';
import { createHealthReports } from './telemetry/health-schedule.ts';
import { createTelemetry, type Telemetry } from './telemetry/host-metrics.ts';
import { gateInfo } from './telemetry/info.ts';
import { systemTimers } from './timers.ts';

/** Beside the control socket: /run/stile/release.conf, where the unit's stop step looks. */
const RELEASE_FILE_NAME = 'release.conf';
/** daemon/store/durable-state.ts keeps it; importing that here would load the database's library into the loop's thread. */
const FIRE_LATCH_FILE = 'fire-latched';
/** Period of `health` and `stats`, in ms (CONTRACT.md). */
const HEALTH_MS = 30_000;
const STATS_MS = 60_000;
/** Period of the clock check and the watchdog, in ms: below half of the unit's WatchdogSec (3 s). */
const CHECK_INTERVAL_MS = 1_000;
/** Longest time since the loop's last turn, in ms, with which the watchdog is still fed. */
const TURNED_WITHIN_MS = 1_500;
/** Longest stop, in ms; then the process ends with parts unreleased. The unit waits 10 s. */
const STOP_BOUND_MS = 9_500;
/** Longest wait for the board's defined state after an unexpected error, in ms; then the process ends. */
const PANIC_BOUND_MS = 500;

export interface RunningGate {
  readonly gate: Gate;
  readonly log: ProcessLog;
  /** Admits nobody new, waits for a passage in progress, and releases all parts in reverse, within STOP_BOUND_MS. Returns whether all were released. */
  stop(reason: string): Promise<boolean>;
  /** Sets the defined state at once, after an unexpected error. The process must end then. */
  panic(error: unknown): Promise<void>;
  /** Resolves when an operator asked for a restart and the lane is idle. */
  readonly restartAsked: Promise<void>;
}

type Release = { readonly what: string; readonly run: () => Promise<void> | void };

/** Parts that cli/run.ts has started before it loaded this module. */
export interface Started {
  readonly clock?: GateClock;
  readonly earlyWorker?: EarlyWorker;
}

/** Opens all parts. Rejects when the gate cannot run (another gate runs here, or the board fails), after releasing the opened ones. */
export async function runGate(config: Config, started: Started = {}): Promise<RunningGate> {
  const startedAtMs = Date.now();
  const version = stileVersion();
  const log = createLog(config.log.level, { gate: config.gate });
  const releases: Release[] = [];
  const stop = createStop(releases, log);
  try {
    const clock = started.clock ?? createGateClock(config.certificate);
    log.info('the gate starts', { version: version.version, commit: version.commit, boot_id: clock.bootId, config_sha256: config.sha256 });
    const restart = Promise.withResolvers<void>();
    const ready = Promise.withResolvers<number>();

    const telemetry = createTelemetry();
    releases.push({ what: 'telemetry', run: () => telemetry.close() });
    const board = withReleaseFile(config, clock, log);
    const link = composeLink(config, clock, () => gateInfo(config, clock, version, telemetry.facts(), board.describe()), log, started.earlyWorker);
    const readers = config.readers.map((reader) => createSerialReader(reader, clock));
    const { uplink, sync } = link;
    const decider = openEarly(link.decider);
    releases.push({ what: 'store', run: () => decider.close() });
    const gate = createGate({
      config: {
        gate: config.gate,
        lane: { ...config.turnstile, sameCodeIntervalMs: sameCodeIntervals(config.readers) },
        exitStandsOpen: config.board.outputs.release_out?.safe === config.board.outputs.release_out?.active,
      },
      clock,
      decider,
      board,
      readers,
      uplink,
      sync,
      log,
      timers: systemTimers(),
      startOpen: () => latchedOnDisk(config),
      restart: () => restart.resolve(),
    });

    // Opens first: only one gate can hold it, so a second one ends here and never drives the lane.
    const calls = createHandlers({
      config,
      version: version.version,
      clock,
      gate,
      board,
      decider,
      openPort: (path) => createSerialReader({ baud: 115_200, frame: 'crlf', ...config.readers[0], name: path, direction: 'in', path }, clock),
      fetchProblem: () => sync.problem?.() ?? null,
      startedAtMs,
      ready: ready.promise,
    });
    const control = createControl({ ...config.control, handlers: calls.handlers, warn: (message, fields) => log.warn(message, fields) });
    await control.open();
    releases.push({
      what: 'control socket',
      run: async () => {
        calls.close();
        await control.close();
      },
    });

    releases.push({ what: 'gate', run: () => gate.close('stopped') });
    releases.push({ what: 'fetching', run: () => link.close() });
    await gate.open();
    const startMs = Math.round(performance.now());
    board.follow(gate);
    clock.raiseFloor(gate.state().decider?.lastRowMs ?? 0);
    ready.resolve(startMs);

    const notify = createSdNotify({ failed: (message) => log.warn(message) });
    notify.ready(`gate ${config.gate} decides, ${gate.state().decider?.manifests.length ?? 0} events`);
    log.info('the gate decides', { start_ms: startMs, clock_trusted: clock.trusted() });
    const end = startReports({ gate, uplink, decider, clock, log, telemetry, notify });
    releases.push({
      what: 'reports',
      run: () => {
        end();
        notify.stopping();
        // systemd goes on watching while a guest under way is waited for: fed as long as this loop turns.
        setInterval(() => notify.watchdog(), CHECK_INTERVAL_MS).unref();
      },
    });
    return { gate, log, stop, restartAsked: restart.promise, panic: (error) => panic(error, gate, board, log) };
  } catch (error) {
    log.error('starting failed', { error });
    await stop('start failed');
    throw error;
  }
}

function latchedOnDisk(config: Config): boolean {
  return existsSync(join(config.store.path, FIRE_LATCH_FILE));
}

/** Opens the store in its worker meanwhile; the gate's first `open` returns that result. */
/** Returns the configured intervals at which readers repeat a code, by reader. */
const sameCodeIntervals = (readers: Config['readers']): Readonly<Record<string, number>> =>
  Object.fromEntries(readers.flatMap(({ name, sameCodeIntervalMs }) => (sameCodeIntervalMs === null ? [] : [[name, sameCodeIntervalMs]])));

function openEarly(decider: Decider): Decider {
  let early: ReturnType<Decider['open']> | null = decider.open();
  // The caller of `open` gets the error.
  early.catch(() => undefined);
  return {
    ...decider,
    open() {
      const first = early ?? decider.open();
      early = null;
      return first;
    },
  };
}

/** Returns the board, and beside it the file by which the unit's stop step returns its outputs when this process can't. */
function withReleaseFile(config: Config, clock: GateClock, log: ProcessLog): LaneBoard & { follow(gate: Gate): void } {
  const path = join(dirname(config.control.socket), RELEASE_FILE_NAME);
  // Before the decider is open the latch is read from the disk itself: it must hold from the first moment.
  const board = createBoard(config.board, clock, {
    startOpen: () => latchedOnDisk(config),
    draw: (line) => void process.stderr.write(`${line}\n`),
  });
  let written: boolean | null = null;
  const write = (releaseOpen: boolean) => {
    if (written === releaseOpen) return;
    try {
      writeReleaseFile(path, board.releaseTargets(releaseOpen));
      written = releaseOpen;
    } catch (error) {
      log.error("writing the stop step's file failed: it does not know the lane's outputs", { path, cause: (error as Error).message });
    }
  };
  return {
    ...board,
    async open(listener, failed) {
      await board.open(listener, failed);
      write(existsSync(join(config.store.path, FIRE_LATCH_FILE)));
    },
    follow: (gate) => void gate.subscribe((event) => event.kind === 'snapshot' && write(event.snapshot.fire.latched || event.snapshot.fire.asserted)),
  };
}

/** Starts health, stats, clock check and watchdog. Returns a function that ends them. */
function startReports(parts: {
  readonly gate: Gate;
  readonly uplink: Uplink;
  readonly decider: Decider;
  readonly clock: GateClock;
  readonly log: ProcessLog;
  readonly telemetry: Telemetry;
  readonly notify: SdNotify;
}): () => void {
  const { gate, uplink, decider, clock, log, telemetry, notify } = parts;
  const { health, stats } = gate.telemetry();
  // What the start itself took is not the loop's lag.
  telemetry.loopLagMs();
  const publish = () => {
    const now = health(telemetry.readings());
    // The loop looks at its own lateness four times a second; what stood in between is seen by the runtime alone.
    uplink.health({ ...now, loop_lag_ms: Math.max(Number(now.loop_lag_ms), Math.round(telemetry.loopLagMs() ?? 0)) });
  };
  const reports = createHealthReports({
    subscribe: (listener) => gate.subscribe(listener),
    clockTrusted: () => clock.trusted(),
    publish,
    nowMs: () => clock.boottimeMs(),
    after: systemTimers().after,
  });
  const watchClock = createClockWatch({ clock, decider, log });
  const look = () => {
    if (clock.boottimeMs() - gate.lastTurnMs() <= TURNED_WITHIN_MS) notify.watchdog();
    watchClock();
    gate.underVoltage(telemetry.readings().under_voltage);
    reports.look();
  };
  const timers = [
    setInterval(look, CHECK_INTERVAL_MS),
    setInterval(() => {
      reports.published();
      publish();
    }, HEALTH_MS),
    setInterval(() => uplink.stats(stats()), STATS_MS),
  ];
  return () => {
    reports.close();
    timers.forEach(clearInterval);
  };
}

/** Runs the releases once, in reverse; a further call waits for the same end. */
function createStop(releases: readonly Release[], log: ProcessLog): (reason: string) => Promise<boolean> {
  let ending: Promise<boolean> | null = null;
  const run = async (reason: string): Promise<boolean> => {
    log.info('the gate stops', { reason });
    const releaseAll = async () => {
      for (const { what, run: release } of releases.toReversed()) {
        try {
          await release();
        } catch (error) {
          log.error('releasing a part failed', { what, error });
        }
      }
      return true;
    };
    const whole = await withTimeout(releaseAll(), STOP_BOUND_MS, false);
    log.info(whole ? 'the gate has stopped' : 'the gate stops with unreleased parts', { reason });
    log.flush();
    return whole;
  };
  return (reason) => (ending ??= run(reason));
}

/** Sets the lane's defined state alone; leaves store and cloud as they are. */
async function panic(error: unknown, gate: Gate, board: Board, log: ProcessLog): Promise<void> {
  log.error('unexpected error: the gate sets the lane to its defined state and the process ends', { error });
  const { latched, asserted } = gate.state().fire;
  await withTimeout(
    // The process ends with the error that began this; the stop step sets the outputs again.
    board.close({ releaseOpen: latched || asserted }).catch(() => undefined),
    PANIC_BOUND_MS,
    undefined,
  );
  log.flush();
}
