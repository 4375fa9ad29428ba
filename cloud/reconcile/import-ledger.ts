/**
 * Imports the export of a dead gate: checks the lines that `stile-gate ledger export` wrote as a whole before the first row, then reconciles them
 * like rows from the wire. A repeated import changes nothing.
 */
import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import { GateName } from '../../contract/ids.ts';
import { LedgerMessage } from '../../contract/ledger.ts';
import { MAX_PAYLOAD_BYTES } from '../../contract/limits.ts';
import { describeIssue } from '../../contract/schema-errors.ts';
import type { Database } from '../db/database.ts';
import { reconcile, sha256 } from './reconcile.ts';
import { type LedgerRow, type RowKey, readRow } from './row.ts';

/** Rows of one transaction. */
const BATCH_ROWS = 1_000;
/** Problems that are listed; further ones are counted. */
const MAX_LISTED_PROBLEMS = 20;

export interface LedgerImport {
  readonly gate: string;
  readonly rows: number;
  readonly stored: number;
  readonly duplicates: number;
  /** Rows that do not follow what is stored: kept apart, none of them counts. */
  readonly forked: readonly RowKey[];
  /** Breaks of the hash chain: flagged, and the rows count. */
  readonly breaks: readonly RowKey[];
  readonly epochs: readonly { readonly epoch: number; readonly from: number; readonly upto: number }[];
}

/** The file is no ledger of a gate of this tenant; nothing was imported. `problems` has the places. */
export class LedgerFileError extends Error {
  override name = 'LedgerFileError';
  readonly problems: readonly string[];
  constructor(message: string, problems: readonly string[] = []) {
    super([message, ...problems].join('\n'));
    this.problems = problems;
  }
}

export interface LedgerImportOptions {
  readonly database: Database;
  readonly tenantId: string;
  readonly path: string;
  /** The gate that the ledger must belong to; absent: the file names it. */
  readonly gate?: string | undefined;
  /** Imports despite a broken chain: its breaks are flagged. */
  readonly acceptBroken?: boolean;
}

/** Throws LedgerFileError, and PostgreSQL's errors; committed batches then stay, and the file can be imported again. */
export async function importLedger(options: LedgerImportOptions): Promise<LedgerImport> {
  const { database, tenantId, path } = options;
  const checked = await checkFile(path);
  if (options.gate !== undefined && checked.gate !== options.gate)
    throw new LedgerFileError(`${path} is the ledger of ${checked.gate}, not of ${options.gate}`);
  const known = await database.withTenant(tenantId, (client) => client.query('SELECT 1 FROM devices WHERE name = $1', [checked.gate]));
  if (known.rowCount === 0) throw new LedgerFileError(`${path} is the ledger of ${checked.gate}, and this tenant has no such gate: nothing was taken in`);
  if (checked.problems.length > 0 && options.acceptBroken !== true)
    throw new LedgerFileError(`${path}: the ledger of ${checked.gate} does not hold; nothing was taken in`, checked.problems);

  const totals = { rows: 0, stored: 0, duplicates: 0, forked: [] as RowKey[], breaks: [] as RowKey[] };
  let batch: LedgerRow[] = [];
  const write = async () => {
    if (batch.length === 0) return;
    const rows = batch;
    batch = [];
    const done = await database.withTenant(tenantId, (client) => reconcile(client, rows, { acceptBroken: options.acceptBroken === true }));
    totals.rows += rows.length;
    totals.stored += done.stored;
    totals.duplicates += done.duplicates;
    totals.forked.push(...done.forked);
    totals.breaks.push(...done.breaks);
  };
  for await (const row of rowsOf(path)) {
    batch.push(row);
    if (batch.length >= BATCH_ROWS) await write();
  }
  await write();
  return { gate: checked.gate, epochs: checked.epochs, ...totals };
}

interface Checked {
  readonly gate: string;
  readonly epochs: { epoch: number; from: number; upto: number }[];
  /** Problems with numbers and hashes. */
  readonly problems: readonly string[];
}

/** Checks identity and chain of the whole file. Epochs may begin above 1, where the gate had pruned acknowledged rows. */
async function checkFile(path: string): Promise<Checked> {
  const problems: string[] = [];
  let wrong = 0;
  const bad = (text: string) => {
    wrong += 1;
    if (problems.length < MAX_LISTED_PROBLEMS) problems.push(text);
  };
  const epochs: Checked['epochs'] = [];
  let gate: string | null = null;
  let previous: string | null = null;
  for await (const row of rowsOf(path)) {
    gate ??= row.gate;
    if (row.gate !== gate) throw new LedgerFileError(`${path} holds rows of ${gate} and of ${row.gate}: one gate's ledger at a time`);
    const last = epochs.at(-1);
    if (last === undefined || last.epoch !== row.epoch) {
      if (last !== undefined && row.epoch < last.epoch) bad(`epoch ${row.epoch} comes after epoch ${last.epoch}`);
      epochs.push({ epoch: row.epoch, from: row.seq, upto: row.seq });
      previous = row.seq === 1 ? firstPredecessor(sha256, gate, row.epoch) : null;
    } else {
      if (row.seq !== last.upto + 1) {
        bad(`after row ${row.epoch}/${last.upto} comes row ${row.epoch}/${row.seq}`);
        previous = null;
      }
      last.upto = Math.max(last.upto, row.seq);
    }
    if (previous !== null && !carries(previous, row)) bad(`row ${row.epoch}/${row.seq} was changed, or the one before it`);
    previous = row.hash;
  }
  if (gate === null) throw new LedgerFileError(`${path} holds no rows`);
  if (wrong > problems.length) problems.push(`… ${wrong} in all`);
  return { gate, epochs, problems };
}

function carries(previous: string, row: LedgerRow): boolean {
  try {
    return entryHash(sha256, previous, row.entry) === row.hash;
  } catch {
    return false;
  }
}

/** Reads rows in the order of the file. Throws LedgerFileError for a line that is no ledger message. */
async function* rowsOf(path: string): AsyncGenerator<LedgerRow> {
  const stream = createReadStream(path, { encoding: 'utf8' });
  let number = 0;
  try {
    for await (const line of createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY })) {
      number += 1;
      if (line.trim() === '') continue;
      const message = readLine(path, number, line);
      for (const entry of message.entries) {
        const row = readRow(message.gate, message.epoch, entry);
        if (row !== null) yield row;
      }
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new LedgerFileError(`${path}: there is no such file`);
    if (code !== undefined && /^E[A-Z]+$/.test(code)) throw new LedgerFileError(`${path}: ${message}`);
    throw error;
  } finally {
    stream.destroy();
  }
}

function readLine(path: string, number: number, line: string): LedgerMessage {
  const where = `${path}:${number}`;
  // Four times: a message holds 100 rows, and an export of an older gate may have written it with more space.
  if (line.length > 4 * MAX_PAYLOAD_BYTES) throw new LedgerFileError(`${where}: longer than any ledger message: is this what stile-gate ledger export wrote?`);
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new LedgerFileError(`${where}: not JSON: is this what stile-gate ledger export wrote, to its end?`);
  }
  const message = LedgerMessage.safeParse(value);
  if (!message.success) {
    const issue = message.error.issues[0];
    throw new LedgerFileError(`${where}: ${issue?.path.map(String).join('.') || '(line)'}: ${issue === undefined ? 'is wrong' : describeIssue(issue)}`);
  }
  if (!GateName.safeParse(message.data.gate).success)
    throw new LedgerFileError(`${where}: ${message.data.gate} is no gate's ledger: the cloud's own is written by the cloud alone`);
  return message.data;
}
