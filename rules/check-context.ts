/** Holds one presentation while the rules check it, and makes the refusals of every check. */
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
  /** The flags of the grant; checks add to them. */
  readonly flags: Set<string>;
}

/** Returns a refusal, or null. */
export type Check = (ask: Ask) => Refusal | null;

/** The end of the year 9999: the last moment that a time on the wire can name. */
const MAX_TIME_MS = 253_402_300_799_999;

/** Returns a refusal with its explanation. `againMs`: when this gate would admit the same ticket; left out unless it is in the future. */
export function refusal(ask: Ask, reason: Reason, facts: ReasonFacts = {}, againMs: number | null = null): Refusal {
  const validAgainAtMs = againMs !== null && againMs > ask.place.nowMs && againMs <= MAX_TIME_MS ? againMs : null;
  const all = validAgainAtMs === null ? facts : { ...facts, valid_again_at: show(ask, validAgainAtMs, 'up') };
  return { kind: 'refusal', reason, facts: all, explanation: explain(reason, all), validAgainAtMs };
}

/** Formats a time in the venue's zone. */
export const show = (ask: Ask, atMs: number, round: 'down' | 'up' = 'down'): string => showTime(atMs, ask.place.nowMs, ask.event.timeZone, round);

/** Refuses, admits, or admits and flags, by the policy. */
export function admitInSpite(ask: Ask, leniency: Leniency, flag: string, reason: Reason, facts: ReasonFacts = {}): Refusal | null {
  if (leniency === 'refuse') return refusal(ask, reason, facts);
  if (leniency === 'admit_and_flag') ask.flags.add(flag);
  return null;
}

/** Returns `north-03` of `arena/north-03`: guests know the gate, not the site. */
export const gateName = (gate: string): string => gate.slice(gate.indexOf('/') + 1).replace('@', '');
