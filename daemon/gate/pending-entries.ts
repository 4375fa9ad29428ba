/**
 * What the ledger must remember besides decisions, on its way to the decider: in order, again until it is written.
 *
 * While the disk works, notes are handed over at once (the decider keeps their order among decisions). When one fails, it and
 * all later ones wait here; the first of them is tried again from time to time, and once it is written the rest follows.
 */
import type { RowPosition } from '../../contract/ids.ts';
import type { PassageOutcome } from '../../contract/ledger.ts';
import type { LaneNote } from '../lane/types.ts';
import type { Note } from '../ports.ts';
import type { Timers } from '../timers.ts';

/** Notes that wait in memory. Beyond: the oldest refusal, unmatched exit, alarm or fault gives way, then the oldest free or forced passage, then the oldest of all; counted, and told by a `fault` row later. */
export const MAX_PENDING_NOTES = 1_000;
/** Pause before a failed note is tried again, ms. */
const RETRY_MS = 1_000;
/** Notes handed over and not answered yet, while the disk stalls; further ones wait here, so that decisions find room at the decider. */
const MAX_UNDER_WAY = 100;
/** Overrides whose row is remembered for their passages. */
const MAX_OVERRIDES_KNOWN = 64;

interface Pending {
  readonly note: LaneNote;
  readonly override: number | null;
  readonly done: (row: RowPosition) => void;
}

export interface PendingEntries {
  /** Hands a note over. Resolves when it is committed; never rejects: a failed write is tried again. */
  add(note: LaneNote, override?: number): Promise<RowPosition>;
  /** The decider was asked for the row of this exit: its passages wait for the answer. */
  expect(exit: number): void;
  /** The decider has written it. `unmatched`: no admission is known, so whoever passes by it passes freely. */
  answered(exit: number, row: RowPosition, unmatched: boolean): void;
  /** The decider has not: it is written from here, before its passages. */
  unanswered(exit: number): void;
  /** The decider is open: what waits is written now. Before that everything waits. */
  start(): void;
  /** All that was added so far is written, or `false` after `withinMs`. */
  flush(withinMs: number): Promise<boolean>;
  close(): void;
  pending(): number;
  dropped(): number;
}

export interface PendingEntriesOptions {
  readonly record: (note: Note) => Promise<RowPosition>;
  readonly timers: Timers;
  /** A write worked. */
  readonly written: (note: Note, row: RowPosition) => void;
  /** A write failed; it is tried again. */
  readonly failed: (error: unknown) => void;
}

/** Nobody's passage: counted, and no ticket's. */
const freely = (outcome: PassageOutcome): PassageOutcome => (outcome === 'passed' ? 'free' : outcome);

export function createPendingEntries(options: PendingEntriesOptions): PendingEntries {
  const { record, timers, written, failed } = options;
  /** Added, not yet handed over: the decider is not open, or something before failed. In order. */
  const waiting: Pending[] = [];
  /** Handed over, not yet answered. */
  const underWay = new Set<Pending>();
  const overrides = new Map<number, { readonly row: RowPosition; readonly unmatched: boolean }>();
  /** Exits whose row the decider owes. */
  const expected = new Set<number>();
  let started = false;
  let closed = false;
  let failing: Pending[] = [];
  let retry: { cancel(): void } | null = null;
  /** After a failure: one at a time until one is written. */
  let probing = false;
  let dropped = 0;
  let droppedUntold = 0;
  let settled: (() => void)[] = [];

  /** The note as the decider takes it; null: the row that it points at is not known yet. */
  function ready(note: LaneNote): Note | null {
    if (note.kind !== 'passage') return note;
    if (note.of === null) return { ...note, of: null };
    if ('row' in note.of) return { ...note, of: note.of.row };
    const known = overrides.get(note.of.override);
    if (known === undefined) return null;
    return { ...note, of: known.row, outcome: known.unmatched ? freely(note.outcome) : note.outcome };
  }

  /** An override or an exit that gave way to the bound leaves its passage without a row to point at. */
  const ownerless = (note: Extract<LaneNote, { kind: 'passage' }>): Note => ({ ...note, of: null, unit: null, outcome: freely(note.outcome) });
  const isOwed = ({ note }: Pending): boolean => note.kind === 'passage' && note.of !== null && 'override' in note.of && expected.has(note.of.override);

  async function handOver(pending: Pending, note: Note): Promise<void> {
    underWay.add(pending);
    try {
      const row = await record(note);
      underWay.delete(pending);
      probing = false;
      if (pending.override !== null) know(pending.override, row, note.kind === 'exit_unmatched');
      pending.done(row);
      written(note, row);
    } catch (error) {
      underWay.delete(pending);
      failing.push(pending);
      failed(error);
    }
    turn();
  }

  function know(override: number, row: RowPosition, unmatched: boolean): void {
    expected.delete(override);
    overrides.set(override, { row, unmatched });
    const oldest = overrides.keys().next();
    if (overrides.size > MAX_OVERRIDES_KNOWN && !oldest.done) overrides.delete(oldest.value);
  }

  /** Hands over what can be: everything while it works, one at a time after a failure. */
  function turn(): void {
    if (failing.length > 0 && underWay.size === 0) {
      waiting.unshift(...failing);
      failing = [];
      probing = true;
      retry ??= closed
        ? null
        : timers.after(RETRY_MS, () => {
            retry = null;
            turn();
          });
    }
    while (started && retry === null && failing.length === 0 && waiting[0] !== undefined && underWay.size < (probing ? 1 : MAX_UNDER_WAY)) {
      const note = ready(waiting[0].note);
      if (note === null && (underWay.size > 0 || isOwed(waiting[0]))) break;
      const pending = waiting.shift() as Pending;
      void handOver(pending, note ?? ownerless(pending.note as Extract<LaneNote, { kind: 'passage' }>));
    }
    if (!isEmpty()) return;
    if (droppedUntold > 0) return recordDropped();
    for (const resolve of settled) resolve();
    settled = [];
  }

  const isEmpty = () => waiting.length === 0 && failing.length === 0 && underWay.size === 0;

  function recordDropped(): void {
    const note: LaneNote = {
      kind: 'fault',
      what: 'notes_lost',
      detail: `${droppedUntold} notes gave way while the store had failed (${MAX_PENDING_NOTES} are kept)`,
    };
    droppedUntold = 0;
    waiting.push({ note, override: null, done: () => undefined });
    turn();
  }

  function evictOne(): void {
    const expendable = (one: Pending) =>
      one.note.kind === 'refusal' || one.note.kind === 'exit_unmatched' || one.note.kind === 'alarm' || one.note.kind === 'fault';
    const uncounted = (one: Pending) => one.note.kind === 'passage' && one.note.of === null;
    let index = waiting.findIndex(expendable);
    if (index < 0) index = waiting.findIndex(uncounted);
    waiting.splice(Math.max(0, index), 1);
    dropped += 1;
    droppedUntold += 1;
  }

  return {
    add(note, override) {
      return new Promise((done) => {
        if (waiting.length >= MAX_PENDING_NOTES) evictOne();
        waiting.push({ note, override: override ?? null, done });
        turn();
      });
    },
    expect(exit) {
      expected.add(exit);
    },
    answered(exit, row, unmatched) {
      know(exit, row, unmatched);
      turn();
    },
    unanswered(exit) {
      expected.delete(exit);
      if (waiting.length >= MAX_PENDING_NOTES) evictOne();
      waiting.unshift({ note: { kind: 'exit_unmatched', direction: 'out', reason: 'error' }, override: exit, done: () => undefined });
      turn();
    },
    start() {
      started = true;
      turn();
    },
    async flush(withinMs) {
      if (isEmpty()) return true;
      return new Promise((resolve) => {
        const late = timers.after(withinMs, () => resolve(false));
        settled.push(() => {
          late.cancel();
          resolve(true);
        });
      });
    },
    close() {
      closed = true;
      retry?.cancel();
    },
    pending: () => waiting.length + failing.length + underWay.size,
    dropped: () => dropped,
  };
}
