/** One question at a gate while it is judged, and the words that every check refuses with. */
import { explain, type Reason, type ReasonFacts } from '../contract/reasons.ts';
import type { Entry, EventFacts, PlaceFacts, Refusal, TicketFacts } from './facts.ts';
import type { Leniency, Policy } from './policy.ts';
import { showTime } from './venue-time.ts';
import type { Usage } from './visits.ts';

export interface Ask {
  readonly ticket: TicketFacts;
  readonly event: EventFacts;
  readonly policy: Policy;
  readonly place: PlaceFacts;
  readonly entries: readonly Entry[];
  readonly usage: Usage;
  /** What a grant will have been given in spite of; checks add to it. */
  readonly flags: Set<string>;
}

/** Refuses, or has nothing against it. */
export type Check = (ask: Ask) => Refusal | null;

/** The end of the year 9999: the last moment that a time on the wire can name. */
const MAX_TIME_MS = 253_402_300_799_999;

/** A refusal with its explanation. `againMs`: when the same ticket would be admitted here; left out where that is no time to come. */
export function refusal(ask: Ask, reason: Reason, facts: ReasonFacts = {}, againMs: number | null = null): Refusal {
  const validAgainAtMs = againMs !== null && againMs > ask.place.nowMs && againMs <= MAX_TIME_MS ? againMs : null;
  const all = validAgainAtMs === null ? facts : { ...facts, valid_again_at: show(ask, validAgainAtMs, 'up') };
  return { kind: 'refusal', reason, facts: all, explanation: explain(reason, all), validAgainAtMs };
}

/** A time as the guest's own clock shows it. */
export const show = (ask: Ask, atMs: number, round: 'down' | 'up' = 'down'): string => showTime(atMs, ask.place.nowMs, ask.event.timeZone, round);

/** Refuses, admits, or admits and flags, as the policy says. */
export function admitInSpite(ask: Ask, leniency: Leniency, flag: string, reason: Reason, facts: ReasonFacts = {}): Refusal | null {
  if (leniency === 'refuse') return refusal(ask, reason, facts);
  if (leniency === 'admit_and_flag') ask.flags.add(flag);
  return null;
}

/** `arena/north-03` → `north-03`: guests know the gate, not the site. */
export const gateName = (gate: string): string => gate.slice(gate.indexOf('/') + 1);
