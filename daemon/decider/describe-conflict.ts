/** The cloud's verdicts on this gate's grants, in the words of a refusal: what would have been said, had it been known. */
import { explain, REASONS, type Reason, type ReasonFacts } from '../../contract/reasons.ts';
import { gateName } from '../../rules/check-context.ts';
import { showTime } from '../../rules/venue-time.ts';
import type { GrantConflict } from '../ports.ts';
import type { StoredConflict } from '../store/conflicts.ts';
import type { GrantState } from '../store/usage-merge.ts';

/** The known grants of one ticket, and the time zone of its event. */
export interface ConflictFacts {
  readonly gate: string;
  readonly states: readonly GrantState[];
  readonly timeZone: string;
  readonly nowMs: number;
}

const isReason = (text: string): text is Reason => (REASONS as readonly string[]).includes(text);

export function describeConflict(conflict: StoredConflict, { gate, states, timeZone, nowMs }: ConflictFacts): GrantConflict {
  const find = (key: readonly [string, number, number]) =>
    states.find((state) => state.known && state.gate === key[0] && state.epoch === key[1] && state.seq === key[2]) ?? null;
  const show = (ms: number) => showTime(ms, nowMs, timeZone);
  const own = find([gate, ...conflict.of]);
  const { winner, cause, verdict, direction, eventId, ticketId, ticketRef, verdictRow, of } = conflict;
  const winning = winner === null ? null : find(winner);
  const first: ReasonFacts = winner === null ? {} : { used_gate: gateName(winner[0]), inside_gate: gateName(winner[0]) };
  const facts: ReasonFacts = winning === null ? first : { ...first, used_at: show(winning.atMs), inside_since: show(winning.atMs) };
  const why = isReason(cause) ? explain(cause, facts) : cause;
  // Where the other gate's row was never read here, its name alone is known.
  const where = winner !== null && winning === null && isReason(cause) ? `, first at gate ${gateName(winner[0])}` : '';
  const when = own === null ? 'a guest who was admitted' : `who was admitted at ${show(own.atMs)}`;
  const words = verdict === 'excess' ? `${when} was beyond the ticket's right: ${why}${where}` : `${when} was within the ticket's right after all`;
  return { verdictRow, row: of, verdict, cause, eventId, ticketId, ticketRef, direction: own?.direction ?? direction, winner, words };
}
