/**
 * The loop: inputs are queued and taken one at a time, each is one step of the lane, and its effects are carried out before the
 * next. Nothing acts inside a reaction.
 */
import type { LaneConfig } from '../lane/config.ts';
import { initialLane, step } from '../lane/state-machine.ts';
import type { LaneEffect, LaneInput, LaneState, TimerName } from '../lane/types.ts';
import type { Clock } from '../ports.ts';
import type { Timers } from '../timers.ts';
import type { Report, UntimedInput } from './outcome.ts';

/** Interval of the housekeeping tick: failed writes, alerts, and the watchdog's proof that the loop turns. ms */
export const TICK_MS = 250;

/** The lane's timers: each comes back as an input. */
export interface LaneTimers {
  /** `stepMs`: when the step that asked for it was taken. */
  set(timer: TimerName, dueMs: number, stepMs: number): void;
  cancel(timer: TimerName): void;
  cancelAll(): void;
}

export function createLaneTimers({ clock, timers, report }: { readonly clock: Clock; readonly timers: Timers; readonly report: Report }): LaneTimers {
  const running = new Map<TimerName, { cancel(): void }>();
  return {
    set(timer, dueMs, stepMs) {
      running.get(timer)?.cancel();
      // A pulse is as long as the turnstile needs it: counted from its write, which on a busy processor comes well after the step.
      const fromMs = timer.startsWith('pulse:') ? stepMs : clock.boottimeMs();
      running.set(
        timer,
        timers.after(dueMs - fromMs, () => {
          running.delete(timer);
          report({ kind: 'lane_input', input: { kind: 'timer', timer } });
        }),
      );
    },
    cancel(timer) {
      running.get(timer)?.cancel();
      running.delete(timer);
    },
    cancelAll() {
      for (const timer of running.values()) timer.cancel();
    },
  };
}

export interface Loop {
  lane(): LaneState;
  config(): LaneConfig;
  /** Sets the configuration as the board completes it; before the first input. */
  configure(config: LaneConfig): void;
  /** Queues an input; takes all that wait, one step each. */
  dispatch(input: UntimedInput, atMs?: number): void;
  /** Passages outwards until then belong to the way out that stood open before the process. */
  countFreeExitsUntil(untilMs: number): void;
  startTicking(): void;
  stopTicking(): void;
  /** Returns the boot time of the loop's last turn, in ms. */
  lastTurnMs(): number;
  /** Returns the longest lag since the last call, ms. */
  takeLagMs(): number;
}

export interface LoopOptions {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly config: LaneConfig;
  readonly carryOut: (effect: LaneEffect, stepMs: number) => void;
  readonly report: Report;
}

export function createLoop(options: LoopOptions): Loop {
  const { clock, timers, carryOut, report } = options;
  let { config } = options;
  let lane: LaneState = initialLane();
  const inputs: LaneInput[] = [];
  let stepping = false;
  let ticking: { cancel(): void } | null = null;
  let lastTurnMs = clock.boottimeMs();
  let lastTickMs = clock.boottimeMs();
  let lagMs = 0;

  function tick(): void {
    const nowMs = clock.boottimeMs();
    lagMs = Math.max(lagMs, nowMs - lastTickMs - TICK_MS);
    lastTickMs = nowMs;
    lastTurnMs = nowMs;
    report({ kind: 'tick', nowMs });
    ticking = timers.after(TICK_MS, tick);
  }

  return {
    lane: () => lane,
    config: () => config,
    configure(known) {
      config = known;
    },
    dispatch(input, atMs = clock.boottimeMs()) {
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
      report({ kind: 'view_changed' });
    },
    countFreeExitsUntil(untilMs) {
      lane = { ...lane, out: { ...lane.out, freeTailMs: untilMs } };
    },
    startTicking() {
      lastTickMs = clock.boottimeMs();
      ticking = timers.after(TICK_MS, tick);
    },
    stopTicking() {
      ticking?.cancel();
    },
    lastTurnMs: () => lastTurnMs,
    takeLagMs() {
      const lag = lagMs;
      lagMs = 0;
      return lag;
    },
  };
}
