/** Spaces attempts: exponential backoff, with jitter so that fifty gates do not reconnect in the same instant. */

export interface Backoff {
  /** Counts one failure. Returns the wait before the next attempt, in ms. */
  next(): number;
  /** Resets the wait after a success. */
  reset(): void;
  /** Returns the failures since the last success. */
  failures(): number;
}

/**
 * Doubles from `firstMs` to `maxMs`; each wait is drawn evenly from the upper half of its span, so the bounds are
 * `firstMs / 2` and `maxMs`. `random` is an input (0 ≤ x < 1), so that tests can choose it.
 */
export function createBackoff(options: { readonly firstMs: number; readonly maxMs: number; readonly random?: () => number }): Backoff {
  const random = options.random ?? Math.random;
  let failed = 0;
  return {
    next() {
      const span = Math.min(options.maxMs, options.firstMs * 2 ** Math.min(failed, 30));
      failed += 1;
      return span / 2 + random() * (span / 2);
    },
    reset() {
      failed = 0;
    },
    failures: () => failed,
  };
}
