/** Counts for the `health` and `stats` messages. `takeWindow` returns the current window and begins the next. */

import type { Direction } from '../../contract/ids.ts';
import type { PassageOutcome } from '../../contract/ledger.ts';
import type { NotTaken, StatsMessage } from '../../contract/messages.ts';
import type { Reason } from '../../contract/reasons.ts';
import type { DeciderStatus } from '../ports.ts';

/** Bounds the latencies kept of one window; of more a fair sample is kept (each with the same chance). */
const RESERVOIR = 1_000;

export interface GateStats {
  refused(reason: Reason): void;
  /** `ticket`: it belongs to a grant of a ticket, so it is an admission (in) or an exit (out). */
  passage(outcome: PassageOutcome, direction: Direction, ticket: boolean): void;
  decided(latencyUs: number): void;
  /** Counts a code for which no decision was requested. */
  notTaken(why: NotTaken): void;
  /** Continues the ledger's totals from those of the store as it opened. */
  continueFrom(totals: DeciderStatus['totals']): void;
  /** Totals of the ledger: as the store opened it, and since. */
  ledgerTotals(): DeciderStatus['totals'];
  /** Totals since the start. */
  totals(): { readonly admissions: number; readonly refusals: number; readonly passages: number; readonly notTaken: Readonly<Record<NotTaken, number>> };
  /** Returns the window so far and begins a new one. */
  takeWindow(nowMs: number): Omit<StatsMessage, 'schema'>;
}

/** `random`: 0 ≤ x < 1, for the sample. */
export function createStats(nowMs: number, random: () => number = Math.random): GateStats {
  let sinceMs = nowMs;
  let window = emptyWindow();
  let opened: DeciderStatus['totals'] = { admissions: 0, refusals: 0, passages: 0 };
  const totals = { admissions: 0, refusals: 0, passages: 0, notTaken: { busy: 0, held: 0, repeat: 0, open: 0 } };
  return {
    refused(reason) {
      window.refusals += 1;
      totals.refusals += 1;
      window.reasons.set(reason, (window.reasons.get(reason) ?? 0) + 1);
    },
    passage(outcome, direction, ticket) {
      if (outcome === 'returned') window.returned += 1;
      if (outcome !== 'passed' && outcome !== 'free' && outcome !== 'forced') return;
      window.passages += 1;
      totals.passages += 1;
      if (outcome !== 'passed' || !ticket) return;
      if (direction === 'out') window.exits += 1;
      else {
        window.admissions += 1;
        totals.admissions += 1;
      }
    },
    decided(latencyUs) {
      window.decisions += 1;
      if (window.latencies.length < RESERVOIR) window.latencies.push(latencyUs);
      else {
        const place = Math.floor(random() * window.decisions);
        if (place < RESERVOIR) window.latencies[place] = latencyUs;
      }
    },
    notTaken(why) {
      window.notTaken.set(why, (window.notTaken.get(why) ?? 0) + 1);
      totals.notTaken[why] += 1;
    },
    continueFrom(atOpening) {
      opened = atOpening;
    },
    ledgerTotals: () => ({
      admissions: opened.admissions + totals.admissions,
      refusals: opened.refusals + totals.refusals,
      passages: opened.passages + totals.passages,
    }),
    totals: () => ({ ...totals, notTaken: { ...totals.notTaken } }),
    takeWindow(atMs) {
      const { reasons, notTaken, latencies, decisions: _, ...counts } = window;
      latencies.sort((a, b) => a - b);
      const at = (share: number) => Math.round(latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))] ?? 0);
      const stats = {
        window_s: Math.max(0, atMs - sinceMs) / 1_000,
        ...counts,
        decision_p50_us: at(0.5),
        decision_p99_us: at(0.99),
        ...Object.fromEntries([...reasons].map(([reason, count]) => [`refused_${reason}`, count])),
        ...Object.fromEntries([...notTaken].map(([why, count]) => [`not_taken_${why}`, count])),
      };
      sinceMs = atMs;
      window = emptyWindow();
      return stats;
    },
  };
}

function emptyWindow() {
  return {
    admissions: 0,
    refusals: 0,
    passages: 0,
    returned: 0,
    exits: 0,
    decisions: 0,
    reasons: new Map<Reason, number>(),
    notTaken: new Map<NotTaken, number>(),
    latencies: [] as number[],
  };
}
