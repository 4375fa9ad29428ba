/**
 * Returns for how long a code counts as still held before its reader. Readers repeat a code at an interval of their own (0.1 to 5 s);
 * it is learned from the codes that lie there.
 */
import type { Direction } from '../../contract/ids.ts';
import type { StepContext } from './step-context.ts';
import type { DirectionState, Recent } from './types.ts';

/** Least time without a sight after which a code has left its reader, ms. */
export const HELD_GAP_MIN_MS = 1_500;
/** Longest time without a sight after which a code has left its reader, ms: a longer interval of a reader does not count as a repeat. */
export const HELD_GAP_MAX_MS = 8_000;
/** Intervals kept per reader. At the bound: the oldest is evicted. */
export const MAX_INTERVALS = 20;
/** The held gap is so many times the longest interval kept. */
const MARGIN = 1.5;
/** Two intervals that differ by less are a reader's own, not a guest's. */
const REGULAR = 0.25;

/** Returns the held gap of a reader, ms. */
export function heldGapOf(context: Pick<StepContext, 'state' | 'config'>, direction: Direction, reader: string | undefined): number {
  const set = reader === undefined ? undefined : context.config.sameCodeIntervalMs?.[reader];
  if (set !== undefined) return Math.min(HELD_GAP_MAX_MS, MARGIN * set);
  const learned = reader === undefined ? [] : (context.state[direction].repeats[reader] ?? []);
  return Math.min(HELD_GAP_MAX_MS, Math.max(HELD_GAP_MIN_MS, MARGIN * Math.max(0, ...learned)));
}

/**
 * Returns the intervals with one more, where it is the reader's own: the code was still held, its guest is passing or has passed (nobody shows a
 * granted code again by hand), or it equals the interval before.
 */
export function learnRepeat(repeats: DirectionState['repeats'], reader: string, intervalMs: number, seen: Recent, gapMs: number): DirectionState['repeats'] {
  if (MARGIN * intervalMs > HELD_GAP_MAX_MS) return repeats;
  const regular = seen.intervalMs !== null && Math.abs(intervalMs - seen.intervalMs) <= REGULAR * seen.intervalMs;
  if (intervalMs > gapMs && seen.answer !== 'granted' && !regular) return repeats;
  return { ...repeats, [reader]: [...(repeats[reader] ?? []), intervalMs].slice(-MAX_INTERVALS) };
}
