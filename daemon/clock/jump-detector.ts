/**
 * A system clock that was set while the gate runs, and a floor that turned out to lie ahead: flagged in the account and in the log.
 * Durations and the account's times do not follow them.
 */

import type { Log } from '../log/log.ts';
import type { Decider } from '../ports.ts';
import type { GateClock } from './clock.ts';

export interface ClockWatchOptions {
  readonly clock: Pick<GateClock, 'look' | 'overruled'>;
  readonly decider: Pick<Decider, 'record'>;
  readonly log: Pick<Log, 'warn'>;
}

/** Call the answer every second or so. */
export function createClockWatch({ clock, decider, log }: ClockWatchOptions): () => void {
  return () => {
    const jump = clock.look();
    const wrong = clock.overruled();
    if (wrong !== null) {
      const floor = new Date(wrong.floorMs).toISOString();
      const detail = `the floor ${floor} lay ahead and was overruled by ${wrong.by}: it was ${new Date(wrong.nowMs).toISOString()}`;
      log.warn("the clock's floor lay ahead", { floor, by: wrong.by });
      // A store that fails says so itself; the log has the floor too.
      void decider.record({ kind: 'clock', what: 'floor', detail }).catch(() => undefined);
    }
    if (jump === null) return;
    const byMs = Math.round(jump.byMs);
    log.warn("the system's clock was set", { by_ms: byMs });
    // Also when the store fails: the note is lost, and the rows' own times show the jump all the same.
    void decider.record({ kind: 'clock', what: 'jump', detail: `the system's clock was set by ${byMs} ms` }).catch(() => undefined);
  };
}
