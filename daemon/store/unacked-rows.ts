/**
 * Selects the rows that still have to reach Postgres: acknowledgements, batches, resending, pruning.
 *
 * Only an acknowledgement's `upto_seq` releases rows; `missing` releases nothing. What was acknowledged is held in memory and
 * written when idle: losing it costs a resend and no more, because the acknowledgement is retained. What the cloud had and has no more
 * is sent again (`rows-to-resend.ts`).
 */
import type { LedgerVector, RowPosition } from '../../contract/ids.ts';
import type { AckMessage } from '../../contract/ledger.ts';
import { MAX_LEDGER_ENTRIES, MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { OutboxBatch } from '../ports.ts';
import { judgeAck } from './ack-judgement.ts';
import { goneRanges } from './gone-rows.ts';
import type { Ledger, StoredEntry } from './ledger.ts';
import type { Resubmission } from './resubmission.ts';
import { createOwed, DOUBT_MS, joined, rowsOf, type Span } from './rows-to-resend.ts';
import { createSalvagedRows, type SalvagedPart } from './salvaged-rows.ts';
import { storeError } from './sqlite.ts';
import { covered } from './usage-merge.ts';

/**
 * Acknowledged and covered rows younger than this are kept for questions and for a restored cloud, in milliseconds; unless the ledger is larger than
 * PRUNE_ABOVE_BYTES.
 */
export const KEEP_ROWS_MS = 14 * 24 * 3_600_000;
/** Size of the ledger's file from which acknowledged and covered rows are pruned whatever their age, in bytes. Others never are. */
export const PRUNE_ABOVE_BYTES = 256 * 1024 * 1024;
/** Rows pruned in one step, so that a decision waits for no more than that. */
export const PRUNE_STEP_ROWS = 500;

/** Time, in ms, for which `owedRows` still names rows after the last of them was acknowledged: the status that alerts people is read every few seconds only. */
export const NAME_RESENT_MS = 15_000;

const PAGE_BYTES = 4096;
/** Setting of the ledger: what is owed again, as JSON. */
const OWED = 'owed';
/** Setting of the ledger: the life of the cloud's database (`since`) that the last acknowledgement named. */
const CLOUD_LIFE = 'cloud_life';

type Rows = readonly { readonly seq: number; readonly entry: string }[];
interface Part {
  readonly epoch: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly saved: SalvagedPart | null;
}

/** Returns the wall time of a row, Unix ms. */
function timeOf(row: Rows[number] | undefined): number | null {
  const ts = row === undefined ? Number.NaN : Date.parse(String((JSON.parse(row.entry) as StoredEntry)['ts']));
  return Number.isNaN(ts) ? null : ts;
}

export interface Outbox {
  backlog(): number;
  /** Returns the last acknowledged seq of an own epoch; 0: not at all, or no epoch of this ledger. */
  ackedSeq(epoch: number): number;
  /** Returns the wall time of the oldest row that waits, Unix ms. */
  oldestMs(): number | null;
  nextBatch(after: RowPosition | null): OutboxBatch | null;
  /**
   * Takes an acknowledgement. `wentBack`: the cloud holds rows that this store has not: begin another epoch above `highestEpoch`, or `hold`. `former`: it
   * knows older epochs that are not here. `again`: rows are to be sent again from now on. `exact`: the cloud tells rows by their content and an admission by
   * its original; an older one would count a row that is written again twice.
   */
  acknowledge(
    ack: AckMessage,
    boottimeMs: number,
  ): { readonly wentBack: boolean; readonly former: boolean; readonly highestEpoch: number; readonly again: boolean; readonly exact: boolean };
  /** Forgets what is owed of closed epochs: their rows are sent under another one. */
  closed(): void;
  /** Sends nothing until an acknowledgement shows no rows that this store has not. */
  hold(): void;
  /**
   * Returns a ledger message without rows, which asks the cloud what it holds, and declares rows that the cloud waits for and this store has no more; null:
   * the cloud of the last acknowledgement does not know such messages.
   */
  question(): Uint8Array | null;
  /**
   * Orders rows to be sent again: from one on, or (null) those that the latest ack leaves out. Durable when it returns. Answers everything that will be sent.
   * Throws StoreError.
   */
  resend(from: RowPosition | null): readonly Span[];
  /**
   * Returns the number of rows that the cloud had acknowledged and that are sent again; it stays NAME_RESENT_MS longer than
   * they wait, counted from the first call after. Time passes: what was doubted for long may be among them.
   */
  owedRows(boottimeMs: number): number;
  /**
   * Prunes in one bounded step; false: nothing more to prune. `nowMs` null: the clock is not trusted, and no row is taken for old. `keeps`: what each manifest
   * kept covers.
   */
  prune(nowMs: number | null, keeps: readonly LedgerVector[]): boolean;
  /** Writes what was acknowledged. Throws StoreError. */
  flush(): void;
}

/** `resubmission`: tells which epochs are closed, and whose rows are still to be written again. */
export function createOutbox(ledger: Ledger, resubmission: Pick<Resubmission, 'closedBelow' | 'left' | 'written'>): Outbox {
  const { db, name } = ledger;
  const acked = new Map<number, number>();
  let owedChanged = false;
  /**
   * Rows sent again since nothing was owed and named. `untilMs`: boot time at which they are named no more; null: some are owed, or were after the last look.
   */
  const named: { rows: number; untilMs: number | null } = { rows: 0, untilMs: null };
  const owed = createOwed(readOwed(ledger), (added) => {
    owedChanged = true;
    named.rows += added;
    if (added > 0) named.untilMs = null;
  });
  named.rows = rowsOf(owed.spans());
  const changed = new Set<number>();
  for (const row of db.prepare<[], { epoch: number; acked_seq: number }>('SELECT epoch, acked_seq FROM epochs').all()) acked.set(row.epoch, row.acked_seq);
  const keepAcked = db.prepare<[number, number]>('UPDATE epochs SET acked_seq = max(acked_seq, ?) WHERE epoch = ?');
  const box = createSalvagedRows(ledger);
  /** What the last acknowledgement said that was not passed over. */
  let latest: { readonly epochs: AckMessage['epochs']; readonly uptos: ReadonlyMap<number, number>; readonly cloudMs: number; readonly bootMs: number } | null =
    null;
  let life = ledger.meta(CLOUD_LIFE) ?? null;
  let lifeChanged = false;
  /** The last acknowledgement named contents. */
  let exact = life !== null;
  let held = false;

  const open = () => ledger.epochs().filter(({ epoch }) => epoch >= resubmission.closedBelow());

  const ackedOf = (epoch: number): number => acked.get(epoch) ?? 0;
  /** Rows up to here are at the cloud, as far as anybody knows. */
  const released = (epoch: number): number =>
    Math.min(ackedOf(epoch), ...[...owed.spans(), ...owed.doubted()].flatMap((span) => (span[0] === epoch ? [span[1] - 1] : [])));
  const keepOwed = (): void => {
    if (!owedChanged) return;
    ledger.setMeta(OWED, JSON.stringify(owed.spans()));
    owedChanged = false;
  };
  /** Rows of an own epoch that wait: what is owed, and what was never acknowledged. */
  const unsent = (own: { readonly epoch: number; readonly firstSeq: number; readonly lastSeq: number }): Part[] =>
    joined([...owed.spans().filter(([epoch]) => epoch === own.epoch), [own.epoch, ackedOf(own.epoch) + 1, own.lastSeq]]).map(([epoch, from, to]) => ({
      epoch,
      firstSeq: Math.max(own.firstSeq, from),
      lastSeq: Math.min(own.lastSeq, to),
      saved: null,
    }));
  /** Returns everything that waits for an acknowledgement, oldest epoch first. */
  const waiting = (): Part[] =>
    [...box.parts().map((part) => ({ ...part, saved: part as SalvagedPart | null })), ...open().flatMap(unsent)].sort(
      (a, b) => a.epoch - b.epoch || a.firstSeq - b.firstSeq,
    );
  const count = (part: Part): number => Math.max(0, part.lastSeq - part.firstSeq + 1);
  const read = (part: Part, fromSeq: number, limit: number): Rows => {
    if (fromSeq > part.lastSeq) return [];
    const most = Math.min(limit, part.lastSeq - fromSeq + 1);
    return part.saved === null ? ledger.read(part.epoch, fromSeq, most) : box.read(part.epoch, fromSeq, most);
  };
  /** Returns as many of the rows as fit a message. */
  const pack = (epoch: number, rows: Rows): { readonly payload: Buffer; readonly uptoSeq: number } => {
    const head = `{"schema":${SCHEMA_VERSION},"gate":${JSON.stringify(name)},"epoch":${epoch},"entries":[`;
    let bytes = Buffer.byteLength(head) + 2;
    const taken: string[] = [];
    let uptoSeq = 0;
    for (const row of rows) {
      bytes += Buffer.byteLength(row.entry) + 1;
      if (taken.length > 0 && bytes > MAX_PAYLOAD_BYTES) break;
      taken.push(row.entry);
      uptoSeq = row.seq;
    }
    return { payload: Buffer.from(`${head}${taken.join(',')}]}`), uptoSeq };
  };

  /** The covered prefix ends where the weakest manifest's does. */
  const coveredUpto = (keep: LedgerVector, epoch: number, step: number): number =>
    covered(keep, name, epoch, step) ? step : keep[name]?.[0] === epoch ? keep[name][1] : 0;
  /** Tells whether the cloud has what was written again of a closed epoch's row, and every manifest kept counts it: both are pruned together. */
  const isCountedAgain = (keeps: readonly LedgerVector[]): boolean => {
    const last = resubmission.written();
    return last !== null && released(last.epoch) >= last.seq && keeps.every((keep) => covered(keep, name, last.epoch, last.seq));
  };

  return {
    backlog: () => waiting().reduce((sum, part) => sum + count(part), 0) + resubmission.left(),
    ackedSeq: ackedOf,
    oldestMs() {
      const part = waiting().find((one) => count(one) > 0);
      return part === undefined ? null : timeOf(read(part, part.firstSeq, 1)[0]);
    },
    nextBatch(after) {
      if (held) return null;
      for (const part of waiting()) {
        if (after !== null && part.epoch < after[0]) continue;
        const from = after !== null && part.epoch === after[0] ? Math.max(part.firstSeq, after[1] + 1) : part.firstSeq;
        const rows = read(part, from, MAX_LEDGER_ENTRIES);
        if (rows.length > 0) {
          const batch = { epoch: part.epoch, fromSeq: (rows[0] as Rows[number]).seq, ...pack(part.epoch, rows) };
          if (part.saved === null) owed.handedOut(batch.epoch, batch.fromSeq, batch.uptoSeq);
          return batch;
        }
        if (part.saved === null) continue;
        const behind = box.behind(part.saved, MAX_LEDGER_ENTRIES);
        if (behind[0] === undefined) continue;
        const { payload, uptoSeq } = pack(part.epoch, behind);
        box.handedOut(part.epoch, uptoSeq);
        // The cloud can never acknowledge these: the batch is done when what lies before the hole is.
        return { epoch: part.epoch, fromSeq: behind[0].seq, uptoSeq: part.lastSeq, payload };
      }
      return null;
    },
    acknowledge(ack, boottimeMs) {
      const uptos = new Map(ack.epochs.map(({ epoch, upto_seq }) => [epoch, upto_seq]));
      const since = typeof ack['since'] === 'string' ? ack['since'] : null;
      exact = since !== null;
      const renewed = since !== null && life !== null && since !== life;
      const cloudMs = Date.parse(ack.cloud_time);
      // It may have been overtaken by the one that says more; of a cloud whose clock ran backwards the own clock tells.
      const saysLess = latest !== null && [...latest.uptos].some(([epoch, upto]) => (uptos.get(epoch) ?? 0) < upto);
      if (latest !== null && saysLess && !renewed && cloudMs - latest.cloudMs < DOUBT_MS && boottimeMs - latest.bootMs < DOUBT_MS)
        return { wentBack: false, former: false, highestEpoch: 0, again: false, exact: false };
      latest = { epochs: ack.epochs, uptos, cloudMs: Math.max(cloudMs, renewed ? cloudMs : (latest?.cloudMs ?? cloudMs)), bootMs: boottimeMs };
      if (since !== null && since !== life) {
        life = since;
        lifeChanged = true;
      }
      const { believed, wentBack, former, highestEpoch } = judgeAck(ack, ledger, resubmission.closedBelow());
      for (const [epoch, upto] of uptos) box.acknowledged(epoch, upto);
      for (const [epoch, upto] of believed) {
        if (upto <= ackedOf(epoch)) continue;
        acked.set(epoch, upto);
        changed.add(epoch);
      }
      held = false;
      if (wentBack) return { wentBack, former, highestEpoch, again: false, exact };
      const kept = open().map((own) => ({ ...own, acked: ackedOf(own.epoch) }));
      return { wentBack, former, highestEpoch, again: owed.acknowledged(ack, kept, boottimeMs, renewed), exact };
    },
    closed() {
      owed.drop(resubmission.closedBelow());
      latest = null;
    },
    hold() {
      held = true;
    },
    question() {
      if (life === null || !exact) return null;
      const isSaved = (epoch: number): boolean => box.parts().some((part) => part.epoch === epoch);
      const gone = latest === null ? [] : goneRanges(latest.epochs, ledger, resubmission.closedBelow(), isSaved);
      const message = { schema: SCHEMA_VERSION, gate: name, epoch: ledger.epoch(), entries: [], ...(gone.length === 0 ? {} : { gone }) };
      return Buffer.from(JSON.stringify(message));
    },
    resend(from) {
      const kept = open().map(({ epoch, firstSeq, lastSeq }): Span => [epoch, firstSeq, Math.min(lastSeq, ackedOf(epoch))]);
      // Later epochs as well: the cloud lost everything from there on.
      const wanted =
        from === null
          ? owed.leftOut()
          : kept.flatMap(([epoch, first, last]): Span[] => (epoch < from[0] ? [] : [[epoch, epoch === from[0] ? Math.max(first, from[1]) : first, last]]));
      owed.order(wanted);
      keepOwed();
      return waiting().flatMap((part): Span[] => (count(part) === 0 ? [] : [[part.epoch, part.firstSeq, part.lastSeq]]));
    },
    owedRows(boottimeMs) {
      owed.ask(boottimeMs);
      if (rowsOf(owed.spans()) > 0) named.untilMs = null;
      else if (named.untilMs === null) named.untilMs = boottimeMs + NAME_RESENT_MS;
      else if (boottimeMs >= named.untilMs) named.rows = 0;
      return named.rows;
    },
    prune(nowMs, keeps) {
      const own = ledger.epochs()[0];
      if (own === undefined || resubmission.left() > 0) return false;
      const closed = own.epoch < resubmission.closedBelow();
      const step = Math.min(closed ? own.lastSeq : released(own.epoch), own.firstSeq + PRUNE_STEP_ROWS - 1);
      const upto = closed ? (isCountedAgain(keeps) ? step : 0) : Math.min(step, ...keeps.map((keep) => coveredUpto(keep, own.epoch, step)));
      if (upto < own.firstSeq) return false;
      const pages = (db.pragma('page_count', { simple: true }) as number) - (db.pragma('freelist_count', { simple: true }) as number);
      if (pages * PAGE_BYTES <= PRUNE_ABOVE_BYTES) {
        const newestMs = timeOf(ledger.read(own.epoch, upto, 1)[0]);
        // A row that seems to come from far ahead was written under a wrong clock: it is no younger than those behind it.
        if (newestMs === null || nowMs === null || Math.abs(nowMs - newestMs) < KEEP_ROWS_MS) return false;
      }
      return ledger.prune(own.epoch, upto, PRUNE_STEP_ROWS) > 0;
    },
    flush() {
      keepOwed();
      if (lifeChanged && life !== null) ledger.setMeta(CLOUD_LIFE, life);
      lifeChanged = false;
      if (changed.size === 0) return;
      try {
        ledger.change('keep what was acknowledged', () => {
          for (const epoch of changed) keepAcked.run(acked.get(epoch) ?? 0, epoch);
        });
      } catch (error) {
        throw storeError('keep what was acknowledged', error);
      }
      changed.clear();
    },
  };
}

/** Reads what was owed when the process ended. A setting that cannot be read owes nothing: the next acks name it again. */
function readOwed(ledger: Ledger): Span[] {
  try {
    const spans = JSON.parse(ledger.meta(OWED) ?? '[]') as unknown;
    return Array.isArray(spans) ? spans.filter((span): span is Span => Array.isArray(span) && span.length === 3 && span.every(Number.isSafeInteger)) : [];
  } catch {
    return [];
  }
}
