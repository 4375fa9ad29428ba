/**
 * Sends the ledger's entries besides decisions to the decider: in order, retried until they are committed.
 *
 * While the disk works, entries are sent at once (the decider keeps their order among decisions). When one fails, it and
 * all later ones wait here; the first of them is retried every RETRY_MS, and the rest follows once it is committed.
 */
import type { RowPosition } from '../../contract/ids.ts';
import type { PassageOutcome } from '../../contract/ledger.ts';
import type { LaneNote } from '../lane/types.ts';
import type { Decider, Note } from '../ports.ts';
import type { Timers } from '../timers.ts';
import type { Report } from './outcome.ts';

/** Bounds the entries that wait in memory. When full, evicts the oldest refusal, unmatched exit, alarm or fault first, then the oldest free or forced passage, then the oldest; a `fault` row counts them later. */
export const MAX_PENDING_ENTRIES = 1_000;
/** Pause before a failed entry is retried, ms. */
const RETRY_MS = 1_000;
/** Bounds the entries in flight while the disk stalls; further ones wait here, so that decisions find room at the decider. */
const MAX_IN_FLIGHT = 100;
/** Bounds the overrides whose row is kept for their passages; the oldest is evicted, and its later passages name no row. */
const MAX_OVERRIDES_KNOWN = 64;

interface Pending {
  readonly note: LaneNote;
  readonly override: number | null;
  readonly done: (row: RowPosition) => void;
}

export interface PendingEntries {
  /** Sends an entry. Resolves when it is committed; never rejects: a failed write is retried. */
  add(note: LaneNote, override?: number): Promise<RowPosition>;
  /** The decider owes the row of this exit: its passages wait for it. */
  expect(exit: number): void;
  /** The decider has committed it. `unmatched`: no admission is known, so its passages are free ones. */
  exitCommitted(exit: number, row: RowPosition, unmatched: boolean): void;
  /** The decider has not: it is sent from here, before its passages. */
  exitUndecided(exit: number): void;
  /** Begins to send; before it every entry waits. */
  start(): void;
  /** Resolves true when all entries so far are committed, false after `withinMs`. */
  flush(withinMs: number): Promise<boolean>;
  close(): void;
  pending(): number;
  dropped(): number;
}

export interface PendingEntriesOptions {
  readonly decider: Pick<Decider, 'record'>;
  readonly timers: Timers;
  readonly report: Report;
}

/** Returns the outcome of a passage that belongs to no ticket. */
const freely = (outcome: PassageOutcome): PassageOutcome => (outcome === 'passed' ? 'free' : outcome);

export function createPendingEntries(options: PendingEntriesOptions): PendingEntries {
  const { decider, timers, report } = options;
  /** Added and not yet sent, in order: the decider is not open, or an earlier entry failed. */
  const waiting: Pending[] = [];
  /** Sent, not yet answered. */
  const inFlight = new Set<Pending>();
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
  let unreportedDrops = 0;
  let settled: (() => void)[] = [];

  /** Returns the entry as the decider takes it; null: the row that it points at is not known yet. */
  function ready(note: LaneNote): Note | null {
    if (note.kind !== 'passage') return note;
    if (note.of === null) return { ...note, of: null };
    if ('row' in note.of) return { ...note, of: note.of.row };
    const known = overrides.get(note.of.override);
    if (known === undefined) return null;
    return { ...note, of: known.row, outcome: known.unmatched ? freely(note.outcome) : note.outcome };
  }

  /** An evicted override or exit leaves its passage without a row to point at. */
  const ownerless = (note: Extract<LaneNote, { kind: 'passage' }>): Note => ({ ...note, of: null, unit: null, outcome: freely(note.outcome) });
  const isOwed = ({ note }: Pending): boolean => note.kind === 'passage' && note.of !== null && 'override' in note.of && expected.has(note.of.override);

  async function send(pending: Pending, note: Note): Promise<void> {
    inFlight.add(pending);
    try {
      const row = await decider.record(note);
      inFlight.delete(pending);
      probing = false;
      if (pending.override !== null) know(pending.override, row, note.kind === 'exit_unmatched');
      pending.done(row);
      report({ kind: 'entry_committed', note, row });
    } catch (error) {
      inFlight.delete(pending);
      failing.push(pending);
      report({ kind: 'store_failed', error });
    }
    drain();
  }

  function know(override: number, row: RowPosition, unmatched: boolean): void {
    expected.delete(override);
    overrides.set(override, { row, unmatched });
    const oldest = overrides.keys().next();
    if (overrides.size > MAX_OVERRIDES_KNOWN && !oldest.done) overrides.delete(oldest.value);
  }

  /** Sends what can be sent: everything while the disk works, one at a time after a failure. */
  function drain(): void {
    if (failing.length > 0 && inFlight.size === 0) {
      waiting.unshift(...failing);
      failing = [];
      probing = true;
      retry ??= closed
        ? null
        : timers.after(RETRY_MS, () => {
            retry = null;
            drain();
          });
    }
    while (started && retry === null && failing.length === 0 && waiting[0] !== undefined && inFlight.size < (probing ? 1 : MAX_IN_FLIGHT)) {
      const note = ready(waiting[0].note);
      if (note === null && (inFlight.size > 0 || isOwed(waiting[0]))) break;
      const pending = waiting.shift() as Pending;
      void send(pending, note ?? ownerless(pending.note as Extract<LaneNote, { kind: 'passage' }>));
    }
    if (!isEmpty()) return;
    if (unreportedDrops > 0) return recordDropped();
    for (const resolve of settled) resolve();
    settled = [];
  }

  const isEmpty = () => waiting.length === 0 && failing.length === 0 && inFlight.size === 0;

  function recordDropped(): void {
    const note: LaneNote = {
      kind: 'fault',
      what: 'notes_lost',
      detail: `${unreportedDrops} entries were evicted while the store had failed (${MAX_PENDING_ENTRIES} are kept)`,
    };
    unreportedDrops = 0;
    waiting.push({ note, override: null, done: () => undefined });
    drain();
  }

  function evictOne(): void {
    const expendable = (one: Pending) =>
      one.note.kind === 'refusal' || one.note.kind === 'exit_unmatched' || one.note.kind === 'alarm' || one.note.kind === 'fault';
    const uncounted = (one: Pending) => one.note.kind === 'passage' && one.note.of === null;
    let index = waiting.findIndex(expendable);
    if (index < 0) index = waiting.findIndex(uncounted);
    waiting.splice(Math.max(0, index), 1);
    dropped += 1;
    unreportedDrops += 1;
  }

  return {
    add(note, override) {
      return new Promise((done) => {
        if (waiting.length >= MAX_PENDING_ENTRIES) evictOne();
        waiting.push({ note, override: override ?? null, done });
        drain();
      });
    },
    expect(exit) {
      expected.add(exit);
    },
    exitCommitted(exit, row, unmatched) {
      know(exit, row, unmatched);
      drain();
    },
    exitUndecided(exit) {
      expected.delete(exit);
      if (waiting.length >= MAX_PENDING_ENTRIES) evictOne();
      waiting.unshift({ note: { kind: 'exit_unmatched', direction: 'out', reason: 'error' }, override: exit, done: () => undefined });
      drain();
    },
    start() {
      started = true;
      drain();
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
    pending: () => waiting.length + failing.length + inFlight.size,
    dropped: () => dropped,
  };
}
