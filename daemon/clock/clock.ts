/**
 * Two clocks behind one interface (ports.ts): boot time for durations and the ledger, wall time for people
 * and validity windows, and whether wall time can be trusted. A simulated one stands beside the real one.
 *
 * Boot time is CLOCK_BOOTTIME without a native call: see docs/decisions/0110-boot-time.md.
 */
import { existsSync, readFileSync } from 'node:fs';
import { stileVersion } from '../../runtime/build-info.ts';
import type { Clock } from '../ports.ts';

/** Drift of the quartz, in ppm, by which a bound widens: twice the specification of a Pi. */
const DRIFT_PPM = 100;
/** Longest round trip, in ms, that counts; a longer one is dropped. */
const MAX_ROUND_TRIP_MS = 10_000;
/** Step of the cloud's clock as it may be written (whole milliseconds); part of every bound. */
const CLOUD_STEP_MS = 1;
/** An offset whose bound has widened past this no longer makes the time trusted. */
const MAX_TRUSTED_BOUND_MS = 2_000;
/** Synchronised wall time and the cloud's may differ by so much beyond the bound; more: one of them is wrong, and neither is trusted. */
const MAX_DISAGREEMENT_MS = 2_000;
/** Wall against boot time: a step larger than this between two looks is a jump. NTP slews at most 0.5 ms a second. */
const MIN_JUMP_MS = 500;
/** Difference of CLOCK_BOOTTIME and CLOCK_MONOTONIC below which the machine has never slept (/proc/uptime has steps of 10 ms). */
const MIN_SUSPENDED_MS = 1_000;

type Sample = Parameters<Clock['observe']>[0];

/** Best offset of this boot: boot time + offset = cloud time ± bound. */
interface Estimate {
  readonly offsetMs: number;
  readonly boundMs: number;
  readonly atMs: number;
}

/** Returns the estimate of one round trip; null for an implausible one. */
export function estimate(sample: Sample): Estimate | null {
  const { askedMs, answeredMs, cloudReceivedMs, cloudAnsweredMs } = sample;
  const roundTripMs = answeredMs - askedMs - (cloudAnsweredMs - cloudReceivedMs);
  if (![askedMs, answeredMs, cloudReceivedMs, cloudAnsweredMs].every(Number.isFinite)) return null;
  if (answeredMs < askedMs || cloudAnsweredMs < cloudReceivedMs || roundTripMs < -CLOUD_STEP_MS || roundTripMs > MAX_ROUND_TRIP_MS) return null;
  return {
    offsetMs: (cloudReceivedMs + cloudAnsweredMs) / 2 - (askedMs + answeredMs) / 2,
    boundMs: Math.max(0, roundTripMs) / 2 + CLOUD_STEP_MS,
    atMs: answeredMs,
  };
}

/** Returns an estimate's bound some time later: quartz drift widens it. */
export const widened = (best: Estimate, nowMs: number): number => best.boundMs + (Math.max(0, nowMs - best.atMs) * DRIFT_PPM) / 1_000_000;

/** Clocks of the operating system; replaced in simulation. */
export interface TimeSource {
  boottimeMs(): number;
  /** Returns the system's own wall clock, Unix ms. */
  systemMs(): number;
  /** Tells whether the system follows a time server. */
  synchronised(): boolean;
  readonly bootId: string;
}

/** A step of the system's clock against boot time. */
export interface Jump {
  readonly byMs: number;
  readonly boottimeMs: number;
}

/** A floor that two witnesses have shown to be wrong. */
export interface Overruled {
  readonly floorMs: number;
  /** What time it was instead, Unix ms. */
  readonly nowMs: number;
  /** Text for the log. */
  readonly by: string;
}

export interface GateClock extends Clock {
  /**
   * Raises the least time that the wall clock shows: build time, last row whose time was trusted, certificate's notBefore. Rises, until witnesses overrule it.
   */
  raiseFloor(unixMs: number): void;
  /** Returns the floor that was overruled since the last call, or null: to be written down. */
  overruled(): Overruled | null;
  /** Returns the jump since the last call, or null; called about every second. Also checks again whether the system is synchronised. */
  takeJump(): Jump | null;
  /** Returns the cause as text, for `status` and `doctor`. */
  why(): string;
}

/**
 * The wall clock shown is the cloud's where one good round trip was had and the system has no time server (a Pi has no
 * battery: its own clock may be days behind), else the system's; never below the floor.
 *
 * A floor may itself come from a clock that was wrong. The cloud's time, known well enough to judge by, overrules it, alone or with a time
 * server that agrees; a time server alone does not.
 */
export function createClock(options: { readonly source?: TimeSource; readonly floorMs?: number } = {}): GateClock {
  const source = options.source ?? systemTime();
  let floorMs = options.floorMs ?? 0;
  let best: Estimate | null = null;
  let synchronised = source.synchronised();
  let lastDifferenceMs = source.systemMs() - source.boottimeMs();
  let overruled: Overruled | null = null;

  const offset = () => (best === null ? null : { offsetMs: best.offsetMs, boundMs: widened(best, source.boottimeMs()) });
  /** Returns the cloud's time, if it is known well enough to judge by. */
  const cloudMs = (): number | null => {
    const known = offset();
    return known === null || known.boundMs > MAX_TRUSTED_BOUND_MS ? null : source.boottimeMs() + known.offsetMs;
  };
  const disagreement = (): number => {
    const cloud = cloudMs();
    return cloud === null ? 0 : Math.abs(source.systemMs() - cloud);
  };
  const agreed = (): boolean => disagreement() <= (offset()?.boundMs ?? 0) + MAX_DISAGREEMENT_MS;
  const judge = (): { readonly trusted: boolean; readonly why: string } => {
    const cloud = cloudMs();
    const boundMs = offset()?.boundMs ?? 0;
    if (synchronised && cloud !== null && !agreed())
      return { trusted: false, why: `the time server's clock and the cloud's differ by ${Math.round(disagreement())} ms` };
    if (!synchronised && cloud === null) return { trusted: false, why: 'no time server, and no round trip with the cloud yet' };
    if ((synchronised ? source.systemMs() : (cloud as number)) < floorMs)
      return { trusted: false, why: 'the clock shows a time before this gate was made or last used' };
    return { trusted: true, why: synchronised ? 'the system follows a time server' : `measured against the cloud, within ${Math.ceil(boundMs)} ms` };
  };
  /** Lowers the floor to the cloud's time when trusted sources show that it is too high. */
  const correctFloor = (): void => {
    const cloud = cloudMs();
    const boundMs = offset()?.boundMs ?? 0;
    if (cloud === null || cloud + boundMs >= floorMs || (synchronised && !agreed())) return;
    const by = synchronised ? 'the time server and the cloud' : `the cloud, within ${Math.ceil(boundMs)} ms`;
    overruled = { floorMs: Math.max(floorMs, overruled?.floorMs ?? floorMs), nowMs: cloud, by };
    floorMs = cloud - boundMs;
  };
  return {
    bootId: source.bootId,
    boottimeMs: () => source.boottimeMs(),
    wallMs: () => Math.max(floorMs, (synchronised ? null : cloudMs()) ?? source.systemMs()),
    offset,
    trusted: () => judge().trusted,
    why: () => judge().why,
    observe(sample) {
      const next = estimate(sample);
      if (next !== null && (best === null || next.boundMs <= widened(best, next.atMs))) best = next;
      correctFloor();
    },
    raiseFloor(unixMs) {
      if (Number.isFinite(unixMs)) floorMs = Math.max(floorMs, unixMs);
      correctFloor();
    },
    overruled() {
      const reported = overruled;
      overruled = null;
      return reported;
    },
    takeJump() {
      synchronised = source.synchronised();
      correctFloor();
      const boottimeMs = source.boottimeMs();
      const differenceMs = source.systemMs() - boottimeMs;
      const byMs = differenceMs - lastDifferenceMs;
      lastDifferenceMs = differenceMs;
      return Math.abs(byMs) >= MIN_JUMP_MS ? { byMs, boottimeMs } : null;
    },
  };
}

/** Reads the time of a Linux system from three small files; starts nothing. */
export function systemTime(): TimeSource {
  let suspendedMs = 0;
  const monotonicMs = () => Number(process.hrtime.bigint()) / 1e6;
  const measureSuspended = () => {
    try {
      const difference = Number.parseFloat(readFileSync('/proc/uptime', 'utf8')) * 1000 - monotonicMs();
      if (difference - suspendedMs > MIN_SUSPENDED_MS) suspendedMs = difference;
    } catch {
      // Without /proc there is no suspend either: monotonic time serves.
    }
  };
  measureSuspended();
  return {
    boottimeMs: () => monotonicMs() + suspendedMs,
    systemMs: () => Date.now(),
    synchronised() {
      measureSuspended();
      return SYNCHRONISED_FILES.some((file) => existsSync(file));
    },
    bootId: readBootId(),
  };
}

/** Written by systemd-timesyncd once it has a time server's time; the second is for whoever runs another time daemon (docs/decisions/0110-boot-time.md). */
const SYNCHRONISED_FILES = ['/run/systemd/timesync/synchronized', '/run/stile/time-synchronised'];

function readBootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    // Rows of one boot must share an id and those of two must not: the time of boot does as well.
    return `boot-${Math.round(Date.now() / 1000 - Number(process.hrtime.bigint()) / 1e9)}`;
  }
}

/** Returns a clock that moves on `advance` alone, for tests and simulation. */
export function createSimClock(
  start: { readonly boottimeMs?: number; readonly wallMs?: number; readonly bootId?: string; readonly synchronised?: boolean } = {},
) {
  let boottimeMs = start.boottimeMs ?? 1_000;
  let systemMs = start.wallMs ?? Date.UTC(2026, 0, 1);
  let synchronised = start.synchronised ?? true;
  const clock = createClock({
    source: { boottimeMs: () => boottimeMs, systemMs: () => systemMs, synchronised: () => synchronised, bootId: start.bootId ?? 'sim-boot' },
  });
  return {
    ...clock,
    /** Advances both clocks. */
    advance(ms: number): void {
      boottimeMs += ms;
      systemMs += ms;
    },
    /** Sets the system's clock. */
    setWall(unixMs: number): void {
      systemMs = unixMs;
    },
    setSynchronised(value: boolean): void {
      synchronised = value;
      clock.takeJump();
    },
  };
}
export type SimClock = ReturnType<typeof createSimClock>;

/** Returns the clock of a gate. Its wall time is never before the build of the program or the start of the gate's certificate. */
export function createGateClock(certificate: { readonly notBeforeMs: number } | null): GateClock {
  return createClock({ floorMs: Math.max(stileVersion().builtAtMs, certificate?.notBeforeMs ?? 0) });
}
