/** Runs work later. Tests and the simulation pass a simulated time. */
export interface Timers {
  /** Calls `run` once, after `delayMs` at the earliest (0 or less: on the next turn of the loop). */
  after(delayMs: number, run: () => void): { cancel(): void };
}

/** Returns timers of the runtime. */
export function systemTimers(): Timers {
  return {
    after(delayMs, run) {
      const handle = setTimeout(run, Math.max(0, Math.ceil(delayMs)));
      return { cancel: () => clearTimeout(handle) };
    },
  };
}
