/**
 * Unacknowledged rows of databases that were quarantined. They are sent like any other; rows behind one that could not be read are
 * sent as well, but once a start: the cloud's `upto_seq` never passes a hole, so waiting for it would hold the window for ever. They stay here,
 * and in the file that was quarantined, until the cloud has got the epoch by `stile-cloud import --ledger`.
 */

import type { Ledger } from './ledger.ts';
import type { Salvage } from './salvage.ts';

export interface SalvagedPart {
  readonly epoch: number;
  /** Rows that an acknowledgement can release: from the first that waits, without a hole. `lastSeq` below `firstSeq`: none. */
  readonly firstSeq: number;
  readonly lastSeq: number;
  /** Rows behind a hole. */
  readonly behind: number;
}

export interface SalvagedRows {
  parts(): readonly SalvagedPart[];
  read(epoch: number, fromSeq: number, limit: number): readonly { readonly seq: number; readonly entry: string }[];
  /** Returns the next rows of an epoch behind a hole that were not handed out since the start; at most `limit`. */
  behind(part: SalvagedPart, limit: number): readonly { readonly seq: number; readonly entry: string }[];
  /** Notes the rows that `behind` handed out, up to this seq. */
  handedOut(epoch: number, uptoSeq: number): void;
  acknowledged(epoch: number, uptoSeq: number): void;
  put(saved: Pick<Salvage, 'rows' | 'acked'>): void;
}

export function createSalvagedRows(ledger: Ledger): SalvagedRows {
  const { db } = ledger;
  const range = db.prepare<[number, number, number], { seq: number; entry: string }>(
    'SELECT seq, entry FROM salvaged WHERE epoch = ? AND seq >= ? ORDER BY seq LIMIT ? + 0',
  );
  const put = db.prepare<[number, number, string]>('INSERT INTO salvaged (epoch, seq, entry) VALUES (?, ?, ?) ON CONFLICT DO NOTHING');
  const putAcked = db.prepare<[number, number]>(
    'INSERT INTO salvaged_epochs (epoch, acked_seq) VALUES (?, ?) ON CONFLICT (epoch) DO UPDATE SET acked_seq = max(acked_seq, excluded.acked_seq)',
  );
  const remove = db.prepare<[number, number]>('DELETE FROM salvaged WHERE epoch = ? AND seq <= ?');
  const seqs = db.prepare<[number], { seq: number }>('SELECT seq FROM salvaged WHERE epoch = ? ORDER BY seq');
  const epochs = db.prepare<[], { epoch: number; acked_seq: number }>('SELECT epoch, acked_seq FROM salvaged_epochs ORDER BY epoch');
  const cursors = new Map<number, number>();

  const measure = (): SalvagedPart[] =>
    epochs.all().map(({ epoch, acked_seq }) => {
      let lastSeq = acked_seq;
      let behind = 0;
      for (const { seq } of seqs.iterate(epoch)) {
        if (behind === 0 && seq === lastSeq + 1) lastSeq = seq;
        else behind++;
      }
      return { epoch, firstSeq: acked_seq + 1, lastSeq, behind };
    });
  let known = measure();

  return {
    parts: () => known,
    read: (epoch, fromSeq, limit) => range.all(epoch, fromSeq, limit),
    behind: (part, limit) => (part.behind === 0 ? [] : range.all(part.epoch, Math.max(part.lastSeq, cursors.get(part.epoch) ?? 0) + 1, limit)),
    handedOut(epoch, uptoSeq) {
      cursors.set(epoch, uptoSeq);
    },
    acknowledged(epoch, uptoSeq) {
      const part = known.find((one) => one.epoch === epoch);
      if (part === undefined || uptoSeq < part.firstSeq) return;
      ledger.change('release saved rows', () => {
        remove.run(epoch, uptoSeq);
        putAcked.run(epoch, uptoSeq);
      });
      known = measure();
    },
    put({ rows, acked }) {
      ledger.change('keep saved rows', () => {
        for (const row of rows) put.run(row.epoch, row.seq, row.entry);
        for (const one of acked) putAcked.run(one.epoch, one.seq);
      });
      known = measure();
    },
  };
}
