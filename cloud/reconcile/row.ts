/** Reads one ledger row from the wire's JSON. */
import { maySay } from '../../contract/authority.ts';
import { readReference } from '../../contract/identity.ts';
import { EntryKey, LedgerEntry } from '../../contract/ledger.ts';
import { plainRow } from './fast-row-check.ts';

/** Names the row that another one repeats: the identity of what it says. */
export interface Original {
  readonly ledger: string;
  readonly epoch: number;
  readonly seq: number;
  readonly hash: string;
}

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
  /** The original that it repeats (`again`), where it may; else null. */
  readonly again: Original | null;
}

/** Reads a row, or returns null where key or hash is unreadable: such an entry has no place in the sequence. */
export function readRow(gate: string, epoch: number, entry: unknown): LedgerRow | null {
  // A valid entry has a readable key as well.
  const plain = plainRow(entry);
  const known = plain === null ? LedgerEntry.safeParse(entry) : { success: true as const, data: plain };
  const key = known.success ? known : EntryKey.safeParse(entry);
  if (!key.success) return null;
  const row = entry as LedgerRow['entry'];
  const repeats = row['again'] !== undefined;
  const named = repeats ? readReference(gate, row['again']) : null;
  const again = named === null || named.hash === null ? null : { ...named, hash: named.hash };
  const counts = known.success && (plain !== null || maySay(gate, known.data)) && (!repeats || again !== null);
  return { gate, epoch, seq: key.data.seq, hash: key.data.hash, entry: row, known: counts ? known.data : null, again };
}

/** [gate, epoch, seq] of a row. */
export type RowKey = readonly [gate: string, epoch: number, seq: number];
