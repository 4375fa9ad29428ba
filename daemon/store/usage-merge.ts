/**
 * Computes how often a ticket was used, from ledgers alone. Pure: a snapshot (what a manifest counts, up to a row of each ledger), the
 * grants and words that rows above it tell, and out come the entries.
 *
 * Per unit the strongest word counts: settlement > passed > returned > stuck > unknown. A grant without a word counts from its
 * commit; stuck and unknown count as used; returned gives the unit back. What arrives twice, late or in another order changes nothing.
 */
import { maySay } from '../../contract/authority.ts';
import type { Direction, LedgerVector, RowPosition } from '../../contract/ids.ts';
import type { Entry } from '../../rules/facts.ts';

export type GrantKey = { readonly gate: string; readonly epoch: number; readonly seq: number };

/** One row's word on a grant: a passage of the grant's own gate, or a settlement of the cloud. */
export interface Word {
  /** Ledger that the row stands in, with its place there. */
  readonly ledger: string;
  readonly epoch: number;
  readonly seq: number;
  /** null: every unit. */
  readonly unit: number | null;
  readonly outcome: 'passed' | 'returned' | 'stuck' | 'unknown';
  readonly settled: boolean;
}

/** What rows say about one grant. `known`: the grant's own row was read, and not only words about it. */
export interface GrantState extends GrantKey {
  readonly known: boolean;
  readonly eventId: string | null;
  readonly ticketId: string | null;
  readonly ticketRef: string | null;
  readonly direction: Direction;
  readonly units: number;
  readonly atMs: number;
  readonly words: readonly Word[];
}

/** One counted grant of a manifest's snapshot. */
export interface SnapshotEntry extends GrantKey {
  readonly atMs: number;
  readonly direction: Direction;
  readonly units: number;
  readonly outcome: Entry['outcome'];
}

const RANK: Readonly<Record<Word['outcome'], number>> = { unknown: 1, stuck: 2, returned: 3, passed: 4 };
const SETTLED_RANK = 5;

export const keyText = (key: GrantKey): string => `${key.gate} ${key.epoch} ${key.seq}`;

/** Is a row counted by a snapshot that counts `upto` of its ledger? */
export function covered(upto: LedgerVector, ledger: string, epoch: number, seq: number): boolean {
  const known = upto[ledger];
  return known !== undefined && (epoch < known[0] || (epoch === known[0] && seq <= known[1]));
}

export const comparePositions = (a: RowPosition | readonly [number, number], b: RowPosition | readonly [number, number]): number => a[0] - b[0] || a[1] - b[1];

/** Is `a` the stronger word? Equal strength: the later row's. */
function stronger(a: Word, b: Word | null): boolean {
  if (b === null) return true;
  const rank = (word: Word) => (word.settled ? SETTLED_RANK : RANK[word.outcome]);
  return rank(a) - rank(b) > 0 || (rank(a) === rank(b) && comparePositions([a.epoch, a.seq], [b.epoch, b.seq]) > 0);
}

/** The strongest word on one unit, null where there is none. */
function wordOn(words: readonly Word[], unit: number): Word | null {
  let strongest: Word | null = null;
  for (const word of words) if ((word.unit === null || word.unit === unit) && stronger(word, strongest)) strongest = word;
  return strongest;
}

/** The strongest of the words on the units that count. */
const OUTCOME_ORDER: readonly Entry['outcome'][] = ['open', 'unknown', 'stuck', 'passed'];
const strongestOutcome = (outcomes: readonly Entry['outcome'][]): Entry['outcome'] =>
  outcomes.reduce((best, next) => (OUTCOME_ORDER.indexOf(next) > OUTCOME_ORDER.indexOf(best) ? next : best), 'open');

/** Units that count, and as what, of a grant whose units all have their words here. */
function countRows(units: readonly number[], words: readonly Word[]): { readonly units: number; readonly outcome: Entry['outcome'] } {
  const outcomes: Entry['outcome'][] = [];
  for (const unit of units) {
    const outcome = wordOn(words, unit)?.outcome ?? 'open';
    if (outcome !== 'returned') outcomes.push(outcome);
  }
  return { units: outcomes.length, outcome: strongestOutcome(outcomes) };
}

const upTo = (units: number): number[] => Array.from({ length: units }, (_, n) => n + 1);

/**
 * A grant that the snapshot counts, changed by words above it. The snapshot says how many units count, not which: a word on a unit
 * takes one of them (returned) or confirms one (passed). Exact for one guest a ticket; for parties exact as long as no unit is revived
 * that was returned below the snapshot.
 */
function countChanged(
  base: Pick<SnapshotEntry, 'units' | 'outcome'>,
  words: readonly Word[],
  grantedUnits: number,
): { readonly units: number; readonly outcome: Entry['outcome'] } {
  if (words.length === 0) return base;
  const whole = Math.max(base.units, grantedUnits);
  const all = wordOn(
    words.filter((word) => word.unit === null),
    0,
  );
  const named = [...new Set(words.flatMap((word) => (word.unit === null ? [] : [word.unit])))];
  // A settlement decides; a passage on all units is weaker than what is known to have passed.
  const given = all?.outcome === 'returned' && (all.settled || base.outcome !== 'passed');
  let units = given ? 0 : all !== null && all.outcome !== 'returned' ? whole : base.units;
  const outcomes: Entry['outcome'][] = all === null || all.outcome === 'returned' ? [base.outcome] : [all.outcome];
  for (const unit of named) {
    const word = wordOn(words, unit);
    if (word === null || word === all) continue;
    if (word.outcome === 'returned') {
      // One guest who is known to have passed is not given back by a weaker word.
      if (word.settled || base.units > 1 || base.outcome !== 'passed') units--;
    } else {
      if (word.settled && units === 0) units = 1;
      outcomes.push(word.outcome);
    }
  }
  return { units: Math.max(0, Math.min(units, whole)), outcome: strongestOutcome(outcomes) };
}

/** The entries of one ticket: each grant that counts, oldest first. `states` may hold grants that the snapshot counts as well. */
export function countEntries(upto: LedgerVector, snapshot: readonly SnapshotEntry[], states: readonly GrantState[]): readonly Entry[] {
  const counted: (Entry & { readonly key: GrantKey })[] = [];
  const byKey = new Map(states.map((state) => [keyText(state), state]));
  const push = (key: GrantKey, atMs: number, direction: Direction, sum: { readonly units: number; readonly outcome: Entry['outcome'] }) => {
    if (sum.units > 0) counted.push({ key, gate: key.gate, atMs, direction, units: sum.units, outcome: sum.outcome });
  };
  for (const entry of snapshot) {
    const state = byKey.get(keyText(entry));
    byKey.delete(keyText(entry));
    // What a settlement below the snapshot said still outranks a passage above it.
    const isOutranked = (word: Word): boolean =>
      !word.settled && state?.words.some((other) => other.settled && (other.unit === null || other.unit === word.unit)) === true;
    const above = state?.words.filter((word) => !covered(upto, word.ledger, word.epoch, word.seq) && !isOutranked(word)) ?? [];
    push(entry, entry.atMs, entry.direction, countChanged(entry, above, state?.known === true ? state.units : 0));
  }
  for (const state of byKey.values()) {
    if (!covered(upto, state.gate, state.epoch, state.seq)) {
      // Not counted by the snapshot: every word on it counts, wherever it stands.
      const named = state.words.flatMap((word) => (word.unit === null ? [] : [word.unit]));
      const units = state.known ? upTo(state.units) : named.length === 0 ? [1] : [...new Set(named)];
      push(state, state.atMs, state.direction, countRows(units, state.words));
      continue;
    }
    // Counted by the snapshot as wholly given back. A gate never says `passed` of a unit that it has returned, so a passage above the
    // snapshot means that a settlement gave it back: only another settlement is as strong.
    const above = state.words.filter((word) => word.settled && !covered(upto, word.ledger, word.epoch, word.seq));
    const returned: Word = { ledger: state.gate, epoch: 0, seq: 0, unit: null, outcome: 'returned', settled: true };
    const named = above.flatMap((word) => (word.unit === null ? [] : [word.unit]));
    const units = state.known ? upTo(state.units) : named.length === 0 ? [1] : [...new Set(named)];
    push(state, state.atMs, state.direction, countRows(units, [...above, returned]));
  }
  return counted
    .sort((a, b) => a.atMs - b.atMs || (a.gate < b.gate ? -1 : a.gate > b.gate ? 1 : 0) || comparePositions([a.key.epoch, a.key.seq], [b.key.epoch, b.key.seq]))
    .map(({ key: _key, ...entry }) => entry);
}

// ---------------------------------------------------------------- rows → what they say

/**
 * Returns what a row says about usage; null: nothing. `state` has the grant's key, and one word or none. Total: a row that cannot be understood, or
 * is not its ledger's to write, says nothing.
 */
export function readRow(ledger: string, epoch: number, entry: Readonly<Record<string, unknown>>): GrantState | null {
  const seq = entry['seq'];
  if (typeof seq !== 'number' || !maySay(ledger, entry)) return null;
  const at = {
    eventId: text(entry['event_id']),
    ticketId: text(entry['ticket_id']),
    ticketRef: text(entry['ticket_ref']),
    direction: entry['direction'] === 'out' ? 'out' : 'in',
    atMs: correctedMs(entry),
  } as const;
  if (entry['kind'] === 'grant') {
    if (at.ticketRef === null) return null;
    return { gate: ledger, epoch, seq, known: true, ...at, units: integer(entry['units']) ?? 1, words: [] };
  }
  const of = entry['of'];
  const outcome = entry['outcome'];
  if (!Array.isArray(of) || (outcome !== 'passed' && outcome !== 'returned' && outcome !== 'stuck' && outcome !== 'unknown')) return null;
  const unit = integer(entry['unit']);
  if (entry['kind'] === 'passage') {
    const [ofEpoch, ofSeq] = of.map(integer);
    // Without a ticket it belongs to an override or to nothing: a term of its own, no ticket's usage.
    if (ofEpoch == null || ofSeq == null || at.ticketRef === null) return null;
    // An absent unit: every one, as the cloud takes it.
    const word: Word = { ledger, epoch, seq, unit, outcome, settled: false };
    return { gate: ledger, epoch: ofEpoch, seq: ofSeq, known: false, ...at, units: 1, words: [word] };
  }
  if (entry['kind'] === 'settlement' && (outcome === 'passed' || outcome === 'returned')) {
    const gate = text(of[0]);
    const [ofEpoch, ofSeq] = [integer(of[1]), integer(of[2])];
    if (gate === null || ofEpoch === null || ofSeq === null) return null;
    return { gate, epoch: ofEpoch, seq: ofSeq, known: false, ...at, units: 1, words: [{ ledger, epoch, seq, unit, outcome, settled: true }] };
  }
  return null;
}

/** Merges two readings. Order does not matter, and nothing is added twice. */
export function mergeStates(a: GrantState, b: GrantState): GrantState {
  const base = !a.known && b.known ? b : a;
  const other = base === a ? b : a;
  const words = [
    ...base.words,
    ...other.words.filter((word) => !base.words.some((own) => own.ledger === word.ledger && own.epoch === word.epoch && own.seq === word.seq)),
  ];
  const described = base.known || base.ticketRef !== null ? base : other.ticketRef !== null ? other : base;
  return { ...described, known: base.known, atMs: base.known ? base.atMs : Math.min(a.atMs, b.atMs), ticketId: described.ticketId ?? other.ticketId, words };
}

/** Unix ms of a row: boot time and offset where the writer knew it, else its wall clock; 0 where neither can be read. */
function correctedMs(entry: Readonly<Record<string, unknown>>): number {
  const boottime = entry['boottime_ms'];
  const offset = entry['clock_offset_ms'];
  if (typeof boottime === 'number' && typeof offset === 'number') return Math.round(boottime + offset);
  const wall = typeof entry['ts'] === 'string' ? Date.parse(entry['ts']) : Number.NaN;
  return Number.isNaN(wall) ? 0 : wall;
}

const text = (value: unknown): string | null => (typeof value === 'string' ? value : null);
const integer = (value: unknown): number | null => (typeof value === 'number' && Number.isSafeInteger(value) && value >= 1 ? value : null);
