/** Finds the grant that a restart left without an outcome, where its guest stands at the same lane again: it is returned once, and decided anew. */
import type { RowPosition } from '../../contract/ids.ts';
import type { RecognisedTicket } from '../../rules/facts.ts';
import type { GrantState } from '../store/usage-merge.ts';

/** Longest time from the grant to the retry, ms. Beyond it an operator settles the grant. */
export const RETRY_HERE_MS = 10 * 60_000;

export interface UnknownGrant {
  readonly of: RowPosition;
  /** The units without an outcome. */
  readonly units: readonly number[];
}

/** Returns this lane's own grant of the ticket whose passage is unknown; null: there is none, or something else is known of the ticket. */
export function unknownHere(gate: string, { ticket, entries }: RecognisedTicket, states: readonly GrantState[], nowMs: number): UnknownGrant | null {
  const own = states.filter((state) => state.eventId === ticket.eventId);
  const [one] = own;
  if (one === undefined || own.length > 1 || entries.length > 1) return null;
  if (!one.known || one.gate !== gate || one.direction !== 'in') return null;
  if (nowMs - one.atMs < 0 || nowMs - one.atMs > RETRY_HERE_MS) return null;
  if (one.words.some((word) => word.settled || word.ledger !== gate || word.outcome !== 'unknown')) return null;
  const whole = one.words.some(({ unit }) => unit === null);
  const units = whole ? Array.from({ length: one.units }, (_, n) => n + 1) : [...new Set(one.words.flatMap(({ unit }) => (unit === null ? [] : [unit])))];
  return units.length === 0 ? null : { of: [one.epoch, one.seq], units };
}
