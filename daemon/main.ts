/**
 * Composition: opens the parts of one gate in order and gives them back in reverse. What a part does is its own business;
 * what is said here is who gets whom, and in which order.
 *
 * log → clock → control socket (so that two gates never drive one lane) → board, decider, readers (gate.open: from here on guests
 * are decided) → uplink and its library → telemetry. The watchdog is fed only where the loop has turned.
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
/** `health` and `stats` go out so often, ms (CONTRACT.md). */
const HEALTH_MS = 30_000;
const STATS_MS = 60_000;
/** The clock is looked at for jumps, and the watchdog fed, so often, ms. Below half of the unit's WatchdogSec (3 s). */
const LOOK_MS = 1_000;
/** The loop must have turned within this for the watchdog to be fed, ms. */
const TURNED_WITHIN_MS = 1_500;
/** Every part together has so long to be given back; what then remains ends with the process. The unit waits 10 s. */
const STOP_BOUND_MS = 9_500;
/** After an error that nobody expected, the board has so long to go into its defined state, ms. */
const PANIC_BOUND_MS = 500;

export interface RunningGate {
  readonly gate: Gate;
  readonly log: ProcessLog;
  /** Nobody new; who is under way is waited for; everything is given back, in reverse. At most STOP_BOUND_MS. Answers whether all was given back. */
  stop(reason: string): Promise<boolean>;
  /** The defined state at once, without waiting for anybody: for errors that nobody expected. The process must end then. */
  panic(error: unknown): Promise<void>;
  /** Resolves when an operator asked for a restart and the lane is idle. */
  readonly restartAsked: Promise<void>;
}

type Release = { readonly what: string; readonly run: () => Promise<void> | void };

/** What a start has begun already, before this was loaded (cli/run.ts). */
export interface Started {
  readonly clock?: GateClock;
  readonly earlyWorker?: EarlyWorker;
}

/** Opens everything. Rejects where the gate can't run at all, after giving back what was opened: another gate runs here, or the board fails. */
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
        lane: config.turnstile,
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

    // First of all: it answers to one gate only, so a second one ends here and never touches the lane.
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
        setInterval(() => notify.watchdog(), LOOK_MS).unref();
      },
    });
    return { gate, log, stop, restartAsked: restart.promise, panic: (error) => panic(error, gate, board, log) };
  } catch (error) {
    log.error('the gate could not start', { error });
    await stop('start failed');
    throw error;
  }
}

function latchedOnDisk(config: Config): boolean {
  return existsSync(join(config.store.path, FIRE_LATCH_FILE));
}

/** The store opens in its worker while the rest is put together here; the gate's first `open` answers from that. */
function openEarly(decider: Decider): Decider {
  let early: ReturnType<Decider['open']> | null = decider.open();
  // Whoever opens it is told.
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

/** The board, and beside it the file by which the unit's stop step returns its outputs when this process can't. */
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
      log.error("the stop step does not know the lane's outputs: its file could not be written", { path, cause: (error as Error).message });
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

/** Health, stats, the clock's jumps and the watchdog. Answers how to end it. */
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
    reports.look();
  };
  const timers = [
    setInterval(look, LOOK_MS),
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

/** Runs the releases once, in reverse; whoever calls again waits for the same end. */
function createStop(releases: readonly Release[], log: ProcessLog): (reason: string) => Promise<boolean> {
  let ending: Promise<boolean> | null = null;
  const run = async (reason: string): Promise<boolean> => {
    log.info('the gate stops', { reason });
    const releaseAll = async () => {
      for (const { what, run: release } of releases.toReversed()) {
        try {
          await release();
        } catch (error) {
          log.error('a part could not be given back', { what, error });
        }
      }
      return true;
    };
    const whole = await withTimeout(releaseAll(), STOP_BOUND_MS, false);
    log.info(whole ? 'the gate has stopped' : 'the gate stops without having given everything back', { reason });
    log.flush();
    return whole;
  };
  return (reason) => (ending ??= run(reason));
}

/** The store and the cloud are left as they are: only the lane's state matters now. */
async function panic(error: unknown, gate: Gate, board: Board, log: ProcessLog): Promise<void> {
  log.error('an error that nobody expected: the lane goes into its defined state, and the process ends', { error });
  const { latched, asserted } = gate.state().fire;
  await withTimeout(
    // The process ends with the error that began this; the stop step sets the outputs again.
    board.close({ releaseOpen: latched || asserted }).catch(() => undefined),
    PANIC_BOUND_MS,
    undefined,
  );
  log.flush();
}
