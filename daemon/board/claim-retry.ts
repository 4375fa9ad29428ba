/** How lines are claimed, with either driver: tried for a while, and what a person must know when they cannot be had. */
import { setTimeout as wait } from 'node:timers/promises';
import type { Clock, Fault } from '../ports.ts';

/** At boot the lines belong to root until udev settles (4 s seen). After this `open` throws. */
export const OPEN_WAIT_MS = 10_000;
const RETRY_MS = 100;
/** These come right by themselves while udev works or a killed gate's lines are freed. */
const PASSING = ['EACCES', 'EPERM', 'ENOENT', 'EBUSY'];

/** Tries until it works, fails for good, or the time is up. */
export async function untilDeadline<T>(clock: Pick<Clock, 'boottimeMs'>, deadlineMs: number, attempt: () => T): Promise<T> {
  for (;;) {
    try {
      return attempt();
    } catch (error) {
      if (!PASSING.includes((error as NodeJS.ErrnoException).code ?? '') || clock.boottimeMs() + RETRY_MS > deadlineMs) throw error;
    }
    await wait(RETRY_MS);
  }
}

export function withFault(operation: string, cause: string, hint: string): Error {
  const fault: Fault = { operation, cause, hint, healsItself: false };
  return Object.assign(new Error(`${operation}: ${cause}; ${hint}`), { fault });
}
