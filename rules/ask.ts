/** One question at a gate while it is judged, and the words that every check refuses with. */
import { explain, type Reason, type ReasonFacts } from '../contract/reasons.ts';
import type { Entry, EventFacts, PlaceFacts, Refusal, TicketFacts } from './facts.ts';
import type { Leniency, Policy } from './policy.ts';
import type { Usage } from './usage.ts';
import { showTime } from './venue-time.ts';

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

/** A refusal with its explanation. `validAgainAtMs`: when the same ticket would be admitted here, where that can be said. */
export function refusal(ask: Ask, reason: Reason, facts: ReasonFacts = {}, validAgainAtMs: number | null = null): Refusal {
  const all = validAgainAtMs === null ? facts : { ...facts, valid_again_at: showTime(validAgainAtMs, ask.place.nowMs, ask.event.timeZone, 'up') };
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
