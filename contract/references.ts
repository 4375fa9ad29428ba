/**
 * Defines how one row names another, and how far a ledger is held: by number *and* by hash, because two lives of one store can share a number.
 *
 * A row's identity is its original: (ledger, epoch, seq, hash). identity.ts decides which of two rows with one original counts.
 */
import { z } from 'zod';
import { Epoch, LedgerName, type LedgerVector, LedgerVector as LedgerVectorSchema, Seq, Sha256Hex } from './ids.ts';
import { MAX_LEDGERS, MAX_VECTOR_EPOCHS } from './limits.ts';

/** [epoch, seq, hash]: the original of a row, in the ledger that names it. */
export const OriginalInLedger = z.tuple([Epoch, Seq, Sha256Hex]);
export type OriginalInLedger = z.infer<typeof OriginalInLedger>;
/** [ledger, epoch, seq, hash]: the original of a row in another ledger. Only ledgers that the cloud writes may name one. */
export const OriginalElsewhere = z.tuple([LedgerName, Epoch, Seq, Sha256Hex]);
export type OriginalElsewhere = z.infer<typeof OriginalElsewhere>;

/** `again`: the original of a row that is sent once more under another key. */
export const Again = z.union([OriginalInLedger, OriginalElsewhere]);
export type Again = z.infer<typeof Again>;

/** `of` within one ledger: [epoch, seq, hash] of the original. Two parts: written before rows named hashes. */
export const OwnReference = z.union([OriginalInLedger, z.tuple([Epoch, Seq])]);
export type OwnReference = z.infer<typeof OwnReference>;
/** `of` in ledgers that the cloud writes: [ledger, epoch, seq, hash] of the original. Three parts: written before rows named hashes. */
export const LedgerReference = z.union([OriginalElsewhere, z.tuple([LedgerName, Epoch, Seq])]);
export type LedgerReference = z.infer<typeof LedgerReference>;

/** The first eight bytes of a row's hash, in hex: enough in snapshots, where the key is known as well. */
export const Hash8Hex = z.string().regex(/^[0-9a-f]{16}$/, '16 lowercase hex digits');
export type Hash8Hex = z.infer<typeof Hash8Hex>;

/** [seq, hash] of the last row of a contiguous prefix. seq 0: no row of that epoch. null: the hash is not known. */
export const Head = z.tuple([z.int().min(0).max(Number.MAX_SAFE_INTEGER), Sha256Hex.nullable()]);
export type Head = z.infer<typeof Head>;
const EpochKey = z.string().regex(/^[1-9][0-9]{0,15}$/, 'an epoch, from 1');
/** The prefix held of each epoch of each ledger: `{ "arena/north-03": { "1764547200": [41, "9f…"] } }`. */
export const LedgerHeads = z
  .record(
    LedgerName,
    z.record(EpochKey, Head).refine((epochs) => Object.keys(epochs).length <= MAX_VECTOR_EPOCHS, `at most ${MAX_VECTOR_EPOCHS} epochs of a ledger`),
  )
  .refine((heads) => Object.keys(heads).length <= MAX_LEDGERS, `at most ${MAX_LEDGERS} ledgers`);
export type LedgerHeads = z.infer<typeof LedgerHeads>;
/** A vector in either form. `headsOf` and `vectorOf` read both. */
export const AnyVector = z.union([LedgerVectorSchema, LedgerHeads]);
export type AnyVector = z.infer<typeof AnyVector>;

const isPosition = (value: LedgerVector[string] | LedgerHeads[string]): value is LedgerVector[string] => Array.isArray(value);

/** Returns a vector with hashes; null where the form of the vector has none. */
export function headsOf(vector: AnyVector): LedgerHeads {
  const heads: LedgerHeads = {};
  for (const [ledger, value] of Object.entries(vector)) heads[ledger] = isPosition(value) ? { [String(value[0])]: [value[1], null] } : value;
  return heads;
}

/** Returns the newest epoch's position of each ledger: all that the form without hashes can say. */
export function vectorOf(vector: AnyVector): LedgerVector {
  const positions: LedgerVector = {};
  for (const [ledger, value] of Object.entries(vector)) {
    if (isPosition(value)) positions[ledger] = value;
    else {
      const newest = Math.max(0, ...Object.keys(value).map(Number));
      if (newest > 0) positions[ledger] = [newest, (value[String(newest)] as Head)[0]];
    }
  }
  return positions;
}
