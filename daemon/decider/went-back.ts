/**
 * Handles a store that went back in time: a card restored from an image, a copy put back, a disk that forgot its last writes. An acknowledgement
 * shows it; then another epoch begins, every row that is held is written again under it, and the cloud's copy of the own ledger is fetched from its
 * beginning, because nothing tells where the two part.
 */
import type { RowPosition } from '../../contract/ids.ts';
import type { AckMessage } from '../../contract/ledger.ts';
import type { DeciderStatus } from '../ports.ts';
import type { AppendedRow, RowBody, Stamp } from '../store/ledger.ts';
import { NAME_RESENT_MS } from '../store/unacked-rows.ts';
import { comparePositions } from '../store/usage-merge.ts';
import { noteBody } from './ledger-entries.ts';
import type { Parts } from './open-store.ts';

/** Setting of the ledger: 1 while the cloud's copy of the own ledger must be read from its beginning. */
const REFETCH_OWN = 'refetch_own';

export interface WentBackOptions {
  readonly parts: () => Parts;
  readonly write: (bodies: readonly RowBody[], stamp: Stamp) => readonly AppendedRow[];
  readonly setLost: (lost: boolean) => void;
  readonly notice: (what: string, detail: string) => void;
}

export interface WentBack {
  /** Takes an acknowledgement, and begins another epoch where it shows rows that this store has not. Throws StoreError. */
  acknowledge(ack: AckMessage, stamp: Stamp): { readonly backlog: number; readonly ahead: boolean; readonly again?: true };
  /** Takes notice of own rows that were fetched. */
  fetched(epoch: number, seq: number): void;
  /** Returns the last row of the own ledger that was read at the cloud; null: none yet; undefined: it need not be read from its beginning. */
  readTo(): RowPosition | null | undefined;
  /** Notes that the cloud's copy was read to its end. Throws StoreError. */
  caughtUp(): void;
  status(stamp: Stamp): Pick<DeciderStatus, 'wentBack' | 'clone'>;
}

export function createWentBack({ parts, write, setLost, notice }: WentBackOptions): WentBack {
  let readTo: RowPosition | null = null;
  let clone = false;
  /** Boot time until which people are told of it, after everything is at the cloud; null: not everything was, at the last look. */
  let reportedUntilMs: number | null = Number.NEGATIVE_INFINITY;

  const begin = (highestEpoch: number, exact: boolean, stamp: Stamp): void => {
    const { ledger, outbox, resubmission, usage } = parts();
    const refetch = () => {
      ledger.putMeta(REFETCH_OWN, '1');
      ledger.putMeta('usage_lost', '1');
    };
    const epoch = exact ? resubmission.begin(highestEpoch, stamp, refetch) : ledger.startEpoch(highestEpoch, stamp);
    if (exact) {
      outbox.closed();
      usage.doubtOwn(true);
      readTo = null;
      reportedUntilMs = null;
    }
    setLost(true);
    const detail = `the cloud has rows of this gate that this store has not (a restored card, or a store put back): epoch ${epoch} begins`;
    write([noteBody('fault', 'ledger', detail)], stamp);
    notice('ledger', detail);
  };

  return {
    acknowledge(ack, stamp) {
      const { ledger, outbox, resubmission } = parts();
      const { wentBack, former, highestEpoch, again, exact } = outbox.acknowledge(ack, stamp.boottimeMs);
      clone = wentBack && exact && !resubmission.mayBegin(stamp.wallMs);
      if (clone) outbox.hold();
      else if (wentBack) begin(highestEpoch, exact, stamp);
      else if (former && ledger.meta('caught_up') === undefined) setLost(true);
      return { backlog: outbox.backlog(), ahead: wentBack && !clone, ...(again ? { again } : {}) };
    },
    fetched(epoch, seq) {
      if (readTo === null || comparePositions([epoch, seq], readTo) > 0) readTo = [epoch, seq];
    },
    readTo: () => (parts().ledger.meta(REFETCH_OWN) === '1' ? readTo : undefined),
    caughtUp() {
      if (parts().ledger.meta(REFETCH_OWN) === '1') parts().ledger.setMeta(REFETCH_OWN, '0');
      readTo = null;
    },
    status(stamp) {
      const { resubmission, outbox } = parts();
      const [rows, left, last] = [resubmission.rows(), resubmission.left(), resubmission.written()];
      const isDone = left === 0 && (last === null || outbox.ackedSeq(last.epoch) >= last.seq);
      if (!isDone) reportedUntilMs = null;
      else reportedUntilMs ??= stamp.boottimeMs + NAME_RESENT_MS;
      return { clone, wentBack: reportedUntilMs === null || stamp.boottimeMs < reportedUntilMs ? { rows, left } : null };
    },
  };
}
