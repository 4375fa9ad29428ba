/** Groups a ticket's entries into visits: who is inside, and which entries belong to one party. Pure and total. */
import type { Entry } from './facts.ts';

/** One use of the ticket: a guest, or a party whose units came through one gate or several. */
export interface Visit {
  /** The time of its first unit. */
  readonly atMs: number;
  readonly gate: string;
}

export interface Usage {
  /** In order of time. Their number counts against an allowance. */
  readonly visits: readonly Visit[];
  /** Units inside, never below 0. */
  readonly inside: number;
  /** Units of the last party that have not arrived yet; 0 once it is complete or any unit has left. */
  readonly expected: number;
  readonly lastInMs: number | null;
  readonly lastInGate: string | null;
}

/**
 * Replays entries in order of time (then gate). Later units of a party belong to the visit that its first unit began, until the party is complete
 * or any unit leaves: the next entry then begins another visit.
 */
export function usageOf(entries: readonly Entry[], units: number): Usage {
  const ordered = entries.filter((entry) => entry.units > 0).sort((a, b) => a.atMs - b.atMs || (a.gate < b.gate ? -1 : a.gate > b.gate ? 1 : 0));
  const visits: Visit[] = [];
  let inside = 0;
  let expected = 0;
  let last: Entry | null = null;
  for (const entry of ordered) {
    if (entry.direction === 'out') {
      inside = Math.max(0, inside - entry.units);
      expected = 0;
      continue;
    }
    if (expected === 0) {
      visits.push({ atMs: entry.atMs, gate: entry.gate });
      expected = units;
    }
    expected = Math.max(0, expected - entry.units);
    inside += entry.units;
    last = entry;
  }
  return { visits, inside, expected, lastInMs: last?.atMs ?? null, lastInGate: last?.gate ?? null };
}
