/** Asks the cloud about codes that no manifest holds. Drops an answer that has no pending lookup. */
import { SCHEMA_VERSION } from '../../contract/limits.ts';
import { LookupAnswer, type LookupQuestion } from '../../contract/manifest.ts';
import { parsePayload } from '../../contract/parse.ts';

/** Most lookups in flight; one more is answered with null at once. */
const MAX_PENDING = 16;
/** How long after its budget, in ms, a lookup's answer is still passed on as late; a later one is dropped. */
const LATE_LOOKUP_MS = 10_000;

type Publish = (kind: 'lookup', payload: string) => void;

export interface TicketLookup {
  /** Asks the cloud about codes. Returns null when no answer arrives within the budget or too many lookups are pending. Never rejects. */
  ask(refs: LookupQuestion['refs'], budgetMs: number, publish: Publish): Promise<LookupAnswer | null>;
  answered(n: number, payload: Uint8Array): void;
  /** Answers every pending lookup with null: the connection has ended. */
  stop(): void;
}

export function createTicketLookup(options: { readonly late: (answer: LookupAnswer) => void; readonly log: (message: string) => void }): TicketLookup {
  const pending = new Map<number, (answer: LookupAnswer | null) => void>();
  let n = Math.floor(Math.random() * 1e9);
  return {
    ask(refs, budgetMs, publish) {
      if (pending.size >= MAX_PENDING) return Promise.resolve(null);
      n += 1;
      const number = n;
      return new Promise((resolve) => {
        const forget = setTimeout(() => pending.delete(number), budgetMs + LATE_LOOKUP_MS);
        const timer = setTimeout(() => {
          pending.set(number, (answer) => {
            clearTimeout(forget);
            pending.delete(number);
            if (answer !== null) options.late(answer);
          });
          resolve(null);
        }, budgetMs);
        forget.unref();
        pending.set(number, (answer) => {
          clearTimeout(timer);
          clearTimeout(forget);
          pending.delete(number);
          resolve(answer);
        });
        publish('lookup', JSON.stringify({ schema: SCHEMA_VERSION, n: number, refs } satisfies LookupQuestion));
      });
    },
    answered(number, payload) {
      const settle = pending.get(number);
      if (settle === undefined) return;
      const answer = parsePayload(LookupAnswer, payload);
      if (!answer.ok || answer.value.n !== number) {
        options.log(`reading a lookup answer failed: ${answer.ok ? 'n differs from the topic' : answer.message}`);
        return settle(null);
      }
      settle(answer.value);
    },
    stop() {
      for (const settle of [...pending.values()]) settle(null);
    },
  };
}
