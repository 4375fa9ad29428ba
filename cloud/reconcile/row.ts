/** Reads one ledger row from the wire's JSON. */
import { maySay } from '../../contract/authority.ts';
import { EntryKey, LedgerEntry } from '../../contract/ledger.ts';
import { plainRow } from './fast-row-check.ts';

/** One row of one ledger, as far as it is readable. Made by `readRow`. */
export interface LedgerRow {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  /** Lowercase hex. */
  readonly hash: string;
  /** Every field as received, `hash` included. */
  readonly entry: Readonly<Record<string, unknown>>;
  /** The entry, where its kind is known, its fields are valid and its ledger has the authority; else null: the row is stored, and has no effect. */
  readonly known: LedgerEntry | null;
}

/** Reads a row, or returns null where key or hash is unreadable: such an entry has no place in the sequence. */
export function readRow(gate: string, epoch: number, entry: unknown): LedgerRow | null {
  // A valid entry has a readable key as well.
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
