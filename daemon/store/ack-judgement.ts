/**
 * Judges what an acknowledgement says of this store by content, not by number: the cloud names the hash of row `upto_seq`, and the store compares its
 * own. Where they differ, or the cloud holds rows that this store never wrote, the store went back in time (a restored card, a copy put back).
 * Pure.
 */
import type { AckMessage } from '../../contract/ledger.ts';

/** An acknowledgement of an older cloud has no hashes: it is believed by its numbers alone. */
export interface AckedEpoch {
  readonly epoch: number;
  readonly upto_seq: number;
  readonly missing: readonly (readonly [number, number])[];
  /** Hash of row `upto_seq`, which stands for the whole prefix. */
  readonly hash?: string | null | undefined;
  /** The highest seq that the cloud holds. */
  readonly last?: number | undefined;
}

/** The part of its own ledger that this store holds. */
export interface HeldLedger {
  epoch(): number;
  lastSeqOf(epoch: number): number | null;
  hashOf(epoch: number, seq: number): string | null;
}

export interface AckJudgement {
  /** Rows 1..seq of these epochs are at the cloud. */
  readonly believed: ReadonlyMap<number, number>;
  /** The cloud holds rows that this store has not: it went back in time. */
  readonly wentBack: boolean;
  /** The cloud knows epochs of this gate that are not here, or rows behind the end of one. */
  readonly former: boolean;
  readonly highestEpoch: number;
}

/** `closedBelow`: earlier epochs were closed when the store went back in time, and are never judged again. */
export function judgeAck(ack: Pick<AckMessage, 'epochs'>, held: HeldLedger, closedBelow: number): AckJudgement {
  const believed = new Map<number, number>();
  let wentBack = false;
  let former = false;
  let highestEpoch = 0;
  for (const { epoch, upto_seq, hash, last } of ack.epochs as readonly AckedEpoch[]) {
    highestEpoch = Math.max(highestEpoch, epoch);
    const own = held.lastSeqOf(epoch);
    if (epoch > held.epoch() || (epoch === held.epoch() && Math.max(upto_seq, last ?? 0) > (own ?? 0))) {
      wentBack = true;
      continue;
    }
    if (epoch < closedBelow) continue;
    // An epoch that is not here any more, or has lost its end.
    if (own === null || upto_seq > own) {
      former ||= upto_seq > 0;
      if (own !== null) believed.set(epoch, own);
      continue;
    }
    const mine = typeof hash === 'string' && upto_seq > 0 ? held.hashOf(epoch, upto_seq) : null;
    if (mine !== null && mine !== hash) wentBack = true;
    else believed.set(epoch, upto_seq);
  }
  return { believed, wentBack, former, highestEpoch };
}
