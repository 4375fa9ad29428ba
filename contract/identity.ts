/**
 * Decides which rows are one admission, and which of them counts. Gate, cloud and tests read these functions, so that one answer holds everywhere.
 *
 * A store that went back in time writes two rows under one key, and sends rows again under another. The identity of a row is therefore its original:
 * (ledger, epoch, seq, hash). Of several rows with one original exactly one counts: the original itself where it is held, else the `again` row of the
 * original's own ledger, else one of the cloud's; of several, the lowest (epoch, seq). Sending a row too often changes nothing.
 */
import { isCloudLedger, splitGateName } from './ids.ts';

/** A row's key, as the carrier of the message proves it, and its hash. */
export interface RowKey {
  readonly ledger: string;
  readonly epoch: number;
  readonly seq: number;
  readonly hash: string;
}
/** A row with what it says about others: `again` and `of` as they came, unchecked. */
export interface NamedRow extends RowKey {
  readonly again?: unknown;
}
/** A row that another names. `hash` null: the reference was written without one. */
export interface Reference {
  readonly ledger: string;
  readonly epoch: number;
  readonly seq: number;
  readonly hash: string | null;
}

/** Hex digits of a hash that identity compares: eight bytes, all that a snapshot has. */
const HASH_DIGITS = 16;

const isKeyNumber = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 1;
const isHash = (value: unknown): value is string => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);

/**
 * Reads a reference that stands in a row of `ledger`: [epoch, seq, hash?] there, [ledger, epoch, seq, hash?] elsewhere. Returns null for what is no
 * reference, and for one to another ledger that this ledger may not name: only the cloud's may, within their site.
 */
export function readReference(ledger: string, value: unknown): Reference | null {
  if (!Array.isArray(value)) return null;
  const named = typeof value[0] === 'string';
  const [epoch, seq, hash] = (named ? value.slice(1) : value) as readonly unknown[];
  const target = named ? (value[0] as string) : ledger;
  if (!isKeyNumber(epoch) || !isKeyNumber(seq) || !(hash === undefined || isHash(hash)) || value.length > (named ? 4 : 3)) return null;
  if (target !== ledger && !(isCloudLedger(ledger) && splitGateName(target).site === splitGateName(ledger).site)) return null;
  return { ledger: target, epoch, seq, hash: hash ?? null };
}

/** Returns the row's original: what its `again` names, else the row itself. An `again` that the ledger may not write names nothing. */
export function originalOf(row: NamedRow): RowKey {
  const named = row.again === undefined ? null : readReference(row.ledger, row.again);
  return named === null || named.hash === null ? { ledger: row.ledger, epoch: row.epoch, seq: row.seq, hash: row.hash } : { ...named, hash: named.hash };
}

/** Returns one text for one identity; equal for the full hash and for a snapshot's eight bytes of it. */
export function identityKey(row: RowKey): string {
  return `${row.ledger}/${row.epoch}/${row.seq}/${row.hash.slice(0, HASH_DIGITS)}`;
}

/** Returns the identity that the row counts under. */
export const identityOf = (row: NamedRow): string => identityKey(originalOf(row));

/** Returns 0 for an original, 1 for an `again` row of its own ledger, 2 for one of another. */
function rankOf(row: NamedRow): 0 | 1 | 2 {
  const original = originalOf(row);
  if (original.ledger !== row.ledger) return 2;
  return original.epoch === row.epoch && original.seq === row.seq && original.hash === row.hash ? 0 : 1;
}

/** Orders rows with one original: the one that counts first. Total; equal for the same row alone. */
export function compareClaims(a: NamedRow, b: NamedRow): number {
  return rankOf(a) - rankOf(b) || a.epoch - b.epoch || a.seq - b.seq || compareTexts(a.ledger, b.ledger) || compareTexts(a.hash, b.hash);
}

const compareTexts = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Returns the row that counts for each identity, whatever the order and however often a row was given. */
export function countedRows<R extends NamedRow>(rows: Iterable<R>): Map<string, R> {
  const counted = new Map<string, R>();
  for (const row of rows) {
    const identity = identityOf(row);
    const known = counted.get(identity);
    if (known === undefined || compareClaims(row, known) < 0) counted.set(identity, row);
  }
  return counted;
}

/**
 * Finds the row that a reference means among rows by identity. A reference without a hash means the original under that key, and nothing where two
 * lives of a store share it.
 */
export function resolveReference<R extends NamedRow>(counted: ReadonlyMap<string, R>, reference: Reference): R | null {
  if (reference.hash !== null) return counted.get(identityKey({ ...reference, hash: reference.hash })) ?? null;
  const prefix = `${reference.ledger}/${reference.epoch}/${reference.seq}/`;
  const found = [...counted].filter(([identity]) => identity.startsWith(prefix));
  return found.length === 1 ? (found[0] as [string, R])[1] : null;
}

/**
 * Unites what several sources know by identity: own rows of every epoch, rows fetched, a snapshot's entries. `merge` joins two facts of one identity; for
 * the union to be one, whatever the order, it is commutative, associative and idempotent.
 */
export function uniteByIdentity<T>(sources: Iterable<Iterable<readonly [identity: string, fact: T]>>, merge: (a: T, b: T) => T): Map<string, T> {
  const united = new Map<string, T>();
  for (const source of sources) {
    for (const [identity, fact] of source) {
      const known = united.get(identity);
      united.set(identity, known === undefined ? fact : merge(known, fact));
    }
  }
  return united;
}

/** Returns the `again` that a copy of this row carries in a later epoch of its ledger: the one it has, else its own key. */
export function againOf(row: NamedRow): readonly [number, number, string] {
  const { epoch, seq, hash } = originalOf(row);
  return [epoch, seq, hash];
}

/** Orders rows of one ledger by (epoch, seq). */
export const compareKeys = (a: RowKey, b: RowKey): number => a.epoch - b.epoch || a.seq - b.seq;

/**
 * Returns the rows that a store which went back still has to send under epoch `current`, in order: every row of its older epochs that it holds, each
 * original once, without those that stand in `current` already. Called again after a crash it returns the rest. `held`: rows of one ledger.
 */
export function rowsToSendAgain<R extends NamedRow>(held: Iterable<R>, current: number): R[] {
  const rows = [...held].sort(compareKeys);
  const sent = new Set(rows.filter(({ epoch }) => epoch === current).map(identityOf));
  return rows.filter((row) => {
    const identity = identityOf(row);
    if (row.epoch >= current || sent.has(identity)) return false;
    sent.add(identity);
    return true;
  });
}
