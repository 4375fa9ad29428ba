/** Reconciles rows: computes their hash chain and encodes them for reconcile_columns. SQL decides what follows and what counts (cloud/db/functions/reconcile). */
import { hash } from 'node:crypto';
import { firstPredecessor, type Sha256Text } from '../../contract/hash-chain.ts';
import { type DatabaseClient, isTransient } from '../db/database.ts';
import { type LedgerRow, type RowKey, readRow } from './row.ts';
import { columnsOf, FORGET_COLUMNS_SQL, forgetColumnsOf, type KeptText, keptText, RECONCILE_COLUMNS, RECOUNT_COLUMNS } from './row-arrays.ts';

export const sha256: Sha256Text = (text) => hash('sha256', text, 'hex');

/** Rows in one call; more is a RangeError: the caller splits its batch. */
export const MAX_ROWS_PER_CALL = 10_000;

/** Rows whose hashes are checked in one turn of the loop: less than a millisecond. */
const CHAIN_SLICE_ROWS = 250;

export interface Reconciled {
  /** Rows that are new, and rows that were stored already. */
  readonly stored: number;
  readonly duplicates: number;
  /** Rows that do not follow what is stored: kept in forked_rows, counted nowhere, not acknowledged. */
  readonly forked: readonly RowKey[];
  /** With `acceptBroken`, new breaks of a hash chain: flagged in ledger_breaks and by the alert `ledger`; the rows are stored and count. */
  readonly breaks: readonly RowKey[];
}

export interface ReconcileOptions {
  /** Stores rows that do not follow: for a chain that a person accepts broken (`import --ledger --accept-broken`). */
  readonly acceptBroken?: boolean;
}

const NOTHING: Reconciled = { stored: 0, duplicates: 0, forked: [], breaks: [] };

/**
 * Stores the rows that follow, of any gates of the client's tenant, and judges the tickets that they concern; all in the caller's transaction. Repeated
 * rows change nothing. Never fails because of the contents of a row or a ticket; fails when a gate's site is not the tenant's (foreign key), or
 * when PostgreSQL does.
 */
export async function reconcile(client: DatabaseClient, rows: readonly LedgerRow[], options: ReconcileOptions = {}): Promise<Reconciled> {
  if (rows.length === 0) return NOTHING;
  if (rows.length > MAX_ROWS_PER_CALL) throw new RangeError(`${rows.length} rows, at most ${MAX_ROWS_PER_CALL} in one call`);
  let done = NOTHING;
  for (const layer of layersOf(rows)) done = sum(done, await reconcileLayer(client, layer, options.acceptBroken === true));
  return { ...done, duplicates: rows.length - done.stored - done.forked.length };
}

/** Sorts rows by ledger, epoch and seq. A key that comes again with another hash goes to a further layer, as it came later; with the same hash it is left out. */
function layersOf(rows: readonly LedgerRow[]): LedgerRow[][] {
  const sorted = [...rows].sort((a, b) => (a.gate < b.gate ? -1 : a.gate > b.gate ? 1 : a.epoch - b.epoch || a.seq - b.seq));
  const layers: LedgerRow[][] = [[]];
  let same: LedgerRow[] = [];
  for (const row of sorted) {
    const [first] = same;
    if (first === undefined || first.gate !== row.gate || first.epoch !== row.epoch || first.seq !== row.seq) same = [];
    if (same.some(({ hash: known }) => known === row.hash)) continue;
    let layer = layers[same.length];
    if (layer === undefined) {
      layer = [];
      layers.push(layer);
    }
    layer.push(row);
    same.push(row);
  }
  return layers;
}

/** Reconciles sorted rows without a key twice. */
async function reconcileLayer(client: DatabaseClient, rows: readonly LedgerRow[], acceptBroken: boolean): Promise<Reconciled> {
  const texts = rows.map(({ entry }) => keptText(entry));
  const chained = await chainedOf(rows, texts);
  const answer = await client.query<{ outcome: Outcome }>(RECONCILE_COLUMNS, [...columnsOf(rows, texts, chained), acceptBroken]);
  const { apart, ...outcome } = (answer.rows[0] as { outcome: Outcome }).outcome;
  if (apart.length > 0) await forget(client, apart);
  return outcome;
}

function sum(one: Reconciled, other: Reconciled): Reconciled {
  return {
    stored: one.stored + other.stored,
    duplicates: one.duplicates + other.duplicates,
    forked: [...one.forked, ...other.forked],
    breaks: [...one.breaks, ...other.breaks],
  };
}

/** Takes rows out of the account that left ledger_rows: keeps them as forks, takes off what they counted, and counts the rest of their tickets anew. */
async function forget(client: DatabaseClient, apart: readonly StoredRow[]): Promise<void> {
  const rows = apart.map(rowOf);
  const again = <T>(of: (original: NonNullable<LedgerRow['again']>) => T) => rows.map(({ again: original }) => (original === null ? null : of(original)));
  const { rows: answers } = await client.query<{ outcome: Forgotten }>(FORGET_COLUMNS_SQL, forgetColumnsOf(rows));
  const { events, tickets, rows: left } = (answers[0] as { outcome: Forgotten }).outcome;
  await client.query(
    "SELECT keep_forked_rows($1::text[], $2::bigint[], $3::bigint[], (SELECT array_agg(decode(h, 'hex') ORDER BY p) FROM unnest($4::text[]) WITH ORDINALITY AS x (h, p)), $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[], (SELECT array_agg(decode(h, 'hex') ORDER BY p) FROM unnest($10::text[]) WITH ORDINALITY AS x (h, p)))",
    [
      rows.map(({ gate }) => gate),
      rows.map(({ epoch }) => epoch),
      rows.map(({ seq }) => seq),
      rows.map((row) => row.hash),
      rows.map(({ entry }) => String(entry['kind'])),
      apart.map(({ entry }) => entry),
      again(({ ledger }) => ledger),
      again(({ epoch }) => epoch),
      again(({ seq }) => seq),
      again((original) => original.hash),
    ],
  );
  const [still = []] = layersOf(left.map(rowOf));
  if (still.length > 0) await client.query(RECOUNT_COLUMNS, columnsOf(still));
  if (tickets.length > 0) await client.query('SELECT judge_tickets($1::text[], $2::text[])', [events, tickets]);
}

function rowOf({ gate, epoch, seq, hash: own, entry }: StoredRow): LedgerRow {
  const fields = { ...(JSON.parse(entry) as Record<string, unknown>), hash: own };
  return readRow(gate, epoch, fields) ?? { gate, epoch, seq, hash: own, entry: fields, known: null, again: null };
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
    return sum(before, after);
  }
}

interface StoredRow {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly hash: string;
  /** Without its hash. */
  readonly entry: string;
}
interface Forgotten {
  readonly events: string[];
  readonly tickets: string[];
  readonly rows: StoredRow[];
}
interface Outcome extends Reconciled {
  /** Rows that left the account. */
  readonly apart: StoredRow[];
}

/**
 * Returns for each row whether its hash is that of the row before it; null where that one is not there. In slices, so that no other work waits long.
 */
async function chainedOf(sorted: readonly LedgerRow[], texts: readonly KeptText[]): Promise<(boolean | null)[]> {
  const chained: (boolean | null)[] = [];
  let before: LedgerRow | undefined;
  for (const [index, row] of sorted.entries()) {
    if (index % CHAIN_SLICE_ROWS === CHAIN_SLICE_ROWS - 1) await new Promise(setImmediate);
    const adjacent = before !== undefined && before.gate === row.gate && before.epoch === row.epoch && before.seq === row.seq - 1;
    const previous = row.seq === 1 ? firstPredecessor(sha256, row.gate, row.epoch) : adjacent ? (before as LedgerRow).hash : null;
    const { text, canonical } = texts[index] as KeptText;
    chained.push(previous === null ? null : canonical && sha256(previous + text) === row.hash);
    before = row;
  }
  return chained;
}
