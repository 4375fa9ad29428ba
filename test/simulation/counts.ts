/**
 * The account, written a second time: from ACCOUNT.md ("Usage", "Verdicts") and the decisions that fill its gaps (0130, 0160), without a
 * look at the SQL. A function of the set of rows; slow and plain, so that a reader can check it.
 */

import { countedRows, identityKey, type NamedRow, originalOf, readReference } from '../../contract/identity.ts';

/** A row as its gate wrote it. */
export interface Row {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly hash: string;
  readonly entry: Readonly<Record<string, unknown>>;
}

/** The facts of the account about a ticket besides rows. */
export interface AccountTicket {
  readonly ticketId: string;
  readonly units: number;
  readonly vip: boolean;
  readonly maxScans: number | null;
}

/** The rules of entitlement, filled in. */
export interface AccountPolicy {
  readonly duplicateWindowS: number;
  readonly rule: 'none' | 'after_exit' | 'always';
  readonly minGapS: number;
  readonly maxReentries: number | null;
  readonly countsAsEntry: boolean;
  readonly total: number | null;
  readonly perGate: number | null;
  readonly hardPassback: boolean;
}

export type Outcome = 'open' | 'passed' | 'stuck' | 'unknown' | 'returned';
export type Verdict = 'winner' | 'reentry' | 'exit' | 'excess' | 'annulled';

/** The rows' facts about one grant. */
export interface Granted {
  readonly key: string;
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly hash: string;
  readonly eventId: string;
  readonly ticketId: string;
  readonly direction: 'in' | 'out';
  /** Outcome of each unit. */
  readonly units: readonly Outcome[];
  /** Units that count, and of those the ones that nobody is sure of. */
  readonly used: number;
  readonly uncertain: number;
  readonly outcome: Outcome;
  readonly entry: Readonly<Record<string, unknown>>;
}

interface Word {
  readonly unit: number | null;
  readonly outcome: Outcome;
  /** Rank among words: a settlement's lies above every passage's, and a later one's above an earlier one's. */
  readonly strength: readonly [number, number, number];
}

const PASSAGE_STRENGTH: Readonly<Record<string, number>> = { unknown: 1, stuck: 2, returned: 3, passed: 4 };
const SETTLEMENT_STRENGTH = 5;

/** A row as identity reads it. */
export const rowKey = (row: Row): NamedRow => ({ ledger: row.gate, epoch: row.epoch, seq: row.seq, hash: row.hash, again: row.entry['again'] });
/** One text a grant: two lives of a store may have granted under one number. */
export const keyOf = ({ gate, epoch, seq, hash }: Row): string => `${gate} ${epoch} ${seq} ${hash.slice(0, 16)}`;

/** The rows that count, each under its original's key. */
function originalsOf(rows: Iterable<Row>): Map<string, Row> {
  const named = [...rows].map((row) => ({ ...rowKey(row), row }));
  return new Map(
    [...countedRows(named)].map(([identity, one]) => {
      const { ledger, epoch, seq, hash } = originalOf(one);
      return [identity, { gate: ledger, epoch, seq, hash, entry: one.row.entry }];
    }),
  );
}

const compare = (a: readonly number[], b: readonly number[]): number => {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return (a[i] as number) - (b[i] as number);
  return 0;
};

/** Every grant among the rows, with the words that are among them too. */
export function grantsOf(rows: Iterable<Row>): Granted[] {
  const grants: [string, Row][] = [];
  const places = new Map<string, { readonly identity: string; readonly isAgain: boolean }[]>();
  const originals = originalsOf(rows);
  for (const [identity, { gate, epoch, seq, entry }] of originals)
    if (entry['kind'] === 'grant')
      places.set(`${gate} ${epoch} ${seq}`, [...(places.get(`${gate} ${epoch} ${seq}`) ?? []), { identity, isAgain: entry['again'] !== undefined }]);
  const words = new Map<string, Word[]>();
  const say = (key: string, word: Word): void => {
    const known = words.get(key);
    if (known === undefined) words.set(key, [word]);
    else known.push(word);
  };
  for (const [identity, row] of originals) {
    const { entry } = row;
    if (entry['kind'] === 'grant') grants.push([identity, row]);
    const of = readReference(row.gate, entry['of']);
    if (of === null) continue;
    // Without a hash: the grant under that number; of two lives that of the same chain, which was sent again where the word was.
    const there = places.get(`${of.ledger} ${of.epoch} ${of.seq}`) ?? [];
    const meant = there.length === 1 ? there[0] : there.find(({ isAgain }) => isAgain === (entry['again'] !== undefined));
    const named = of.hash !== null ? identityKey({ ...of, hash: of.hash }) : meant?.identity;
    if (named === undefined) continue;
    const unit = typeof entry['unit'] === 'number' ? entry['unit'] : null;
    const outcome = entry['outcome'] as Outcome;
    if (entry['kind'] === 'passage' && entry['ticket_id'] !== undefined && outcome in PASSAGE_STRENGTH)
      say(named, { unit, outcome, strength: [PASSAGE_STRENGTH[outcome] as number, 0, 0] });
    else if (entry['kind'] === 'settlement') say(named, { unit, outcome, strength: [SETTLEMENT_STRENGTH, row.epoch, row.seq] });
  }
  return grants.map(([identity, row]) => grantOf(row, words.get(identity) ?? []));
}

function grantOf(row: Row, words: readonly Word[]): Granted {
  const { entry } = row;
  const units: Outcome[] = [];
  for (let unit = 1; unit <= (entry['units'] as number); unit++) {
    let best: Word | null = null;
    for (const word of words) if ((word.unit === null || word.unit === unit) && (best === null || compare(word.strength, best.strength) > 0)) best = word;
    units.push(best === null ? 'open' : best.outcome);
  }
  const counted = units.filter((outcome) => outcome !== 'returned');
  const unsure = counted.filter((outcome) => outcome !== 'passed');
  // One word for all: the least certain of those that count.
  const outcome = counted.length === 0 ? 'returned' : ((['open', 'unknown', 'stuck'] as const).find((one) => unsure.includes(one)) ?? 'passed');
  return {
    key: keyOf(row),
    gate: row.gate,
    epoch: row.epoch,
    seq: row.seq,
    hash: row.hash,
    eventId: String(entry['event_id']),
    ticketId: String(entry['ticket_id']),
    direction: entry['direction'] === 'out' ? 'out' : 'in',
    units,
    used: counted.length,
    uncertain: unsure.length,
    outcome,
    entry,
  };
}

// ---------------------------------------------------------------- time

/** Unix ms: where a row lies, and the middle that ranks it. */
export interface Place {
  readonly lowMs: number;
  readonly atMs: number;
  readonly highMs: number;
  /** By a measured offset. */
  readonly placed: boolean;
}

interface Boot {
  readonly rows: Row[];
  best: { readonly offsetMs: number; readonly boundMs: number } | null;
}

/** Places each row of one gate in time: by its boot's offset of the smallest bound; without any, between its neighbours in the chain. */
export function placesOf(rows: readonly Row[]): (row: Row) => Place {
  const boots = new Map<string, Boot>();
  for (const row of [...rows].sort((a, b) => a.epoch - b.epoch || a.seq - b.seq)) {
    const { boot_id, clock_offset_ms: offsetMs, clock_bound_ms: boundMs } = row.entry as { boot_id: string; clock_offset_ms?: number; clock_bound_ms?: number };
    const boot = boots.get(boot_id) ?? { rows: [], best: null };
    boots.set(boot_id, boot);
    boot.rows.push(row);
    // The lowest position on a tie: rows come in order, so only a smaller bound replaces.
    if (offsetMs !== undefined && boundMs !== undefined && (boot.best === null || boundMs < boot.best.boundMs)) boot.best = { offsetMs, boundMs };
  }
  const ordered = [...boots.values()];
  const boottimes = (boot: Boot): number[] => boot.rows.map((row) => Number(row.entry['boottime_ms']));
  const first = (boot: Boot): readonly number[] => [(boot.rows[0] as Row).epoch, (boot.rows[0] as Row).seq];
  const last = (boot: Boot): readonly number[] => [(boot.rows.at(-1) as Row).epoch, (boot.rows.at(-1) as Row).seq];
  return (row) => {
    const boot = boots.get(String(row.entry['boot_id'])) as Boot;
    const boottime = Number(row.entry['boottime_ms']);
    if (boot.best !== null) {
      const { offsetMs, boundMs } = boot.best;
      return { lowMs: offsetMs + boottime - boundMs, atMs: offsetMs + boottime, highMs: offsetMs + boottime + boundMs, placed: true };
    }
    let before: Boot | null = null;
    let after: Boot | null = null;
    for (const one of ordered) {
      if (one.best === null) continue;
      if (compare(last(one), first(boot)) < 0 && (before === null || compare(last(one), last(before)) > 0)) before = one;
      if (compare(first(one), last(boot)) > 0 && (after === null || compare(first(one), first(after)) < 0)) after = one;
    }
    const afterMs = before?.best == null ? null : before.best.offsetMs + Math.max(...boottimes(before)) - before.best.boundMs;
    const found = after?.best == null ? null : after.best.offsetMs + Math.min(...boottimes(after)) + after.best.boundMs;
    const beforeMs = found === null || afterMs === null ? found : Math.max(found, afterMs);
    const wallMs = Date.parse(String(row.entry['ts']));
    const atMs =
      afterMs !== null && beforeMs !== null
        ? (afterMs + beforeMs) / 2
        : Math.max(Math.min(wallMs, beforeMs ?? Number.POSITIVE_INFINITY), afterMs ?? Number.NEGATIVE_INFINITY);
    return { lowMs: afterMs ?? Number.NEGATIVE_INFINITY, atMs, highMs: beforeMs ?? Number.POSITIVE_INFINITY, placed: false };
  };
}

// ---------------------------------------------------------------- entitlement

/** One use, as a replay takes it. */
export interface Use {
  readonly gate: string;
  readonly direction: 'in' | 'out';
  readonly used: number;
  readonly atMs: number;
}

/** The state of one ticket while its uses are replayed in order. */
export interface Replay {
  visits: number;
  inside: number;
  expected: number;
  lastInMs: number | null;
  readonly gates: string[];
  entered: boolean;
}
export const newReplay = (): Replay => ({ visits: 0, inside: 0, expected: 0, lastInMs: null, gates: [], entered: false });

/** Returns the reason why this use is beyond the ticket's right, in the order of the rules; null when it is within. Changes nothing. */
export function excessOf(replay: Replay, use: Use, ticket: AccountTicket, policy: AccountPolicy): string | null {
  if (use.direction === 'out') return replay.inside > 0 || !policy.hardPassback ? null : 'passback';
  if (replay.visits === 0 || replay.expected > 0 || ticket.vip) return null;
  const allowance = ticket.maxScans ?? policy.total ?? (policy.rule === 'none' ? 1 : null);
  if (allowance !== null && (policy.rule === 'none' || policy.countsAsEntry) && replay.visits >= allowance)
    return allowance === 1 ? 'already_redeemed' : 'max_entries';
  if (policy.rule === 'after_exit' && replay.inside >= ticket.units) return 'already_inside';
  if (policy.maxReentries !== null && replay.visits - 1 >= policy.maxReentries) return policy.maxReentries === 0 ? 'already_redeemed' : 'max_entries';
  if (policy.perGate !== null && replay.gates.filter((gate) => gate === use.gate).length >= policy.perGate) return 'max_entries';
  if (policy.hardPassback && replay.inside >= ticket.units) return 'passback';
  if (replay.lastInMs !== null && use.atMs - replay.lastInMs < 1000 * Math.max(policy.duplicateWindowS, policy.minGapS)) return 'gap';
  return null;
}

/** Takes a use that is within its right. */
export function take(replay: Replay, use: Use, ticket: AccountTicket): 'winner' | 'reentry' | 'exit' {
  if (use.direction === 'out') {
    replay.inside = Math.max(0, replay.inside - use.used);
    replay.expected = 0;
    return 'exit';
  }
  const verdict = replay.entered ? 'reentry' : 'winner';
  replay.entered = true;
  if (replay.expected === 0) {
    replay.visits += 1;
    replay.expected = ticket.units;
    replay.gates.push(use.gate);
  }
  replay.expected = Math.max(0, replay.expected - use.used);
  replay.inside += use.used;
  replay.lastInMs = use.atMs;
  return verdict;
}

// ---------------------------------------------------------------- verdicts

export interface Judged extends Granted, Place {
  readonly verdict: Verdict;
  readonly cause: string | null;
  readonly overlapping: boolean;
}

export interface IngestCounts {
  /** By ticket, in rank order. */
  readonly tickets: ReadonlyMap<string, readonly Judged[]>;
  readonly counts: ReadonlyMap<string, Counts>;
}
export interface Counts {
  grants: number;
  winners: number;
  reentries: number;
  exits: number;
  excess: number;
  annulled: number;
  entered: number;
  exited: number;
  uncertain: number;
  free: number;
  forced: number;
  overrides: number;
  refusals: number;
  freeOut: number;
  forcedOut: number;
  overridesOut: number;
}
const noCounts = (): Counts => ({
  grants: 0,
  winners: 0,
  reentries: 0,
  exits: 0,
  excess: 0,
  annulled: 0,
  entered: 0,
  exited: 0,
  uncertain: 0,
  free: 0,
  forced: 0,
  overrides: 0,
  refusals: 0,
  freeOut: 0,
  forcedOut: 0,
  overridesOut: 0,
});
const COUNTED = { winner: 'winners', reentry: 'reentries', exit: 'exits', excess: 'excess', annulled: 'annulled' } as const;

/** Rank: the middle of the corrected time, then gate, epoch, seq. */
export const byRank = (a: Granted & Place, b: Granted & Place): number =>
  a.atMs - b.atMs || (a.gate < b.gate ? -1 : a.gate > b.gate ? 1 : 0) || a.epoch - b.epoch || a.seq - b.seq || (a.hash < b.hash ? -1 : 1);

/** Verdicts and sums of a set of rows. `ticketOf` null: a ticket that the cloud does not know. */
export function accountOf(rows: readonly Row[], ticketOf: (ticketId: string) => AccountTicket | null, policy: AccountPolicy): IngestCounts {
  const places = new Map([...Map.groupBy(rows, (row) => row.gate)].map(([gate, own]) => [gate, placesOf(own)]));
  const placed = grantsOf(rows).map((grant) => ({ ...grant, ...(places.get(grant.gate) as (row: Row) => Place)(grant) }));
  const counts = new Map<string, Counts>();
  const count = (gate: string, eventId: string): Counts => {
    const key = `${gate} ${eventId}`;
    const known = counts.get(key) ?? noCounts();
    counts.set(key, known);
    return known;
  };
  const tickets = new Map<string, readonly Judged[]>();
  for (const [ticketId, own] of Map.groupBy(placed, (grant) => grant.ticketId)) {
    const judged = judge(own.sort(byRank), ticketOf(ticketId), policy);
    tickets.set(ticketId, judged);
    for (const one of judged) {
      const checksums = count(one.gate, one.eventId);
      checksums.grants += 1;
      checksums[COUNTED[one.verdict]] += 1;
      checksums[one.direction === 'in' ? 'entered' : 'exited'] += one.used;
      checksums.uncertain += one.uncertain;
    }
  }
  for (const { gate, entry } of rows) {
    const eventId = String(entry['event_id'] ?? '');
    if (entry['kind'] === 'refusal') count(gate, eventId).refusals += 1;
    if (entry['kind'] !== 'passage' || entry['ticket_id'] !== undefined) continue;
    const term =
      entry['outcome'] === 'free' || entry['outcome'] === 'forced'
        ? entry['outcome']
        : entry['of'] !== undefined && entry['outcome'] !== 'returned'
          ? 'overrides'
          : null;
    if (term === null) continue;
    const checksums = count(gate, eventId);
    checksums[term] += 1;
    if (entry['direction'] === 'out') checksums[`${term}Out`] += 1;
  }
  return { tickets, counts };
}

function judge(ranked: readonly (Granted & Place)[], ticket: AccountTicket | null, policy: AccountPolicy): Judged[] {
  const replay = newReplay();
  let party = ticket;
  return ranked.map((grant) => {
    const overlapping =
      grant.used > 0 && ranked.some((other) => other !== grant && other.used > 0 && other.lowMs <= grant.highMs && grant.lowMs <= other.highMs);
    if (grant.used === 0) return { ...grant, verdict: 'annulled', cause: null, overlapping };
    party ??= { ticketId: grant.ticketId, units: grant.units.length, vip: false, maxScans: null };
    const cause = excessOf(replay, grant, party, policy);
    return { ...grant, verdict: cause === null ? take(replay, grant, party) : 'excess', cause, overlapping };
  });
}
