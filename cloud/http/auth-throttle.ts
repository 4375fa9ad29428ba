/**
 * Limits failures by address and requests by identity: headers that a caller writes change neither. A good credential is never blocked by other
 * failures from its address: credentials of a blocked address are still looked up, a few at a time.
 */

/** Addresses, identities and good credentials that are remembered; beyond it the oldest are evicted. */
const MAX_REMEMBERED = 10_000;
const MINUTE_MS = 60_000;
/** Lookups of credentials from blocked addresses that run at once, for all of them together; further ones wait. */
const NARROW_AT_ONCE = 2;
/** Lookups of one blocked address that wait; further requests are answered with 429. */
const NARROW_WAITING = 64;

export interface AuthThrottle {
  /** Returns the identity that these credentials had last; null: not known to be good. */
  identityOf(credentials: string): string | null;
  /** Records that the credentials are `identity`'s. */
  recordSuccess(credentials: string, identity: string): void;
  /** Records that the credentials, or the request, were not valid. Returns true where this failure blocks the address. */
  recordFailure(address: string, credentials: string | null, nowMs: number): boolean;
  isBlocked(address: string, nowMs: number): boolean;
  /** Counts a request; returns the seconds to wait where it is beyond the limit, else null. */
  countRequest(identity: string, nowMs: number): number | null;
  /** Returns the same as `countRequest`, without counting. */
  retryAfterS(identity: string, nowMs: number): number | null;
  /** Runs work for a blocked address in its turn. Returns null where too many of this address wait already. */
  runInTurn<T>(address: string, work: () => Promise<T>): Promise<T> | null;
}

export function createAuthThrottle(ratePerMinute: number): AuthThrottle {
  const failures = createCounts();
  const requests = createCounts();
  const good = new Map<string, string>();
  const waiting = new Map<string, number>();
  const queue: (() => void)[] = [];
  let running = 0;

  const waitS = (identity: string, nowMs: number) => {
    const { count, untilMs } = requests.of(identity, nowMs);
    return count >= ratePerMinute ? Math.max(Math.ceil((untilMs - nowMs) / 1000), 1) : null;
  };
  const next = () => {
    while (running < NARROW_AT_ONCE) {
      const start = queue.shift();
      if (start === undefined) return;
      running += 1;
      start();
    }
  };
  return {
    identityOf: (credentials) => good.get(credentials) ?? null,
    recordSuccess(credentials, identity) {
      good.delete(credentials);
      good.set(credentials, identity);
      evictOldest(good);
    },
    recordFailure(address, credentials, nowMs) {
      if (credentials !== null) good.delete(credentials);
      return failures.add(address, nowMs) === ratePerMinute;
    },
    isBlocked: (address, nowMs) => failures.of(address, nowMs).count >= ratePerMinute,
    countRequest(identity, nowMs) {
      const wait = waitS(identity, nowMs);
      if (wait === null) requests.add(identity, nowMs);
      return wait;
    },
    retryAfterS: waitS,
    runInTurn(address, work) {
      const before = waiting.get(address) ?? 0;
      if (before >= NARROW_WAITING) return null;
      waiting.set(address, before + 1);
      return new Promise<void>((done) => {
        queue.push(done);
        next();
      })
        .then(work)
        .finally(() => {
          running -= 1;
          const left = (waiting.get(address) ?? 1) - 1;
          if (left > 0) waiting.set(address, left);
          else waiting.delete(address);
          next();
        });
    },
  };
}

/** Counts by key within a minute that begins with the first. */
function createCounts() {
  const counts = new Map<string, { count: number; readonly untilMs: number }>();
  const of = (key: string, nowMs: number) => {
    const known = counts.get(key);
    return known !== undefined && known.untilMs > nowMs ? known : { count: 0, untilMs: nowMs + MINUTE_MS };
  };
  return {
    of,
    add(key: string, nowMs: number): number {
      const entry = of(key, nowMs);
      entry.count += 1;
      if (counts.get(key) !== entry) {
        counts.delete(key);
        counts.set(key, entry);
        evictOldest(counts);
      }
      return entry.count;
    },
  };
}

function evictOldest(of: Map<string, unknown>): void {
  for (const key of of.keys()) {
    if (of.size <= MAX_REMEMBERED) return;
    of.delete(key);
  }
}
