/**
 * Detects a step of the system clock and a wrong floor, and records both in ledger and log. Durations and the ledger's boot times do
 * not depend on them.
 */

import type { Log } from '../log/log.ts';
import type { Decider } from '../ports.ts';
import type { GateClock } from './clock.ts';

export interface ClockWatchOptions {
  readonly clock: Pick<GateClock, 'takeJump' | 'overruled'>;
  readonly decider: Pick<Decider, 'record'>;
  readonly log: Pick<Log, 'warn'>;
}

/** Returns a check; call it about every second. */
export function createClockWatch({ clock, decider, log }: ClockWatchOptions): () => void {
  return () => {
    const jump = clock.takeJump();
    const wrong = clock.overruled();
    if (wrong !== null) {
      const floor = new Date(wrong.floorMs).toISOString();
      const detail = `the floor ${floor} lay ahead and was overruled by ${wrong.by}: it was ${new Date(wrong.nowMs).toISOString()}`;
      log.warn('clock floor corrected', { floor, by: wrong.by });
      // The store reports its own failure; the log has the floor too.
      void decider.record({ kind: 'clock', what: 'floor', detail }).catch(() => undefined);
    }
    if (jump === null) return;
    const byMs = Math.round(jump.byMs);
    log.warn('system clock stepped', { by_ms: byMs });
    // If the store fails, the entry is lost; the rows' times show the jump.
    void decider.record({ kind: 'clock', what: 'jump', detail: `the system's clock was set by ${byMs} ms` }).catch(() => undefined);
  };
}
