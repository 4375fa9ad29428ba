/**
 * One code in several events of a gate (a season card, the dates of a series): which of them the guest comes for. Pure and total.
 *
 * Those whose admission is open now go first. Where several would admit: the one that began last, for its doors are open; else the one that
 * begins next; else the lower id.
 */
import { admit } from './admission.ts';
import type { PlaceFacts, RecognisedTicket } from './facts.ts';
import type { Policy } from './policy.ts';
import { isOpen } from './validity.ts';
import { usageOf } from './visits.ts';

export interface Candidate {
  readonly facts: RecognisedTicket;
  /** The effective one of this ticket at this gate. */
  readonly policy: Policy;
}

/** The one to judge, marked where others would have admitted too; `ambiguous`: several would, and a policy refuses to choose; null: no candidates. */
export function chooseEvent(candidates: readonly Candidate[], place: PlaceFacts): Candidate | 'ambiguous' | null {
  const [first] = candidates;
  if (first === undefined) return null;
  if (candidates.length === 1) return first;
  const ordered = candidates.toSorted((a, b) => compare(a, b, place.nowMs));
  // Who is inside on one of them goes out on that one.
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

/** Begun last, then begins next, then the lower id; one without a beginning behind those that have one. */
function compare(a: Candidate, b: Candidate, nowMs: number): number {
  const rank = ({ facts: { event } }: Candidate): readonly [group: number, distanceMs: number] =>
    event.startsAtMs === null ? [2, 0] : event.startsAtMs <= nowMs ? [0, nowMs - event.startsAtMs] : [1, event.startsAtMs - nowMs];
  const [groupA, distanceA] = rank(a);
  const [groupB, distanceB] = rank(b);
  const idA = a.facts.event.eventId;
  const idB = b.facts.event.eventId;
  return groupA - groupB || distanceA - distanceB || (idA < idB ? -1 : idA > idB ? 1 : 0);
}
