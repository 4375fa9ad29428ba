/** Reads one ledger row from the wire's JSON. */
import { maySay } from '../../contract/authority.ts';
import { EntryKey, LedgerEntry } from '../../contract/ledger.ts';
import { plainRow } from './fast-row-check.ts';

/** One row of one ledger, read as far as it can be. Made by `readRow`. */
export interface LedgerRow {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  /** Lowercase hex. */
  readonly hash: string;
  /** Every field as it came, `hash` included. */
  readonly entry: Readonly<Record<string, unknown>>;
  /** The entry where it is of a known kind, as that kind should be, and its ledger's to write; else null: it is kept, and says nothing. */
  readonly known: LedgerEntry | null;
}

/** null: not even key and hash can be read, so it has no place in the sequence. */
export function readRow(gate: string, epoch: number, entry: unknown): LedgerRow | null {
  // What is as its kind should be has a readable key as well.
  const plain = plainRow(entry);
  if (plain !== null) return { gate, epoch, seq: plain.seq, hash: plain.hash, entry: plain, known: plain };
  const known = LedgerEntry.safeParse(entry);
  if (known.success && maySay(gate, known.data))
    return { gate, epoch, seq: known.data.seq, hash: known.data.hash, entry: entry as LedgerRow['entry'], known: known.data };
  const key = EntryKey.safeParse(entry);
  return key.success ? { gate, epoch, seq: key.data.seq, hash: key.data.hash, entry: entry as LedgerRow['entry'], known: null } : null;
}

/** [gate, epoch, seq] of a row. */
export type RowKey = readonly [gate: string, epoch: number, seq: number];
