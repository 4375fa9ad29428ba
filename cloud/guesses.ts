/** How often wrong credentials are shown, by address. */

/** Addresses and good credentials that are remembered; beyond it the oldest are forgotten. */
const MAX_REMEMBERED = 10_000;
const MINUTE_MS = 60_000;

export interface Guesses {
  /** Beyond its limit, and not known to be good: not to be asked about at all. */
  tooMany(address: string, caller: string, nowMs: number): boolean;
  failed(address: string, caller: string, nowMs: number): void;
  letIn(caller: string): void;
}

/**
 * Wrong credentials are counted by address, for each of them is another caller to the limit of requests, and each asks the database. Who was let in lately
 * is not held up by what others try behind the same address.
 */
export function createGuesses(ratePerMinute: number): Guesses {
  const failures = new Map<string, { count: number; readonly untilMs: number }>();
  const good = new Set<string>();
  const forget = (of: Map<string, unknown> | Set<string>) => {
    for (const key of of.keys()) {
      if (of.size <= MAX_REMEMBERED) return;
      of.delete(key);
    }
  };
  return {
    tooMany(address: string, caller: string, nowMs: number): boolean {
      const known = failures.get(address);
      return known !== undefined && known.untilMs > nowMs && known.count >= ratePerMinute && !good.has(caller);
    },
    failed(address: string, caller: string, nowMs: number): void {
      good.delete(caller);
      const known = failures.get(address);
      if (known !== undefined && known.untilMs > nowMs) known.count += 1;
      else {
        failures.delete(address);
        failures.set(address, { count: 1, untilMs: nowMs + MINUTE_MS });
        forget(failures);
      }
    },
    letIn(caller: string): void {
      good.delete(caller);
      good.add(caller);
      forget(good);
    },
  };
}
