/**
 * What still has to reach Postgres: acknowledgements, batches, resending, pruning.
 *
 * Only an acknowledgement's `upto_seq` releases rows; `missing` releases nothing. What was acknowledged is held in memory and
 * written when idle: losing it costs a resend and no more, because the acknowledgement is retained.
 */
import type { LedgerVector, RowPosition } from '../../contract/ids.ts';
import type { AckMessage } from '../../contract/ledger.ts';
import { MAX_LEDGER_ENTRIES, MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { OutboxBatch } from '../ports.ts';
import type { Ledger, StoredEntry } from './ledger.ts';
import { storeError } from './sqlite.ts';
import { covered } from './usage.ts';

/** Acknowledged and covered rows younger than this are kept for questions and for a restored cloud, in milliseconds; unless the ledger is larger than PRUNE_ABOVE_BYTES. */
export const KEEP_ROWS_MS = 14 * 24 * 3_600_000;
/** Size of the ledger's file from which acknowledged and covered rows are pruned whatever their age, in bytes. Others never are. */
export const PRUNE_ABOVE_BYTES = 256 * 1024 * 1024;
/** Rows pruned in one step, so that a decision waits for no more than that. */
export const PRUNE_STEP_ROWS = 500;

export interface Outbox {
  backlog(): number;
  /** Wall time of the oldest row that waits, Unix ms. */
  oldestMs(): number | null;
  nextBatch(after: RowPosition | null): OutboxBatch | null;
  /** `ahead`: the cloud has rows of this epoch, or a later epoch, that this ledger has not. `former`: it knows older epochs that are not here. */
  acknowledge(ack: AckMessage): { readonly ahead: boolean; readonly former: boolean; readonly highestEpoch: number };
  resend(from: RowPosition): void;
  /** Rows of a database that was set aside, with how far each epoch was acknowledged there. */
  salvage(rows: readonly { readonly epoch: number; readonly seq: number; readonly entry: string }[]): void;
  /** One bounded step; false: nothing more to prune. `keeps`: what each manifest kept covers. */
  prune(nowMs: number, keeps: readonly LedgerVector[]): boolean;
  /** Writes what was acknowledged. Throws StoreError. */
  flush(): void;
}

export function createOutbox(ledger: Ledger): Outbox {
  const { db, name } = ledger;
  const acked = new Map<number, number>();
  /** Where a resend begins; removed when an acknowledgement has passed it. */
  const again = new Map<number, number>();
  const changed = new Set<number>();
  for (const row of db.prepare<[], { epoch: number; acked_seq: number }>('SELECT epoch, acked_seq FROM epochs').all()) acked.set(row.epoch, row.acked_seq);
  const salvagedFrom = db.prepare<[number, number, number], { seq: number; entry: string }>(
    'SELECT seq, entry FROM salvaged WHERE epoch = ? AND seq >= ? ORDER BY seq LIMIT ?',
  );
  const salvagedLeft = db.prepare<[], { epoch: number; count: number; first: number; last: number }>(
    'SELECT epoch, count(*) AS count, min(seq) AS first, max(seq) AS last FROM salvaged GROUP BY epoch ORDER BY epoch',
  );
  const putSalvaged = db.prepare<[number, number, string]>('INSERT INTO salvaged (epoch, seq, entry) VALUES (?, ?, ?) ON CONFLICT DO NOTHING');
  let salvaged = salvagedLeft.all();

  const released = (epoch: number): number => Math.min(acked.get(epoch) ?? 0, (again.get(epoch) ?? Number.MAX_SAFE_INTEGER) - 1);
  /** Everything that waits, oldest epoch first. */
  const waiting = () =>
    [
      ...salvaged.map((part) => ({ epoch: part.epoch, firstSeq: part.first, lastSeq: part.last, count: part.count, salvaged: true })),
      ...ledger.epochs().map((own) => {
        const firstSeq = Math.max(own.firstSeq, released(own.epoch) + 1);
        return { epoch: own.epoch, firstSeq, lastSeq: own.lastSeq, count: Math.max(0, own.lastSeq - firstSeq + 1), salvaged: false };
      }),
    ]
      .filter((part) => part.count > 0)
      .sort((a, b) => a.epoch - b.epoch);
  const read = (part: { readonly epoch: number; readonly salvaged: boolean }, fromSeq: number, limit: number) =>
    part.salvaged ? salvagedFrom.all(part.epoch, fromSeq, limit) : ledger.read(part.epoch, fromSeq, limit);

  return {
    backlog: () => waiting().reduce((sum, part) => sum + part.count, 0),
    oldestMs() {
      const part = waiting()[0];
      if (part === undefined) return null;
      const row = read(part, part.firstSeq, 1)[0];
      const ts = row === undefined ? Number.NaN : Date.parse(String((JSON.parse(row.entry) as StoredEntry)['ts']));
      return Number.isNaN(ts) ? null : ts;
    },
    nextBatch(after) {
      for (const part of waiting()) {
        if (after !== null && part.epoch < after[0]) continue;
        const from = after !== null && part.epoch === after[0] ? Math.max(part.firstSeq, after[1] + 1) : part.firstSeq;
        if (from > part.lastSeq) continue;
        const rows = read(part, from, MAX_LEDGER_ENTRIES);
        const first = rows[0];
        if (first === undefined) continue;
        const head = `{"schema":${SCHEMA_VERSION},"gate":${JSON.stringify(name)},"epoch":${part.epoch},"entries":[`;
        let bytes = Buffer.byteLength(head) + 2;
        const taken: string[] = [];
        let uptoSeq = first.seq;
        for (const row of rows) {
          bytes += Buffer.byteLength(row.entry) + 1;
          if (taken.length > 0 && bytes > MAX_PAYLOAD_BYTES) break;
          taken.push(row.entry);
          uptoSeq = row.seq;
        }
        return { epoch: part.epoch, fromSeq: first.seq, uptoSeq, payload: Buffer.from(`${head}${taken.join(',')}]}`) };
      }
      return null;
    },
    acknowledge(ack) {
      let ahead = false;
      let former = false;
      let highestEpoch = 0;
      for (const { epoch, upto_seq } of ack.epochs) {
        highestEpoch = Math.max(highestEpoch, epoch);
        const last = ledger.lastSeqOf(epoch);
        if (epoch > ledger.epoch() || (epoch === ledger.epoch() && upto_seq > (last ?? 0))) {
          ahead = true;
          continue;
        }
        if (salvaged.some((part) => part.epoch === epoch)) {
          ledger.change('release acknowledged rows', () => db.prepare('DELETE FROM salvaged WHERE epoch = ? AND seq <= ?').run(epoch, upto_seq));
          salvaged = salvagedLeft.all();
        }
        // An epoch of ours that is not here any more, or has lost its end.
        if (last === null || upto_seq > last) former ||= upto_seq > 0;
        if (last === null) continue;
        const upto = Math.min(upto_seq, last);
        if (upto > (acked.get(epoch) ?? 0)) {
          acked.set(epoch, upto);
          changed.add(epoch);
        }
        const resent = again.get(epoch);
        if (resent !== undefined && upto >= resent) {
          if (upto >= (acked.get(epoch) ?? 0)) again.delete(epoch);
          else again.set(epoch, upto + 1);
        }
      }
      return { ahead, former, highestEpoch };
    },
    resend([epoch, seq]) {
      if ((acked.get(epoch) ?? 0) >= seq) again.set(epoch, Math.min(again.get(epoch) ?? seq, seq));
      // Later epochs as well: the cloud lost everything from there on.
      for (const [later, upto] of acked) if (later > epoch && upto > 0) again.set(later, 1);
    },
    salvage(rows) {
      ledger.change('keep salvaged rows', () => {
        for (const row of rows) putSalvaged.run(row.epoch, row.seq, row.entry);
      });
      salvaged = salvagedLeft.all();
    },
    prune(nowMs, keeps) {
      const own = ledger.epochs()[0];
      if (own === undefined) return false;
      let upto = Math.min(released(own.epoch), own.firstSeq + PRUNE_STEP_ROWS - 1);
      while (upto >= own.firstSeq && !keeps.every((keep) => covered(keep, name, own.epoch, upto))) {
        // The covered prefix ends where the weakest manifest's does.
        const weakest = Math.min(
          ...keeps.map((keep) => (covered(keep, name, own.epoch, own.firstSeq) ? (keep[name]?.[0] === own.epoch ? (keep[name]?.[1] ?? 0) : upto) : 0)),
        );
        upto = Math.min(upto - 1, weakest);
      }
      if (upto < own.firstSeq) return false;
      const size =
        (db.pragma('page_count', { simple: true }) as number) * (db.pragma('page_size', { simple: true }) as number) -
        (db.pragma('freelist_count', { simple: true }) as number) * 4_096;
      if (size <= PRUNE_ABOVE_BYTES) {
        const newest = ledger.read(own.epoch, upto, 1)[0];
        const ts = newest === undefined ? Number.NaN : Date.parse(String((JSON.parse(newest.entry) as StoredEntry)['ts']));
        if (Number.isNaN(ts) || nowMs - ts < KEEP_ROWS_MS) return false;
      }
      return ledger.prune(own.epoch, upto, PRUNE_STEP_ROWS) > 0;
    },
    flush() {
      if (changed.size === 0) return;
      try {
        ledger.change('keep what was acknowledged', () => {
          for (const epoch of changed) db.prepare('UPDATE epochs SET acked_seq = max(acked_seq, ?) WHERE epoch = ?').run(acked.get(epoch) ?? 0, epoch);
        });
      } catch (error) {
        throw storeError('keep what was acknowledged', error);
      }
      changed.clear();
    },
  };
}
