/** Waiting, behind an interface, so that a simulated time can stand in for it. */
export interface Timers {
  /** Runs `run` once, not before `delayMs` (0 and less: as soon as the loop turns). */
  after(delayMs: number, run: () => void): { cancel(): void };
}

/** The runtime's own timers. */
export function systemTimers(): Timers {
  return {
    after(delayMs, run) {
      const handle = setTimeout(run, Math.max(0, Math.ceil(delayMs)));
      return { cancel: () => clearTimeout(handle) };
    },
  };
}

/** What the loop logs by. Never a code, never a secret. */
export interface GateLog {
  debug(message: string, fields?: Readonly<Record<string, unknown>>): void;
  info(message: string, fields?: Readonly<Record<string, unknown>>): void;
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void;
  error(message: string, fields?: Readonly<Record<string, unknown>>): void;
}
