/** Measures the cloud's time by round trips, for the clock's offset. Drops an answer that has no pending query. */
import { SCHEMA_VERSION } from '../../contract/limits.ts';
import { TimeAnswer, type TimeQuestion } from '../../contract/messages.ts';
import { parsePayload } from '../../contract/parse.ts';
import type { Clock } from '../ports.ts';
import { systemTimers, type Timers } from '../timers.ts';

/** Most time queries in flight; one more evicts the oldest. */
const MAX_PENDING = 16;
/** Longest round trip, in ms, that counts; a longer one measures the offset too coarsely and is dropped. */
export const MAX_ROUND_TRIP_MS = 10_000;
/** Round trips after a connect, TIME_BURST_GAP_MS apart; then one every TIME_PERIOD_MS. */
export const TIME_BURST = 8;
export const TIME_BURST_GAP_MS = 250;
export const TIME_PERIOD_MS = 60_000;

type Publish = (kind: 'time', payload: string) => void;

export interface TimeSync {
  start(publish: Publish): void;
  stop(): void;
  answered(n: number, payload: Uint8Array): void;
}

export function createTimeSync(options: {
  readonly clock: Clock;
  readonly burst?: number;
  readonly periodMs?: number;
  readonly log: (message: string) => void;
  /** Defaults: the runtime's timers, Math.random. */
  readonly timers?: Timers;
  readonly random?: () => number;
}): TimeSync {
  const { clock, timers = systemTimers(), random = Math.random } = options;
  const pending = new Map<number, number>();
  let n = Math.floor(random() * 1e9);
  let timer: { cancel(): void } | undefined;

  const query = (publish: Publish, left: number) => {
    const first = pending.keys().next().value;
    if (pending.size >= MAX_PENDING && first !== undefined) pending.delete(first);
    n += 1;
    const sent_boottime_ms = clock.boottimeMs();
    pending.set(n, sent_boottime_ms);
    publish('time', JSON.stringify({ schema: SCHEMA_VERSION, n, boot_id: clock.bootId, sent_boottime_ms } satisfies TimeQuestion));
    timer = timers.after(left > 1 ? TIME_BURST_GAP_MS : (options.periodMs ?? TIME_PERIOD_MS), () => query(publish, left - 1));
  };
  return {
    start(publish) {
      pending.clear();
      timer?.cancel();
      query(publish, options.burst ?? TIME_BURST);
    },
    stop() {
      timer?.cancel();
      pending.clear();
    },
    answered(number, payload) {
      const answeredMs = clock.boottimeMs();
      const askedMs = pending.get(number);
      if (askedMs === undefined) return;
      pending.delete(number);
      const answer = parsePayload(TimeAnswer, payload);
      if (!answer.ok) return options.log(`reading a time answer failed: ${answer.message}`);
      const { boot_id, received_unix_ms, answered_unix_ms } = answer.value;
      if (answer.value.n !== number || boot_id !== clock.bootId || answered_unix_ms < received_unix_ms || answeredMs - askedMs > MAX_ROUND_TRIP_MS) return;
      clock.observe({ askedMs, answeredMs, cloudReceivedMs: received_unix_ms, cloudAnsweredMs: answered_unix_ms });
    },
  };
}
