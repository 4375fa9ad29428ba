/**
 * Publishes the lane's snapshots and the last decisions in words to its subscribers: plain data, for the console tools and the
 * demo's screen. Never a code: a ticket is named by its ref.
 */
import type { Direction } from '../../contract/ids.ts';
import type { Mode } from '../../contract/ledger.ts';
import type { NotTaken } from '../../contract/messages.ts';
import type { Lamps } from '../lane/signals.ts';
import type { Signal } from '../lane/types.ts';
import type { DeciderStatus, GrantConflict } from '../ports.ts';
import type { Timers } from '../timers.ts';
import type { ActiveAlert, Report, ShownDecision } from './outcome.ts';
import type { ReaderCounts, ReaderProblem } from './reader-watch.ts';

export interface DirectionView {
  readonly mode: Mode;
  /** Takes effect when the passage in progress ends. */
  readonly pendingMode: Mode | null;
  readonly untilWallMs: number | null;
  readonly signal: Signal;
  readonly lamps: Lamps;
  /** The release output is driven. */
  readonly released: boolean;
  /** Of the open grant: which unit of how many. */
  readonly grant: { readonly unit: number; readonly units: number; readonly phase: 'released' | 'grace' | 'passing' } | null;
  readonly deciding: boolean;
}

export interface GateSnapshot {
  readonly gate: string;
  readonly wallMs: number;
  readonly in: DirectionView;
  readonly out: DirectionView;
  readonly buzzer: boolean;
  readonly fire: { readonly asserted: boolean; readonly latched: boolean };
  readonly tamper: boolean;
  readonly online: boolean;
  readonly diskOk: boolean;
  readonly boardOk: boolean;
  readonly readers: readonly (ReaderCounts & {
    readonly name: string;
    readonly direction: Direction;
    readonly ok: boolean;
    readonly problem: ReaderProblem | null;
  })[];
  /** The decider's last status (every few seconds); null before it opened. */
  readonly decider: DeciderStatus | null;
  readonly pendingEntryCount: number;
  readonly totals: { readonly admissions: number; readonly refusals: number; readonly passages: number };
  /** Codes without a request for a decision, since the start. */
  readonly notTaken: Readonly<Record<NotTaken, number>>;
  readonly alerts: readonly ActiveAlert[];
  /** Newest last. */
  readonly decisions: readonly ShownDecision[];
}

export type GateEvent =
  | { readonly kind: 'snapshot'; readonly snapshot: GateSnapshot }
  | { readonly kind: 'decision'; readonly decision: ShownDecision }
  | { readonly kind: 'conflict'; readonly conflict: GrantConflict };

/** Bounds the decisions kept for a new subscriber; the oldest is evicted. */
export const MAX_DECISIONS_SHOWN = 20;
/** Bounds the subscribers at once; a further one is refused. */
export const MAX_SUBSCRIBERS = 32;
/** Coalesces changes within this time into one snapshot, ms. */
const COALESCE_MS = 40;

export interface LiveFeed {
  /** Publishes the present snapshot at once, then every change. Throws when MAX_SUBSCRIBERS have subscribed. Returns the function that unsubscribes. */
  subscribe(listener: (event: GateEvent) => void): () => void;
  changed(): void;
  decided(decision: Omit<ShownDecision, 'n'>): void;
  conflict(conflict: GrantConflict): void;
  decisions(): readonly ShownDecision[];
  close(): void;
}

/** Feeds the subscribers. Removes and reports one that throws. */
export function createLiveFeed(options: { readonly snapshot: () => GateSnapshot; readonly timers: Timers; readonly report: Report }): LiveFeed {
  const listeners = new Set<(event: GateEvent) => void>();
  const last: ShownDecision[] = [];
  let count = 0;
  let scheduled: { cancel(): void } | null = null;

  function publish(event: GateEvent): void {
    for (const listener of [...listeners]) {
      try {
        listener(event);
      } catch (error) {
        listeners.delete(listener);
        options.report({ kind: 'subscriber_failed', error });
      }
    }
  }

  return {
    subscribe(listener) {
      if (listeners.size >= MAX_SUBSCRIBERS) throw new Error(`subscribe failed: ${MAX_SUBSCRIBERS} subscribers watch this gate already: close one of them`);
      listeners.add(listener);
      listener({ kind: 'snapshot', snapshot: options.snapshot() });
      return () => void listeners.delete(listener);
    },
    changed() {
      if (listeners.size === 0 || scheduled !== null) return;
      scheduled = options.timers.after(COALESCE_MS, () => {
        scheduled = null;
        publish({ kind: 'snapshot', snapshot: options.snapshot() });
      });
    },
    decided(decision) {
      count += 1;
      const numbered = { n: count, ...decision };
      last.push(numbered);
      if (last.length > MAX_DECISIONS_SHOWN) last.shift();
      publish({ kind: 'decision', decision: numbered });
      this.changed();
    },
    conflict(conflict) {
      publish({ kind: 'conflict', conflict });
      this.changed();
    },
    decisions: () => [...last],
    close() {
      scheduled?.cancel();
      listeners.clear();
    },
  };
}
