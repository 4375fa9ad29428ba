/** Waiting and chance, behind an interface, so that a simulated time can stand in for both. The loop's own Timers (gate/timers.ts) fit. */
export interface LinkTimers {
  /** Runs `run` once, not before `delayMs`. */
  after(delayMs: number, run: () => void): { cancel(): void };
}

/** The runtime's own timers. */
export const systemTimers: LinkTimers = {
  after(delayMs, run) {
    const handle = setTimeout(run, delayMs);
    return { cancel: () => clearTimeout(handle) };
  },
};
