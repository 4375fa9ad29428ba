/**
 * Encodes rows as columns for reconcile_columns: one PostgreSQL array a field, in binary, so that neither side writes or reads JSON for a batch.
 * SQL decides what counts; only fields that the schemas have checked reach a typed column.
 */
import { entryText } from '../../contract/hash-chain.ts';
import type { LedgerRow, Original } from './row.ts';

/** Values of one element type, NULL where null. */
type Column = readonly unknown[];
type Encoder = { readonly oid: number; readonly bytes: (value: never) => number; readonly write: (into: Buffer, at: number, value: never) => void };

const encoder = <Value>(oid: number, bytes: number | ((value: Value) => number), write: (into: Buffer, at: number, value: Value) => void): Encoder => ({
  oid,
  bytes: (typeof bytes === 'number' ? () => bytes : bytes) as Encoder['bytes'],
  write: write as Encoder['write'],
});

/** Milliseconds between 1970 and 2000, where PostgreSQL's time begins. */
const EPOCH_2000_MS = 946_684_800_000;
const TWO_TO_32 = 4_294_967_296;

/** Writes a whole number that is exact in a double. */
function writeInt8(into: Buffer, at: number, value: number): void {
  into.writeInt32BE(Math.floor(value / TWO_TO_32), at);
  into.writeUInt32BE(((value % TWO_TO_32) + TWO_TO_32) % TWO_TO_32, at + 4);
}

const TEXT = encoder<string>(25, Buffer.byteLength, (into, at, value) => into.write(value, at));
const INT8 = encoder<number>(20, 8, writeInt8);
const INT4 = encoder<number>(23, 4, (into, at, value) => into.writeInt32BE(value, at));
const FLOAT8 = encoder<number>(701, 8, (into, at, value) => into.writeDoubleBE(value, at));
const BOOL = encoder<boolean>(16, 1, (into, at, value) => into.writeUInt8(value ? 1 : 0, at));
/** Encodes hexadecimal text as bytes. */
const BYTEA = encoder<string>(
  17,
  (value) => value.length / 2,
  (into, at, value) => into.write(value, at, 'hex'),
);
/** Encodes ISO text in UTC with milliseconds (contract: Timestamp). */
const TIME = encoder<string>(1184, 8, (into, at, value) => writeInt8(into, at, (Date.parse(value) - EPOCH_2000_MS) * 1_000));

/** Encodes an array of one dimension, from 1, as array_recv reads it. pg sends a Buffer as a binary parameter. */
function encode({ oid, bytes, write }: Encoder, values: Column): Buffer {
  let size = 20;
  let nulls = 0;
  const sizes = new Int32Array(values.length);
  for (let index = 0; index < values.length; index++) {
    const value = values[index];
    const length = value === null ? -1 : bytes(value as never);
    sizes[index] = length;
    size += 4 + Math.max(0, length);
    if (length < 0) nulls = 1;
  }
  const into = Buffer.allocUnsafe(size);
  into.writeInt32BE(1, 0);
  into.writeInt32BE(nulls, 4);
  into.writeInt32BE(oid, 8);
  into.writeInt32BE(values.length, 12);
  into.writeInt32BE(1, 16);
  let at = 20;
  for (let index = 0; index < values.length; index++) {
    const length = sizes[index] as number;
    into.writeInt32BE(length, at);
    at += 4;
    if (length < 0) continue;
    write(into, at, values[index] as never);
    at += length;
  }
  return into;
}

const PLAIN_KIND = /^[a-z_]{1,32}$/;
const PLAIN_BOOT = /^[\x21-\x7e]{1,64}$/;

type Fields = Readonly<Record<string, unknown>>;
interface Read {
  readonly row: LedgerRow;
  readonly text: string;
  /** The entry's fields where it is valid; else none. */
  readonly known: Fields;
  readonly kind: string;
  readonly again: Original | null;
  readonly chained: boolean | null;
}

/** Returns a field for rows of these kinds; NULL for others. */
const of =
  (kinds: readonly string[], field: string) =>
  ({ known, kind }: Read) =>
    kinds.includes(kind) ? (known[field] ?? null) : null;
const TICKET = ['grant', 'refusal', 'conflict', 'passage', 'settlement'];
const OUTCOME_KINDS = ['passage', 'settlement'];
/** Returns a part of `of`: epoch, seq, hash; of a settlement after the ledger's name. */
const ofPart =
  (place: number) =>
  ({ known, kind }: Read) =>
    OUTCOME_KINDS.includes(kind) ? ((known['of'] as Column | undefined)?.[kind === 'settlement' ? place + 1 : place] ?? null) : null;
/** Longest uptime of a machine, in ms: a later boot time orders nothing. */
const MAX_BOOT_TIME_MS = 100 * 366 * 86_400_000;
/** Largest bound of an offset, in ms: a larger one counts as none. */
const MAX_BOUND_MS = 366 * 86_400_000;
/** Earliest and latest time of a row, in Unix ms: an offset that leads beyond them counts as none. */
const MIN_PLACED_MS = Date.UTC(2000, 0);
const MAX_PLACED_MS = Date.UTC(2200, 0);
const bootTimeOf = ({ known }: Read): number | null => {
  const ms = known['boottime_ms'];
  return typeof ms === 'number' && ms <= MAX_BOOT_TIME_MS ? ms : null;
};
/** Returns an offset or its bound; each needs the other. */
const clock = (field: 'clock_offset_ms' | 'clock_bound_ms') => (read: Read) => {
  const { clock_offset_ms: offset, clock_bound_ms: bound } = read.known as { readonly clock_offset_ms?: number; readonly clock_bound_ms?: number };
  const bootMs = bootTimeOf(read);
  if (offset === undefined || bound === undefined || bootMs === null || bound > MAX_BOUND_MS) return null;
  const placed = offset + bootMs;
  return placed >= MIN_PLACED_MS && placed <= MAX_PLACED_MS ? (read.known[field] as number) : null;
};

/** In the order of reconcile_columns' parameters. */
const COLUMNS: readonly (readonly [Encoder, (read: Read) => unknown])[] = [
  [TEXT, ({ row }) => row.gate],
  [INT8, ({ row }) => row.epoch],
  [INT8, ({ row }) => row.seq],
  [BYTEA, ({ row }) => row.hash],
  [TEXT, ({ row }) => (typeof row.entry['kind'] === 'string' && PLAIN_KIND.test(row.entry['kind']) ? row.entry['kind'] : 'unknown')],
  [BOOL, ({ row }) => row.known !== null],
  [TEXT, ({ text }) => text],
  [TIME, ({ known }) => known['ts'] ?? null],
  [
    TEXT,
    (read) => (typeof read.known['boot_id'] === 'string' && PLAIN_BOOT.test(read.known['boot_id']) && bootTimeOf(read) !== null ? read.known['boot_id'] : null),
  ],
  [FLOAT8, bootTimeOf],
  [FLOAT8, clock('clock_offset_ms')],
  [FLOAT8, clock('clock_bound_ms')],
  [TEXT, of([...TICKET, 'claim', 'exit_unmatched'], 'event_id')],
  [TEXT, of([...TICKET, 'claim'], 'ticket_id')],
  [BYTEA, of(['grant'], 'ticket_ref')],
  [TEXT, of(['grant', ...OUTCOME_KINDS], 'direction')],
  [INT4, of(['grant'], 'units')],
  [INT8, of(['grant'], 'manifest_version')],
  [TEXT, ({ known, kind }) => (kind === 'settlement' ? ((known['of'] as Column)[0] ?? null) : null)],
  [INT8, ofPart(0)],
  [INT8, ofPart(1)],
  [INT4, of(OUTCOME_KINDS, 'unit')],
  [TEXT, of(OUTCOME_KINDS, 'outcome')],
  [TEXT, ({ again }) => again?.ledger ?? null],
  [INT8, ({ again }) => again?.epoch ?? null],
  [INT8, ({ again }) => again?.seq ?? null],
  [BYTEA, ({ again }) => again?.hash ?? null],
  [BYTEA, ofPart(2)],
  [BOOL, ({ chained }) => chained],
];
/** Columns of reconcile_columns that forget_columns takes, by their place. */
const FORGET_COLUMNS = [0, 1, 2, 3, 4, 5, 12, 13, 15, 20, 22, 23, 24, 25, 26];

/** An entry without its hash, as stored: in canonical JSON, which its hash covers. */
export interface KeptText {
  readonly text: string;
  /**
   * False for the few without a canonical form (half a surrogate pair, a number beyond a double): they are stored all the same, and no hash is
   * right for them.
   */
  readonly canonical: boolean;
}
export function keptText(entry: Fields): KeptText {
  try {
    return { text: entryText(entry), canonical: true };
  } catch {
    const { hash: _own, ...rest } = entry;
    return { text: JSON.stringify(rest), canonical: false };
  }
}

const parameters = (count: number): string => Array.from({ length: count }, (_, index) => `$${index + 1}`).join(', ');
/** SQL of one call; the result's column is `outcome`. The last parameter: whether rows are stored that do not follow. */
export const RECONCILE_COLUMNS = `SELECT reconcile_columns(${parameters(COLUMNS.length + 1)}) AS outcome`;
/** The same for rows that left the account, with the parameters of `forgetColumnsOf`. */
export const FORGET_COLUMNS_SQL = `SELECT forget_columns(${parameters(FORGET_COLUMNS.length)}) AS outcome`;
export const RECOUNT_COLUMNS = `SELECT recount_columns(${parameters(COLUMNS.length)})`;

/** Returns the parameters of one call. `texts`: `keptText` of each row's entry; `chained`: see `reconcile_columns`, null for none. */
export function columnsOf(
  rows: readonly LedgerRow[],
  texts: readonly KeptText[] = rows.map(({ entry }) => keptText(entry)),
  chained: readonly (boolean | null)[] = rows.map(() => null),
): Buffer[] {
  const reads = rows.map(
    (row, index): Read => ({
      row,
      text: (texts[index] as KeptText).text,
      known: (row.known as Fields | null) ?? {},
      kind: row.known?.kind ?? '',
      again: row.again,
      chained: chained[index] ?? null,
    }),
  );
  return COLUMNS.map(([type, read]) => encode(type, reads.map(read)));
}

/** Returns the parameters of FORGET_COLUMNS_SQL. */
export function forgetColumnsOf(rows: readonly LedgerRow[]): Buffer[] {
  const columns = columnsOf(rows);
  return FORGET_COLUMNS.map((place) => columns[place] as Buffer);
}
