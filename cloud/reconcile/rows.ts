/**
 * Rows into the account: from the wire's JSON to reconcile_ledger, and the check of their hash chain.
 * What counts is decided in SQL (migrations 0003 and 0004); this file reads and hands over.
 */
import { createHash } from 'node:crypto';
import { entryHash, firstPredecessor, type Sha256Text } from '../../contract/chain.ts';
import { EntryKey, LedgerEntry } from '../../contract/ledger.ts';
import type { DatabaseClient } from '../database.ts';

export const sha256: Sha256Text = (text) => createHash('sha256').update(text).digest('hex');

/** Rows in one call: a larger batch is the caller's to split. */
export const MAX_ROWS_PER_CALL = 10_000;

/** One row of one ledger, read as far as it can be. Made by `readRow`. */
export interface LedgerRow {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  /** Lowercase hex. */
  readonly hash: string;
  /** Every field as it came, `hash` included. */
  readonly entry: Readonly<Record<string, unknown>>;
  /** The entry where it is of a known kind and as that kind should be; else null: it is kept, and says nothing. */
  readonly known: LedgerEntry | null;
}

/** null: not even key and hash can be read, so it has no place in the sequence. */
export function readRow(gate: string, epoch: number, entry: unknown): LedgerRow | null {
  const key = EntryKey.safeParse(entry);
  if (!key.success) return null;
  const known = LedgerEntry.safeParse(entry);
  return { gate, epoch, seq: key.data.seq, hash: key.data.hash, entry: key.data, known: known.success ? known.data : null };
}

/** [gate, epoch, seq] of a row. */
export type RowKey = readonly [gate: string, epoch: number, seq: number];

export interface Reconciled {
  /** Rows that are new, and rows that were there already. */
  readonly stored: number;
  readonly duplicates: number;
  /** Stored under another hash: quarantined, not acknowledged, alert `clone`. */
  readonly clones: readonly RowKey[];
  /** New breaks of a hash chain: flagged in ledger_breaks and by the alert `ledger`; the rows are stored and count. */
  readonly breaks: readonly RowKey[];
}

/**
 * Appends what is new of these rows, any gates of the client's tenant, and judges what they touch; all in the
 * caller's transaction. The same rows again change nothing. Never fails because of what a row or a ticket says;
 * fails when a gate's site is not the tenant's (foreign key), or when PostgreSQL does.
 */
export async function reconcile(client: DatabaseClient, rows: readonly LedgerRow[]): Promise<Reconciled> {
  if (rows.length === 0) return { stored: 0, duplicates: 0, clones: [], breaks: [] };
  if (rows.length > MAX_ROWS_PER_CALL) throw new RangeError(`${rows.length} rows, at most ${MAX_ROWS_PER_CALL} in one call`);
  const sorted = [...rows].sort((a, b) => (a.gate < b.gate ? -1 : a.gate > b.gate ? 1 : a.epoch - b.epoch || a.seq - b.seq));
  const answer = await client.query<{ outcome: Outcome }>('SELECT reconcile_ledger($1::jsonb) AS outcome', [JSON.stringify(sorted.map(toInput))]);
  const outcome = (answer.rows[0] as { outcome: Outcome }).outcome;
  const broken = new Map<string, RowKey>();
  for (const key of breaksWithin(sorted)) broken.set(key.join('/'), key);
  for (const edge of outcome.edges) {
    if (!follows(edge.previous, edge.hash, JSON.parse(edge.entry) as Record<string, unknown>))
      broken.set(`${edge.gate}/${edge.epoch}/${edge.seq}`, [edge.gate, edge.epoch, edge.seq]);
  }
  const cloned = new Set(outcome.clones.map((key) => key.join('/')));
  const breaks = [...broken.values()].filter((key) => !cloned.has(key.join('/')));
  return {
    stored: outcome.stored,
    duplicates: outcome.duplicates,
    clones: outcome.clones,
    breaks: breaks.length === 0 ? [] : await flagBreaks(client, breaks),
  };
}

interface Outcome {
  readonly stored: number;
  readonly duplicates: number;
  readonly clones: RowKey[];
  readonly edges: {
    readonly gate: string;
    readonly epoch: number;
    readonly seq: number;
    readonly previous: string;
    readonly hash: string;
    readonly entry: string;
  }[];
}

/** Does a row carry the hash that its predecessor and its contents give? */
function follows(previous: string, hash: string, entry: Readonly<Record<string, unknown>>): boolean {
  try {
    return entryHash(sha256, previous, entry) === hash;
  } catch {
    return false;
  }
}

/** Rows of one batch that stand beside each other, and first rows of an epoch. */
function breaksWithin(sorted: readonly LedgerRow[]): RowKey[] {
  const breaks: RowKey[] = [];
  let before: LedgerRow | undefined;
  for (const row of sorted) {
    const adjacent = before !== undefined && before.gate === row.gate && before.epoch === row.epoch && before.seq === row.seq - 1;
    const previous = row.seq === 1 ? firstPredecessor(sha256, row.gate, row.epoch) : adjacent ? (before as LedgerRow).hash : null;
    if (previous !== null && !follows(previous, row.hash, row.entry)) breaks.push([row.gate, row.epoch, row.seq]);
    before = row;
  }
  return breaks;
}

/** Answers the breaks that were not known before. Those of rows that are not stored (a clone's neighbour) are left out. */
async function flagBreaks(client: DatabaseClient, breaks: readonly RowKey[]): Promise<RowKey[]> {
  const { rows } = await client.query<{ gate: string; epoch: number; seq: number }>('SELECT * FROM flag_chain_breaks($1::text[], $2::bigint[], $3::bigint[])', [
    breaks.map(([gate]) => gate),
    breaks.map(([, epoch]) => epoch),
    breaks.map(([, , seq]) => seq),
  ]);
  return rows.map(({ gate, epoch, seq }) => [gate, epoch, seq]);
}

const PLAIN_KIND = /^[a-z_]{1,32}$/;
const PLAIN_BOOT = /^[\x21-\x7e]{1,64}$/;

/** The fields of ledger_input. Only what the schemas have checked reaches a typed field, so that no text can make PostgreSQL refuse the batch. */
function toInput(row: LedgerRow): Record<string, unknown> {
  const { hash, ...entry } = row.entry;
  const kind = typeof entry['kind'] === 'string' && PLAIN_KIND.test(entry['kind']) ? entry['kind'] : 'unknown';
  const input: Record<string, unknown> = {
    gate: row.gate,
    epoch: row.epoch,
    seq: row.seq,
    hash,
    kind,
    readable: row.known !== null,
    entry: JSON.stringify(entry),
  };
  const known = row.known;
  if (known === null) return input;
  Object.assign(input, { ts: known.ts, boottime_ms: known.boottime_ms, ...(PLAIN_BOOT.test(known.boot_id) ? { boot_id: known.boot_id } : {}) });
  if (known.clock_offset_ms !== undefined && known.clock_bound_ms !== undefined)
    Object.assign(input, { offset_ms: known.clock_offset_ms, bound_ms: known.clock_bound_ms });
  switch (known.kind) {
    case 'grant':
      return Object.assign(input, {
        event_id: known.event_id,
        ticket_id: known.ticket_id,
        ticket_ref: known.ticket_ref,
        direction: known.direction,
        units: known.units,
        manifest_version: known.manifest_version,
      });
    case 'refusal':
    case 'conflict':
      return Object.assign(input, { event_id: known.event_id, ticket_id: known.ticket_id });
    case 'passage':
      return Object.assign(input, {
        event_id: known.event_id,
        ticket_id: known.ticket_id,
        direction: known.direction,
        unit: known.unit,
        outcome: known.outcome,
        ...(known.of === undefined ? {} : { of_epoch: known.of[0], of_seq: known.of[1] }),
      });
    case 'settlement':
      return Object.assign(input, {
        event_id: known.event_id,
        ticket_id: known.ticket_id,
        direction: known.direction,
        unit: known.unit,
        outcome: known.outcome,
        of_gate: known.of[0],
        of_epoch: known.of[1],
        of_seq: known.of[2],
      });
    default:
      return input;
  }
}
