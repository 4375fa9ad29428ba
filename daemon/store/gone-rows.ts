/**
 * Declares the rows that the cloud waits for and this store does not hold: pruned ones, those of epochs that were closed, those of a disk that is gone.
 * The cloud's prefix passes over them, and it goes on naming them, so that another copy of the store that holds them sends them. Pure.
 */
import type { AckMessage } from '../../contract/ledger.ts';

/** [epoch, from, to, hash of `to`]; null: the hash is not known here. */
export type GoneRange = readonly [epoch: number, from: number, to: number, hash: string | null];
/** Ranges in one message; the next one names more. */
export const MAX_GONE_RANGES = 100;

export interface KeptLedger {
  epoch(): number;
  /** Every epoch that has rows here. */
  epochs(): readonly { readonly epoch: number; readonly firstSeq: number; readonly lastSeq: number }[];
  lastSeqOf(epoch: number): number | null;
  hashOf(epoch: number, seq: number): string | null;
}

/**
 * `closedBelow`: rows of earlier epochs are sent under another one, so here nothing of them waits. `isSaved`: an epoch whose rows were saved from a
 * quarantined file, and are still to be sent.
 */
export function goneRanges(epochs: AckMessage['epochs'], ledger: KeptLedger, closedBelow: number, isSaved: (epoch: number) => boolean): readonly GoneRange[] {
  const kept = new Map(ledger.epochs().map((own) => [own.epoch, own]));
  const ranges: GoneRange[] = [];
  const declare = (epoch: number, from: number, to: number): void => {
    if (from <= to) ranges.push([epoch, from, to, ledger.hashOf(epoch, to)]);
  };
  for (const { epoch, upto_seq, missing } of epochs) {
    if (epoch > ledger.epoch() || isSaved(epoch)) continue;
    const own = kept.get(epoch);
    // All of an epoch that is not here was lost, pruned or closed.
    const heldFrom = epoch < closedBelow || own === undefined ? Number.POSITIVE_INFINITY : own.firstSeq;
    for (const [from, to] of missing) declare(epoch, from, Math.min(to, heldFrom - 1));
    // Behind the last range that is named nothing is known of what this store pruned but that it wrote it.
    const pruned = epoch < closedBelow ? 0 : Math.min(heldFrom - 1, ledger.lastSeqOf(epoch) ?? 0);
    if (missing.length === 0) declare(epoch, upto_seq + 1, pruned);
  }
  const named = new Set(epochs.map(({ epoch }) => epoch));
  for (const { epoch, firstSeq } of kept.values()) if (!named.has(epoch) && epoch >= closedBelow) declare(epoch, 1, firstSeq - 1);
  return ranges.slice(0, MAX_GONE_RANGES);
}
