/**
 * What the gate asks of the cloud and waits for: the time (round trips for the clock's offset) and facts about one unknown code.
 * Both are bounded in number and in waiting; an answer to nothing that was asked is dropped.
 */

import { SCHEMA_VERSION } from '../../contract/limits.ts';
import { LookupAnswer, type LookupQuestion } from '../../contract/manifest.ts';
import { TimeAnswer, type TimeQuestion } from '../../contract/messages.ts';
import { parsePayload } from '../../contract/parse.ts';
import type { Clock } from '../ports.ts';
import { type LinkTimers, systemTimers } from './timers.ts';

/** Questions of one kind that wait; a further lookup is answered with null at once, a further time question forgets the oldest. */
export const MAX_WAITING = 16;
/** A round trip longer than this says too little to be kept. */
export const MAX_ROUND_TRIP_MS = 10_000;
/** After a connect: so many round trips, so far apart; then one every TIME_PERIOD_MS. */
export const TIME_BURST = 8;
export const TIME_BURST_GAP_MS = 250;
export const TIME_PERIOD_MS = 60_000;
/** A lookup's answer that comes after its budget is still handed on as late within this time. */
export const LATE_LOOKUP_MS = 10_000;

type Publish = (kind: 'time' | 'lookup', payload: string) => void;

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
  readonly timers?: LinkTimers;
  readonly random?: () => number;
}): TimeSync {
  const { clock, timers = systemTimers, random = Math.random } = options;
  const asked = new Map<number, number>();
  let n = Math.floor(random() * 1e9);
  let timer: { cancel(): void } | undefined;

  const ask = (publish: Publish, left: number) => {
    const first = asked.keys().next().value;
    if (asked.size >= MAX_WAITING && first !== undefined) asked.delete(first);
    n += 1;
    const sent_boottime_ms = clock.boottimeMs();
    asked.set(n, sent_boottime_ms);
    publish('time', JSON.stringify({ schema: SCHEMA_VERSION, n, boot_id: clock.bootId, sent_boottime_ms } satisfies TimeQuestion));
    timer = timers.after(left > 1 ? TIME_BURST_GAP_MS : (options.periodMs ?? TIME_PERIOD_MS), () => ask(publish, left - 1));
  };
  return {
    start(publish) {
      asked.clear();
      timer?.cancel();
      ask(publish, options.burst ?? TIME_BURST);
    },
    stop() {
      timer?.cancel();
      asked.clear();
    },
    answered(number, payload) {
      const answeredMs = clock.boottimeMs();
      const askedMs = asked.get(number);
      if (askedMs === undefined) return;
      asked.delete(number);
      const answer = parsePayload(TimeAnswer, payload);
      if (!answer.ok) return options.log(`a time answer cannot be read: ${answer.message}`);
      const { boot_id, received_unix_ms, answered_unix_ms } = answer.value;
      if (answer.value.n !== number || boot_id !== clock.bootId || answered_unix_ms < received_unix_ms || answeredMs - askedMs > MAX_ROUND_TRIP_MS) return;
      clock.observe({ askedMs, answeredMs, cloudReceivedMs: received_unix_ms, cloudAnsweredMs: answered_unix_ms });
    },
  };
}

export interface TicketLookup {
  /** Facts, or null: no answer within the budget, or too many questions wait. Never rejects. */
  ask(refs: LookupQuestion['refs'], budgetMs: number, publish: Publish): Promise<LookupAnswer | null>;
  answered(n: number, payload: Uint8Array): void;
  /** The connection is gone: everybody who waits is answered with null. */
  stop(): void;
}

export function createTicketLookup(options: { readonly late: (answer: LookupAnswer) => void; readonly log: (message: string) => void }): TicketLookup {
  const waiting = new Map<number, (answer: LookupAnswer | null) => void>();
  let n = Math.floor(Math.random() * 1e9);
  return {
    ask(refs, budgetMs, publish) {
      if (waiting.size >= MAX_WAITING) return Promise.resolve(null);
      n += 1;
      const number = n;
      return new Promise((resolve) => {
        const forget = setTimeout(() => waiting.delete(number), budgetMs + LATE_LOOKUP_MS);
        const timer = setTimeout(() => {
          waiting.set(number, (answer) => {
            clearTimeout(forget);
            waiting.delete(number);
            if (answer !== null) options.late(answer);
          });
          resolve(null);
        }, budgetMs);
        forget.unref();
        waiting.set(number, (answer) => {
          clearTimeout(timer);
          clearTimeout(forget);
          waiting.delete(number);
          resolve(answer);
        });
        publish('lookup', JSON.stringify({ schema: SCHEMA_VERSION, n: number, refs } satisfies LookupQuestion));
      });
    },
    answered(number, payload) {
      const settle = waiting.get(number);
      if (settle === undefined) return;
      const answer = parsePayload(LookupAnswer, payload);
      if (!answer.ok || answer.value.n !== number) {
        options.log(`a lookup answer cannot be read: ${answer.ok ? 'n differs from the topic' : answer.message}`);
        return settle(null);
      }
      settle(answer.value);
    },
    stop() {
      for (const settle of [...waiting.values()]) settle(null);
    },
  };
}
