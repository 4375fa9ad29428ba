/**
 * Computes how often a ticket was used, from ledgers alone. Pure: a snapshot (what a manifest counts, up to a row of each ledger), the
 * grants and words that rows above it tell, and out come the entries.
 *
 * Per unit the strongest word counts: settlement > passed > returned > stuck > unknown. A grant without a word counts from its
 * commit; stuck and unknown count as used; returned gives the unit back. What arrives twice, late or in another order changes nothing.
 */
import { maySay } from '../../contract/authority.ts';
import { originalOf, readReference } from '../../contract/identity.ts';
import type { Direction, LedgerVector, RowPosition } from '../../contract/ids.ts';
import { VERDICTS_THAT_SPEND_NOTHING } from '../../contract/ledger.ts';
import type { Entry } from '../../rules/facts.ts';

/**
 * Names a grant by its original. Two stores that parted may each have written a row of one epoch and seq, so the hash tells them apart: its first
 * 16 digits (eight bytes), or '' where what names the grant does not say it.
 */
export type GrantKey = { readonly gate: string; readonly epoch: number; readonly seq: number; readonly hash: string };
export type Position = { readonly ledger: string; readonly epoch: number; readonly seq: number };

/** One row's word on a grant: a passage of the grant's own gate, or a settlement of the cloud. */
export interface Word {
  /** Ledger that the row stands in, with its place there. */
  readonly ledger: string;
  readonly epoch: number;
  readonly seq: number;
  /** As of a grant's key. */
  readonly hash: string;
  /** Where the row was written again, the lowest place; null: nowhere that is known. */
  readonly again: Position | null;
  /** null: every unit. */
  readonly unit: number | null;
  readonly outcome: 'passed' | 'returned' | 'stuck' | 'unknown';
  readonly settled: boolean;
}

/** The rows' facts about one grant. `known`: the grant's own row was read, and not only words about it. */
export interface GrantState extends GrantKey {
  readonly known: boolean;
  readonly eventId: string | null;
  readonly ticketId: string | null;
  readonly ticketRef: string | null;
  readonly direction: Direction;
  readonly units: number;
  readonly atMs: number;
  /** Where the grant's row was written again, the lowest place; null: nowhere that is known. */
  readonly again: Position | null;
  /** The cloud's latest verdict on whether it spends its ticket at all (`foreign`, `set_aside`, or withdrawn again), and the row that says so; null: none. */
  readonly verdict: (Position & { readonly spends: boolean }) | null;
  readonly words: readonly Word[];
}

/** One counted grant of a manifest's snapshot. */
export interface SnapshotEntry extends Omit<GrantKey, 'hash'> {
  /** Absent: the snapshot names rows by number alone. */
  readonly hash?: string;
  readonly atMs: number;
  readonly direction: Direction;
  readonly units: number;
  readonly outcome: Entry['outcome'];
}

const RANK: Readonly<Record<Word['outcome'], number>> = { unknown: 1, stuck: 2, returned: 3, passed: 4 };
const SETTLED_RANK = 5;

export const keyText = (key: GrantKey): string => `${key.gate} ${key.epoch} ${key.seq} ${key.hash}`;
const isSameRow = (a: Omit<GrantKey, 'gate'>, b: Omit<GrantKey, 'gate'>): boolean =>
  a.epoch === b.epoch && a.seq === b.seq && (a.hash === b.hash || a.hash === '' || b.hash === '');

/** Tells whether a snapshot that counts `upto` of its ledger counts a row. */
export function covered(upto: LedgerVector, ledger: string, epoch: number, seq: number): boolean {
  const known = upto[ledger];
  return known !== undefined && (epoch < known[0] || (epoch === known[0] && seq <= known[1]));
}

/** Tells whether a snapshot counts a row. One that was written again is counted no earlier than its second row is: a fork's number proves nothing. */
function isCounted(upto: LedgerVector, ledger: string, row: { readonly epoch: number; readonly seq: number; readonly again: Position | null }): boolean {
  const at = row.again ?? { ledger, epoch: row.epoch, seq: row.seq };
  return covered(upto, at.ledger, at.epoch, at.seq);
}
export const isGrantCounted = (upto: LedgerVector, state: GrantState): boolean => isCounted(upto, state.gate, state);
export const isWordCounted = (upto: LedgerVector, word: Word): boolean => isCounted(upto, word.ledger, word);

export const comparePositions = (a: RowPosition | readonly [number, number], b: RowPosition | readonly [number, number]): number => a[0] - b[0] || a[1] - b[1];

/** Tells whether `a` is the stronger word. At equal strength the later row's is. */
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
  const counted: (Entry & { readonly key: Omit<GrantKey, 'hash'> })[] = [];
  const left = new Set(withWordsJoined(states));
  const push = (key: Omit<GrantKey, 'hash'>, atMs: number, direction: Direction, sum: { readonly units: number; readonly outcome: Entry['outcome'] }) => {
    if (sum.units > 0) counted.push({ key, gate: key.gate, atMs, direction, units: sum.units, outcome: sum.outcome });
  };
  for (const entry of snapshot) {
    // A snapshot without hashes names the row that stands under its own number, before one that was written again.
    const same = [...left].filter((one) => one.gate === entry.gate && isSameRow(one, { ...entry, hash: entry.hash ?? '' }));
    const state = same.find((one) => one.again === null) ?? same[0];
    if (state !== undefined) left.delete(state);
    if (state?.verdict?.spends === false) continue;
    // What a settlement below the snapshot said still outranks a passage above it.
    const isOutranked = (word: Word): boolean =>
      !word.settled && state?.words.some((other) => other.settled && (other.unit === null || other.unit === word.unit)) === true;
    const above = state?.words.filter((word) => !isWordCounted(upto, word) && !isOutranked(word)) ?? [];
    push(entry, entry.atMs, entry.direction, countChanged(entry, above, state?.known === true ? state.units : 0));
  }
  for (const state of left) {
    // Nothing but a verdict is known of it, or it spends nothing.
    if (state.verdict?.spends === false || (!state.known && state.words.length === 0)) continue;
    const { verdict } = state;
    const isSpentAnew = verdict !== null && !covered(upto, verdict.ledger, verdict.epoch, verdict.seq);
    if (isSpentAnew || !isGrantCounted(upto, state)) {
      // Not counted by the snapshot: every word on it counts, wherever it stands.
      const named = state.words.flatMap((word) => (word.unit === null ? [] : [word.unit]));
      const units = state.known ? upTo(state.units) : named.length === 0 ? [1] : [...new Set(named)];
      push(state, state.atMs, state.direction, countRows(units, state.words));
      continue;
    }
    // Counted by the snapshot as wholly given back. A gate never says `passed` of a unit that it has returned, so a passage above the
    // snapshot means that a settlement gave it back: only another settlement is as strong.
    const above = state.words.filter((word) => word.settled && !isWordCounted(upto, word));
    const returned: Word = { ledger: state.gate, epoch: 0, seq: 0, hash: '', again: null, unit: null, outcome: 'returned', settled: true };
    const named = above.flatMap((word) => (word.unit === null ? [] : [word.unit]));
    const units = state.known ? upTo(state.units) : named.length === 0 ? [1] : [...new Set(named)];
    push(state, state.atMs, state.direction, countRows(units, [...above, returned]));
  }
  return counted
    .sort((a, b) => a.atMs - b.atMs || (a.gate < b.gate ? -1 : a.gate > b.gate ? 1 : 0) || comparePositions([a.key.epoch, a.key.seq], [b.key.epoch, b.key.seq]))
    .map(({ key: _key, ...entry }) => entry);
}

/** Joins what names a grant without its hash to the grants that it may mean: of one ticket, as a rule one. */
export function withWordsJoined(states: readonly GrantState[]): readonly GrantState[] {
  const named = states.filter(({ hash }) => hash !== '');
  const bare = states.filter(({ hash }) => hash === '');
  if (bare.length === 0) return states;
  const means = (one: GrantState, state: GrantState): boolean =>
    one.gate === state.gate && isSameRow(one, state) && (one.ticketRef === null || state.ticketRef === null || one.ticketRef === state.ticketRef);
  return [
    ...named.map((state) => bare.filter((one) => means(one, state)).reduce(mergeStates, state)),
    ...bare.filter((one) => !named.some((state) => means(one, state))),
  ];
}

// ---------------------------------------------------------------- rows → what they say

/**
 * Returns what a row says about usage; null: nothing. `state` has the grant's key, and one word or none. Total: a row that cannot be understood, or
 * is not its ledger's to write, says nothing.
 */
export function readRow(ledger: string, epoch: number, entry: Readonly<Record<string, unknown>>): GrantState | null {
  const seq = entry['seq'];
  if (typeof seq !== 'number' || !maySay(ledger, entry)) return null;
  const here: Position = { ledger, epoch, seq };
  const row = originalOf({ ...here, hash: text(entry['hash']) ?? '', again: entry['again'] });
  const again = entry['again'] === undefined ? null : here;
  const at = {
    eventId: text(entry['event_id']),
    ticketId: text(entry['ticket_id']),
    ticketRef: text(entry['ticket_ref']),
    direction: entry['direction'] === 'out' ? 'out' : 'in',
    atMs: correctedMs(entry),
    again: null,
    verdict: null,
  } as const;
  if (entry['kind'] === 'grant') {
    if (at.ticketRef === null) return null;
    const key = { gate: row.ledger, epoch: row.epoch, seq: row.seq, hash: shortHash(row.hash) };
    return { ...key, known: true, ...at, again, units: integer(entry['units']) ?? 1, words: [] };
  }
  const of = readReference(row.ledger, entry['of']);
  if (of === null) return null;
  const grant = { gate: of.ledger, epoch: of.epoch, seq: of.seq, hash: shortHash(of.hash), known: false, ...at, units: 1 } as const;
  if (entry['kind'] === 'conflict') {
    const spends = verdictSpends(entry['verdict']);
    return spends === null ? null : { ...grant, words: [], verdict: { ...here, spends } };
  }
  const outcome = entry['outcome'];
  if (outcome !== 'passed' && outcome !== 'returned' && outcome !== 'stuck' && outcome !== 'unknown') return null;
  // An absent unit: every one, as the cloud takes it.
  const word: Omit<Word, 'settled'> = {
    ledger: row.ledger,
    epoch: row.epoch,
    seq: row.seq,
    hash: shortHash(row.hash),
    again,
    unit: integer(entry['unit']),
    outcome,
  };
  // Without a ticket it belongs to an override or to nothing: a term of its own, no ticket's usage. Of another ledger's grant a passage says nothing.
  if (entry['kind'] === 'passage') return at.ticketRef === null || of.ledger !== row.ledger ? null : { ...grant, words: [{ ...word, settled: false }] };
  if (entry['kind'] === 'settlement' && (outcome === 'passed' || outcome === 'returned')) return { ...grant, words: [{ ...word, settled: true }] };
  return null;
}

/** Returns whether a grant under this verdict spends its ticket; null: the verdict says nothing about that. */
function verdictSpends(verdict: unknown): boolean | null {
  if (verdict === 'withdrawn') return true;
  return (VERDICTS_THAT_SPEND_NOTHING as readonly unknown[]).includes(verdict) ? false : null;
}

/** Merges two readings. Order does not matter, and nothing is added twice. */
export function mergeStates(a: GrantState, b: GrantState): GrantState {
  const base = !a.known && b.known ? b : a;
  const other = base === a ? b : a;
  const words = other.words.reduce<readonly Word[]>(withWord, base.words);
  const described = base.known || base.ticketRef !== null ? base : other.ticketRef !== null ? other : base;
  return {
    ...described,
    known: base.known,
    atMs: base.known ? base.atMs : Math.min(a.atMs, b.atMs),
    ticketId: described.ticketId ?? other.ticketId,
    again: firstOf(a.again, b.again, a.gate),
    verdict: laterOf(a.verdict, b.verdict),
    words,
  };
}

const laterOf = (a: GrantState['verdict'], b: GrantState['verdict']): GrantState['verdict'] =>
  a === null || (b !== null && comparePositions([b.epoch, b.seq], [a.epoch, a.seq]) > 0) ? b : a;

/** Adds a word, or joins it with the same row's. */
function withWord(words: readonly Word[], word: Word): readonly Word[] {
  const at = words.findIndex((one) => one.ledger === word.ledger && isSameRow(one, word));
  const known = words[at];
  if (known === undefined) return [...words, word];
  return words.with(at, { ...known, hash: known.hash === '' ? word.hash : known.hash, again: firstOf(known.again, word.again, word.ledger) });
}

/** Orders two rows written again: the gate's own first, then the lower place. */
function firstOf(a: Position | null, b: Position | null, gate: string): Position | null {
  if (a === null || b === null) return a ?? b;
  if ((a.ledger === gate) !== (b.ledger === gate)) return a.ledger === gate ? a : b;
  return comparePositions([a.epoch, a.seq], [b.epoch, b.seq]) < 0 ? a : b;
}

/** Unix ms of a row: boot time and offset where the writer knew it, else its wall clock; 0 where neither can be read. */
function correctedMs(entry: Readonly<Record<string, unknown>>): number {
  const boottime = entry['boottime_ms'];
  const offset = entry['clock_offset_ms'];
  if (typeof boottime === 'number' && typeof offset === 'number') return Math.round(boottime + offset);
  const wall = typeof entry['ts'] === 'string' ? Date.parse(entry['ts']) : Number.NaN;
  return Number.isNaN(wall) ? 0 : wall;
}

const shortHash = (value: unknown): string => (typeof value === 'string' ? (/^[0-9a-f]{16}/.exec(value)?.[0] ?? '') : '');
const text = (value: unknown): string | null => (typeof value === 'string' ? value : null);
const integer = (value: unknown): number | null => (typeof value === 'number' && Number.isSafeInteger(value) && value >= 1 ? value : null);
