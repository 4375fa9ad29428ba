/** Reconciles rows: encodes them for reconcile_columns and checks their hash chain. SQL decides what counts (cloud/db/functions/reconcile). */
import { hash } from 'node:crypto';
import { entryHash, firstPredecessor, type Sha256Text } from '../../contract/hash-chain.ts';
import { type DatabaseClient, isTransient } from '../db/database.ts';
import type { LedgerRow, RowKey } from './row.ts';
import { columnsOf, type KeptText, keptText, RECONCILE_COLUMNS } from './row-arrays.ts';

export const sha256: Sha256Text = (text) => hash('sha256', text, 'hex');

/** Rows in one call; more is a RangeError: the caller splits its batch. */
export const MAX_ROWS_PER_CALL = 10_000;

/** Rows whose hashes are checked in one turn of the loop: less than a millisecond. */
const CHAIN_SLICE_ROWS = 250;

export interface Reconciled {
  /** Rows that are new, and rows that were stored already. */
  readonly stored: number;
  readonly duplicates: number;
  /** Stored under another hash: quarantined, not acknowledged, alert `clone`. */
  readonly clones: readonly RowKey[];
  /** New breaks of a hash chain: flagged in ledger_breaks and by the alert `ledger`; the rows are stored and count. */
  readonly breaks: readonly RowKey[];
}

/**
 * Appends the new rows, of any gates of the client's tenant, and judges the tickets that they concern; all in the caller's transaction. Repeated
 * rows change nothing. Never fails because of the contents of a row or a ticket; fails when a gate's site is not the tenant's (foreign key), or
 * when PostgreSQL does.
 */
export async function reconcile(client: DatabaseClient, rows: readonly LedgerRow[]): Promise<Reconciled> {
  if (rows.length === 0) return { stored: 0, duplicates: 0, clones: [], breaks: [] };
  if (rows.length > MAX_ROWS_PER_CALL) throw new RangeError(`${rows.length} rows, at most ${MAX_ROWS_PER_CALL} in one call`);
  const sorted = [...rows].sort((a, b) => (a.gate < b.gate ? -1 : a.gate > b.gate ? 1 : a.epoch - b.epoch || a.seq - b.seq));
  const texts = sorted.map(({ entry }) => keptText(entry));
  // The chain is checked while PostgreSQL works.
  const [answer, within] = await Promise.all([client.query<{ outcome: Outcome }>(RECONCILE_COLUMNS, columnsOf(sorted, texts)), breaksWithin(sorted, texts)]);
  const outcome = (answer.rows[0] as { outcome: Outcome }).outcome;
  const broken = new Map<string, RowKey>();
  for (const key of within) broken.set(key.join('/'), key);
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

/**
 * Reconciles rows that PostgreSQL refused together: splits in halves until the refused row is alone. Such a row is stored without effect, so that
 * its gate need not publish it for ever; where even that is impossible (no such site), it fails as `reconcile` does.
 */
export async function reconcileEach(client: DatabaseClient, rows: readonly LedgerRow[]): Promise<Reconciled> {
  await client.query('SAVEPOINT some_rows');
  try {
    const done = await reconcile(client, rows);
    await client.query('RELEASE SAVEPOINT some_rows');
    return done;
  } catch (error) {
    const [first] = rows;
    if (isTransient(error) || first === undefined || (rows.length === 1 && first.known === null)) throw error;
    await client.query('ROLLBACK TO SAVEPOINT some_rows');
    await client.query('RELEASE SAVEPOINT some_rows');
    if (rows.length === 1) return reconcileEach(client, [{ ...first, known: null }]);
    const middle = Math.ceil(rows.length / 2);
    const before = await reconcileEach(client, rows.slice(0, middle));
    const after = await reconcileEach(client, rows.slice(middle));
    return {
      stored: before.stored + after.stored,
      duplicates: before.duplicates + after.duplicates,
      clones: [...before.clones, ...after.clones],
      breaks: [...before.breaks, ...after.breaks],
    };
  }
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

/** Returns whether a row carries the hash of its predecessor and its contents. */
function follows(previous: string, hash: string, entry: Readonly<Record<string, unknown>>): boolean {
  try {
    return entryHash(sha256, previous, entry) === hash;
  } catch {
    return false;
  }
}

/**
 * Checks adjacent rows of one batch, and first rows of an epoch. In slices, so that the batch leaves for PostgreSQL meanwhile, and no other work
 * waits long.
 */
async function breaksWithin(sorted: readonly LedgerRow[], texts: readonly KeptText[]): Promise<RowKey[]> {
  const breaks: RowKey[] = [];
  let before: LedgerRow | undefined;
  for (const [index, row] of sorted.entries()) {
    if (index % CHAIN_SLICE_ROWS === 0) await new Promise(setImmediate);
    const adjacent = before !== undefined && before.gate === row.gate && before.epoch === row.epoch && before.seq === row.seq - 1;
    const previous = row.seq === 1 ? firstPredecessor(sha256, row.gate, row.epoch) : adjacent ? (before as LedgerRow).hash : null;
    const { text, canonical } = texts[index] as KeptText;
    if (previous !== null && !(canonical && sha256(previous + text) === row.hash)) breaks.push([row.gate, row.epoch, row.seq]);
    before = row;
  }
  return breaks;
}

/** Flags breaks and returns those that are new. Breaks of rows that are not stored (a clone's neighbour) are left out. */
async function flagBreaks(client: DatabaseClient, breaks: readonly RowKey[]): Promise<RowKey[]> {
  const { rows } = await client.query<{ gate: string; epoch: number; seq: number }>('SELECT * FROM flag_chain_breaks($1::text[], $2::bigint[], $3::bigint[])', [
    breaks.map(([gate]) => gate),
    breaks.map(([, epoch]) => epoch),
    breaks.map(([, , seq]) => seq),
  ]);
  return rows.map(({ gate, epoch, seq }) => [gate, epoch, seq]);
}
