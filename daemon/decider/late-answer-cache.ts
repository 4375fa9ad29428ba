/**
 * Answers of the cloud that came too late for their guest: kept for a short while, so that the next try of the same guest succeeds.
 *
 * They are what an answer in time is, facts that nobody signed, and never more: they fill in only where neither overlay nor manifest
 * knows the code, are gone with the next change of rights, with a restart and after LATE_ANSWER_MS, and no peer ever sees them.
 */
import type { CloudTicket } from './resolve-ticket.ts';

/** Answers kept at once; the oldest gives way. A lane asks one question at a time. */
export const MAX_LATE_ANSWERS = 256;
/** Age of a usable answer, ms of boot time. At the bound: it is dropped. A guest tries again within seconds, and a right may change within minutes. */
export const LATE_ANSWER_MS = 60_000;

export interface LateAnswers {
  keep(answers: readonly CloudTicket[], nowMs: number): void;
  find(eventId: string, ticketRef: string, nowMs: number): CloudTicket | null;
  clear(): void;
}

export function createLateAnswerCache(): LateAnswers {
  const kept = new Map<string, { readonly answer: CloudTicket; readonly untilMs: number }>();
  const keyOf = (eventId: string, ticketRef: string): string => `${eventId} ${ticketRef}`;
  return {
    keep(answers, nowMs) {
      for (const answer of answers) {
        const key = keyOf(answer.eventId, answer.ticketRef);
        kept.delete(key);
        kept.set(key, { answer, untilMs: nowMs + LATE_ANSWER_MS });
        if (kept.size > MAX_LATE_ANSWERS) kept.delete(kept.keys().next().value as string);
      }
    },
    find(eventId, ticketRef, nowMs) {
      if (kept.size === 0) return null;
      const key = keyOf(eventId, ticketRef);
      const found = kept.get(key);
      if (found === undefined) return null;
      if (nowMs < found.untilMs) return found.answer;
      kept.delete(key);
      return null;
    },
    clear: () => kept.clear(),
  };
}
