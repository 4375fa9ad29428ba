/**
 * A second copy of the rows that the cloud has not acknowledged, beside the ledger as `ledger.rows`. It is written in the pauses of the lane and
 * never synced, so no guest waits for it; after damage to the ledger's own files the salvage reads it. It says also how far each epoch was
 * acknowledged.
 *
 * A line is `<CRC-32> <epoch> <row as JSON>` or `<CRC-32> <epoch> acked <seq>`; the CRC begins with the gate's name, so lines of another gate
 * are no lines. Each line is judged alone: a torn or damaged one costs that line.
 */
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync, renameSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { Ledger, StoredEntry } from './ledger.ts';
import { storeError } from './sqlite.ts';

/** Size of the copy, bytes. At the bound: it is renamed to `ledger.rows.old`, over the one before, and a new one begins. */
export const MAX_COPY_BYTES = 8 * 1024 * 1024;
/** Size from which the copy begins anew once the cloud has every row, bytes. */
const RESTART_BYTES = 1024 * 1024;
/** Rows copied in one step, so that a decision waits for no more than that. */
const COPY_STEP_ROWS = 200;
/** End of the file that is searched for its last row at the start, bytes. At the bound: the copy goes on from the first unacknowledged row. */
const TAIL_BYTES = 256 * 1024;

export interface RowCopy {
  /** The newest row of the copy when it was opened: it had been committed. null: there was none. */
  readonly end: { readonly epoch: number; readonly seq: number } | null;
  /** Copies the next rows; false: nothing is left to copy. Throws StoreError. */
  step(): boolean;
}

export const copyPath = (folder: string): string => join(folder, 'ledger.rows');
export const olderCopyPath = (folder: string): string => `${copyPath(folder)}.old`;

/** Opens the copy of a store; nothing is written before the first step. `ackedOf`: how far an own epoch is acknowledged. */
export function openRowCopy(folder: string, ledger: Ledger, ackedOf: (epoch: number) => number): RowCopy {
  const path = copyPath(folder);
  const end = lastRow(path, ledger.name);
  let cursor = end;
  const writtenAcks = new Map<number, number>();
  /** A line that a power cut tore is closed by this. */
  let lead = '\n';

  const rowsAfterCursor = (): { readonly epoch: number; readonly rows: ReturnType<Ledger['read']> } | null => {
    for (const { epoch, firstSeq, lastSeq } of ledger.epochs()) {
      if (cursor !== null && epoch < cursor.epoch) continue;
      const from = Math.max(firstSeq, ackedOf(epoch) + 1, cursor?.epoch === epoch ? cursor.seq + 1 : 0);
      if (from <= lastSeq) return { epoch, rows: ledger.read(epoch, from, COPY_STEP_ROWS) };
    }
    return null;
  };
  const newAcks = () => ledger.epochs().flatMap(({ epoch }) => (ackedOf(epoch) === (writtenAcks.get(epoch) ?? 0) ? [] : [{ epoch, seq: ackedOf(epoch) }]));
  const makeRoom = (): void => {
    const bytes = sizeOf(path);
    const done = bytes >= RESTART_BYTES && ledger.epochs().every(({ epoch, lastSeq }) => ackedOf(epoch) >= lastSeq);
    if (!done && bytes < MAX_COPY_BYTES) return;
    if (done) for (const file of [path, olderCopyPath(folder)]) rmSync(file, { force: true });
    else renameSync(path, olderCopyPath(folder));
    writtenAcks.clear();
  };

  return {
    end,
    step() {
      try {
        makeRoom();
        const next = rowsAfterCursor();
        const acks = newAcks();
        if (next === null && acks.length === 0) return false;
        const lines = [
          ...acks.map(({ epoch, seq }) => lineOf(ledger.name, `${epoch} acked ${seq}`)),
          ...(next?.rows ?? []).map(({ entry }) => lineOf(ledger.name, `${next?.epoch} ${entry}`)),
        ];
        appendText(path, lead + lines.join(''));
        lead = '';
        for (const { epoch, seq } of acks) writtenAcks.set(epoch, seq);
        const last = next?.rows.at(-1);
        if (next !== null && last !== undefined) cursor = { epoch: next.epoch, seq: last.seq };
        return next !== null;
      } catch (error) {
        lead = '\n';
        throw storeError(`copy rows to ${path}`, error);
      }
    },
  };
}

const lineOf = (gate: string, text: string): string => `${checksumOf(gate, text)} ${text}\n`;
const checksumOf = (gate: string, text: string): string => crc32(text, crc32(gate)).toString(16).padStart(8, '0');

function appendText(path: string, text: string): void {
  const bytes = Buffer.from(text);
  const file = openSync(path, 'a', 0o640);
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
  } finally {
    closeSync(file);
  }
}

function sizeOf(path: string): number {
  if (!existsSync(path)) return 0;
  const file = openSync(path, 'r');
  try {
    return fstatSync(file).size;
  } finally {
    closeSync(file);
  }
}

interface CopiedRow {
  readonly epoch: number;
  readonly entry: StoredEntry;
  readonly text: string;
}
type Line = ({ readonly kind: 'row' } & CopiedRow) | { readonly kind: 'acked'; readonly epoch: number; readonly seq: number };

/** Returns what a line says; null: it is torn, damaged or of another gate. */
function parseLine(gate: string, line: string): Line | null {
  const text = line.slice(9);
  if (line.length < 10 || line[8] !== ' ' || line.slice(0, 8) !== checksumOf(gate, text)) return null;
  const [, epoch, rest] = /^(\d+) (.*)$/s.exec(text) ?? [];
  if (epoch === undefined || rest === undefined) return null;
  if (rest.startsWith('acked ')) return { kind: 'acked', epoch: Number(epoch), seq: Number(rest.slice('acked '.length)) };
  try {
    return { kind: 'row', epoch: Number(epoch), entry: JSON.parse(rest) as StoredEntry, text: rest };
  } catch {
    return null;
  }
}

/** A copy that cannot be read has no end. */
function lastRow(path: string, gate: string): RowCopy['end'] {
  try {
    if (!existsSync(path)) return null;
    const file = openSync(path, 'r');
    try {
      const { size } = fstatSync(file);
      const bytes = Buffer.alloc(Math.min(size, TAIL_BYTES));
      readSync(file, bytes, 0, bytes.length, size - bytes.length);
      const row = bytes
        .toString()
        .split('\n')
        .map((line) => parseLine(gate, line))
        .findLast((line) => line?.kind === 'row');
      return row?.kind === 'row' ? { epoch: row.epoch, seq: row.entry.seq } : null;
    } finally {
      closeSync(file);
    }
  } catch {
    return null;
  }
}

/** Everything that the copy of a store says. */
export interface CopiedRows {
  readonly rows: readonly CopiedRow[];
  /** How far each epoch was acknowledged, at least. */
  readonly acked: ReadonlyMap<number, number>;
}

/** Reads the copy of a store. Total: a file that cannot be read says nothing. */
export function readRowCopy(folder: string, gate: string): CopiedRows {
  const rows: CopiedRow[] = [];
  const acked = new Map<number, number>();
  for (const path of [olderCopyPath(folder), copyPath(folder)]) {
    let text = '';
    try {
      text = existsSync(path) ? readFileSync(path, 'utf8') : '';
    } catch {
      // A disk that fails here: what the database itself gives must do.
    }
    for (const one of text.split('\n')) {
      const line = parseLine(gate, one);
      if (line?.kind === 'row') rows.push(line);
      else if (line !== null) acked.set(line.epoch, Math.max(line.seq, acked.get(line.epoch) ?? 0));
    }
  }
  return { rows, acked };
}
