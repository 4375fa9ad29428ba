/**
 * Rows that the cloud had acknowledged and that are owed to it again: its database was restored from an older copy, or somebody ordered it.
 *
 * An ack that says less than an earlier one may have been overtaken by it. So what it leaves out is only doubted; two acks at least
 * DOUBT_MS apart that leave out the same rows are the order to send them. Where no second ack comes by itself, the first of the doubted
 * rows are sent as the question, for every ledger message is answered by an ack.
 */
import type { AckMessage } from '../../contract/ledger.ts';
import { MAX_ACK_EPOCHS, MAX_LEDGER_ENTRIES } from '../../contract/limits.ts';

/** Two acks so far apart, by the cloud's clock or by this gate's own, did not overtake each other, in milliseconds. */
export const DOUBT_MS = 10_000;

/** Rows from..to of one epoch. */
export type Span = readonly [epoch: number, from: number, to: number];
/** An own epoch that has rows here, and up to where it was acknowledged. */
export interface HeldEpoch {
  readonly epoch: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly acked: number;
}

export interface Owed {
  /**
   * Takes what an ack says. `held`: the epochs here, with what was acknowledged before and with this ack. `renewed`: the database begins another life, so no
   * earlier ack can have overtaken this one. True: rows are owed that were not before.
   */
  acknowledged(ack: AckMessage, held: readonly HeldEpoch[], boottimeMs: number, renewed: boolean): boolean;
  /** Turns a doubt that no ack has settled in time into a question. True: rows are owed that were not before. */
  ask(boottimeMs: number): boolean;
  /** Makes these rows owed, whatever earlier acks stated. */
  order(spans: readonly Span[]): void;
  /** Drops what is owed of epochs below this one: they are closed. */
  drop(belowEpoch: number): void;
  /** Notes rows of an epoch that were handed out for sending: from now on an ack of them counts. */
  handedOut(epoch: number, from: number, to: number): void;
  /** Returns the spans that are owed, in order. Neither these nor the doubted ones may be pruned. */
  spans(): readonly Span[];
  doubted(): readonly Span[];
  /** Returns the rows that the latest ack leaves out. */
  leftOut(): readonly Span[];
}

const overlap = (a: readonly Span[], b: readonly Span[]): Span[] =>
  a
    .flatMap(([epoch, from, to]) => b.flatMap((one): Span[] => (one[0] === epoch ? [[epoch, Math.max(from, one[1]), Math.min(to, one[2])]] : [])))
    .filter(isSome);
const isSome = ([, from, to]: Span): boolean => from <= to;

function without(a: readonly Span[], b: readonly Span[]): Span[] {
  return b.reduce<Span[]>(
    (left, [epoch, from, to]) =>
      left.flatMap((one): Span[] => {
        if (one[0] !== epoch) return [one];
        const parts: Span[] = [
          [epoch, one[1], Math.min(one[2], from - 1)],
          [epoch, Math.max(one[1], to + 1), one[2]],
        ];
        return parts.filter(isSome);
      }),
    [...a],
  );
}

/** Orders spans, and joins those that touch. */
export function joined(spans: readonly Span[]): Span[] {
  const all: Span[] = [];
  for (const span of [...spans].filter(isSome).sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    const last = all.at(-1);
    if (last !== undefined && last[0] === span[0] && span[1] <= last[2] + 1) all[all.length - 1] = [last[0], last[1], Math.max(last[2], span[2])];
    else all.push(span);
  }
  return all;
}

export const rowsOf = (spans: readonly Span[]): number => spans.reduce((sum, [, from, to]) => sum + to - from + 1, 0);

/** Ranges that another copy of this store declared gone. */
const goneOf = (ack: AckMessage): Span[] =>
  ack.epochs.flatMap(({ epoch, ...rest }) => ((rest['gone'] ?? []) as readonly (readonly [number, number])[]).map(([from, to]): Span => [epoch, from, to]));

/** Returns the rows here that were acknowledged and that this ack does not say to hold. Behind the last range that it names nothing is known. */
function missingOf(ack: AckMessage, held: readonly HeldEpoch[]): Span[] {
  return held.flatMap(({ epoch, firstSeq, lastSeq, acked }): Span[] => {
    const inAck = ack.epochs.find((one) => one.epoch === epoch);
    // Only so many epochs are named: an older one may be held all the same.
    if (inAck === undefined && ack.epochs.length >= MAX_ACK_EPOCHS) return [];
    const upto = inAck?.upto_seq ?? 0;
    if (upto >= acked) return [];
    const gaps = inAck === undefined || inAck.missing.length === 0 ? [[upto + 1, acked] as const] : inAck.missing;
    return gaps.map(([from, to]): Span => [epoch, Math.max(from, firstSeq), Math.min(to, acked, lastSeq)]).filter(isSome);
  });
}

/**
 * `kept`: what was owed when the process ended; `changed` is called when that is to be written anew, with the number of rows that are owed and were not
 * before.
 */
export function createOwed(kept: readonly Span[], changed: (added: number) => void): Owed {
  let owed: readonly Span[] = joined(kept);
  let handed: readonly Span[] = [];
  let left: readonly Span[] = [];
  let doubt: { readonly cloudMs: number; readonly bootMs: number; readonly spans: readonly Span[]; readonly asked: boolean } | null = null;

  const owe = (spans: readonly Span[]): boolean => {
    const before = rowsOf(owed);
    owed = joined([...owed, ...spans]);
    const added = rowsOf(owed) - before;
    if (added === 0) return false;
    changed(added);
    return true;
  };
  /** Removes the spans that were handed out and that the cloud holds now. */
  const settle = (ack: AckMessage): void => {
    const held = ack.epochs.flatMap(({ epoch, upto_seq, missing }): Span[] => {
      const last = missing.at(-1)?.[0] ?? 0;
      return without([[epoch, 1, Math.max(upto_seq, last - 1)]], [...missing.map(([from, to]): Span => [epoch, from, to]), ...goneOf(ack)]);
    });
    const done = overlap(overlap(owed, handed), held);
    if (done.length === 0) return;
    owed = without(owed, done);
    handed = overlap(handed, owed);
    changed(0);
  };
  return {
    acknowledged(ack, held, boottimeMs, renewed) {
      settle(ack);
      left = missingOf(ack, held);
      const out = without(left, owed);
      // Another copy of this store gave these up, and this one holds them.
      const given = overlap(
        goneOf(ack),
        held.map(({ epoch, firstSeq, lastSeq }): Span => [epoch, firstSeq, lastSeq]),
      );
      if (renewed) {
        doubt = null;
        return owe([...out, ...given]);
      }
      if (given.length > 0 && owe(given)) return true;
      const cloudMs = Date.parse(ack.cloud_time);
      const same: readonly Span[] = doubt === null ? [] : overlap(doubt.spans, out);
      if (doubt === null || same.length === 0) {
        doubt = out.length === 0 ? null : { cloudMs, bootMs: boottimeMs, spans: out, asked: false };
        return false;
      }
      if (cloudMs - doubt.cloudMs < DOUBT_MS && boottimeMs - doubt.bootMs < DOUBT_MS) {
        doubt = { ...doubt, spans: same };
        return false;
      }
      // What only this ack leaves out begins a doubt of its own.
      const fresh = without(out, same);
      doubt = fresh.length === 0 ? null : { cloudMs, bootMs: boottimeMs, spans: fresh, asked: false };
      return owe(same);
    },
    ask(boottimeMs) {
      if (doubt === null || doubt.asked || boottimeMs - doubt.bootMs < DOUBT_MS) return false;
      doubt = { ...doubt, asked: true };
      const [epoch, from, to] = doubt.spans[0] as Span;
      return owe([[epoch, from, Math.min(to, from + MAX_LEDGER_ENTRIES - 1)]]);
    },
    order(spans) {
      handed = without(handed, spans);
      owe(spans);
    },
    drop(belowEpoch) {
      const isOpen = ([epoch]: Span): boolean => epoch >= belowEpoch;
      doubt = null;
      [owed, handed, left] = [owed.filter(isOpen), handed.filter(isOpen), left.filter(isOpen)];
      changed(0);
    },
    handedOut(epoch, from, to) {
      if (owed.length > 0) handed = joined([...handed, ...overlap([[epoch, from, to]], owed)]);
    },
    spans: () => owed,
    doubted: () => doubt?.spans ?? [],
    leftOut: () => left,
  };
}
