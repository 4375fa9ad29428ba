/**
 * Chooses the event of a code that several events of a gate know (a season card, the dates of a series). Pure and total.
 *
 * Events whose admission is open now come first. Of several that would admit it chooses the one that began last, for its doors are open; else the
 * one that begins next; else the lower id.
 */
import { admit } from './admission.ts';
import type { PlaceFacts, RecognisedTicket } from './facts.ts';
import type { Policy } from './policy.ts';
import { isOpen } from './validity.ts';
import { usageOf } from './visits.ts';

export interface Candidate {
  readonly facts: RecognisedTicket;
  /** The effective policy of this ticket at this gate. */
  readonly policy: Policy;
}

/** Returns the chosen event, flagged where others would have admitted too; `ambiguous`: several would, and a policy refuses to choose; null: no candidates. */
export function chooseEvent(candidates: readonly Candidate[], place: PlaceFacts): Candidate | 'ambiguous' | null {
  const [first] = candidates;
  if (first === undefined) return null;
  if (candidates.length === 1) return first;
  const ordered = candidates.toSorted((a, b) => compare(a, b, place.nowMs));
  // A guest inside one of the events leaves that one.
  if (place.direction === 'out') {
    const inside = ordered.find(({ facts }) => usageOf(facts.entries, facts.ticket.units).inside > 0);
    if (inside !== undefined) return inside;
  }
  const open = ordered.filter(({ facts, policy }) => isOpen(facts, policy, place));
  const nearest = open.length > 0 ? open : ordered;
  const admitting = nearest.filter(({ facts, policy }) => admit(facts, policy, place).kind === 'grant');
  const chosen = admitting[0] ?? (nearest[0] as Candidate);
  if (admitting.length < 2) return chosen;
  if (admitting.some(({ policy }) => policy.ambiguous === 'refuse')) return 'ambiguous';
  return { ...chosen, facts: { ...chosen.facts, chosenOfSeveral: true } };
}

/** Orders by the latest begun, then the next to begin, then the lower id; events without a beginning come last. */
function compare(a: Candidate, b: Candidate, nowMs: number): number {
  const rank = ({ facts: { event } }: Candidate): readonly [group: number, distanceMs: number] =>
    event.startsAtMs === null ? [2, 0] : event.startsAtMs <= nowMs ? [0, nowMs - event.startsAtMs] : [1, event.startsAtMs - nowMs];
  const [groupA, distanceA] = rank(a);
  const [groupB, distanceB] = rank(b);
  const idA = a.facts.event.eventId;
  const idB = b.facts.event.eventId;
  return groupA - groupB || distanceA - distanceB || (idA < idB ? -1 : idA > idB ? 1 : 0);
}
