/**
 * The lamps and the buzzer of each signal as data: on and off when. The loop plays it.
 * LANE.md "What a guest sees and hears" is this table.
 */
import type { Direction } from '../../contract/ids.ts';
import type { LampSet } from './config.ts';
import { type LaneOutput, SIGNALS, type Signal } from './types.ts';

export type Colour = 'green' | 'red' | 'amber';

/** On for the first time, off for the second, and so on, ms. `repeat`: from the beginning again; else dark at the end. An empty list with `repeat`: steadily on. */
export interface BlinkPattern {
  readonly onOffMs: readonly number[];
  readonly repeat: boolean;
}

/** Lamps that are not named are dark; without `buzzer` it is silent. */
export type Pattern = Readonly<Partial<Record<Colour | 'buzzer', BlinkPattern>>>;

const STEADY: BlinkPattern = { onOffMs: [], repeat: true };
const blink = (onMs: number, offMs: number): BlinkPattern => ({ onOffMs: [onMs, offMs], repeat: true });
const flashes = (count: number): BlinkPattern => ({ onOffMs: Array.from({ length: count * 2 }, (_, i) => (i === count * 2 - 1 ? 1_500 : 250)), repeat: true });
const beeps = (count: number): BlinkPattern => ({ onOffMs: Array.from({ length: count * 2 - 1 }, () => BEEP_MS), repeat: false });
/** One beep, and the silence between two. */
export const BEEP_MS = 120;

export const PATTERNS: Readonly<Record<Signal, Pattern>> = {
  ready: { amber: STEADY },
  working: { amber: blink(250, 250) },
  granted: { green: STEADY, buzzer: beeps(1) },
  granted_attention: { green: STEADY, buzzer: beeps(2) },
  refused: { red: STEADY, buzzer: beeps(2) },
  /** Valid at another entrance, or later. */
  refused_elsewhere: { red: STEADY, amber: STEADY, buzzer: beeps(2) },
  busy: { amber: { onOffMs: [120, 120, 120, 640], repeat: true } },
  closed: { red: STEADY },
  free: { green: STEADY },
  /** As free; on a lane with one set of lamps the entrance sounds first. */
  exit_open: { green: STEADY },
  emergency: { green: blink(250, 250) },
  alarm: { red: blink(200, 200), buzzer: blink(400, 200) },
  booting: { amber: flashes(1) },
  no_manifest: { amber: flashes(2) },
  no_reader: { amber: flashes(3) },
  disk: { amber: flashes(4) },
};

/** Returns whether the pattern is on `elapsedMs` after its beginning, and when that changes next (ms after the beginning; null: never). */
export function blinkAt(pattern: BlinkPattern | undefined, elapsedMs: number): { readonly on: boolean; readonly nextMs: number | null } {
  if (pattern === undefined) return { on: false, nextMs: null };
  if (pattern.onOffMs.length === 0) return { on: pattern.repeat, nextMs: null };
  const lengthMs = pattern.onOffMs.reduce((sum, ms) => sum + ms, 0);
  if (!pattern.repeat && elapsedMs >= lengthMs) return { on: false, nextMs: null };
  const roundMs = pattern.repeat ? Math.floor(elapsedMs / lengthMs) * lengthMs : 0;
  let endMs = roundMs;
  for (const [index, ms] of pattern.onOffMs.entries()) {
    endMs += ms;
    if (elapsedMs < endMs) return { on: index % 2 === 0, nextMs: endMs };
  }
  return { on: true, nextMs: roundMs + lengthMs };
}

/** The signal of one direction and its beginning, boottime ms. */
export interface ActiveSignal {
  readonly signal: Signal;
  readonly sinceMs: number;
}

export type Lamps = Readonly<Record<Colour, boolean>>;

/** All signal outputs at one time, and when to look again (boottime ms; null: nothing moves). */
export interface RenderedLamps {
  readonly outputs: ReadonlyMap<LaneOutput, boolean>;
  readonly lamps: Readonly<Record<Direction, Lamps>>;
  readonly nextMs: number | null;
}

const DIRECTIONS = ['in', 'out'] as const;
const COLOURS = ['green', 'red', 'amber'] as const;

/** Returns every lamp and the buzzer at `nowMs`. */
export function renderLamps(active: Readonly<Record<Direction, ActiveSignal>>, lamps: LampSet, nowMs: number): RenderedLamps {
  const urgent = moreUrgent(active.in, active.out);
  const showing = lamps === 'shared' ? { in: urgent, out: urgent } : active;
  const outputs = new Map<LaneOutput, boolean>();
  const lit = { in: { green: false, red: false, amber: false }, out: { green: false, red: false, amber: false } };
  let nextMs: number | null = null;
  const look = (one: ActiveSignal, pattern: BlinkPattern | undefined): boolean => {
    const at = blinkAt(pattern, Math.max(0, nowMs - one.sinceMs));
    if (at.nextMs !== null) nextMs = Math.min(nextMs ?? Number.POSITIVE_INFINITY, one.sinceMs + at.nextMs);
    return at.on;
  };
  for (const direction of DIRECTIONS) {
    for (const colour of COLOURS) {
      lit[direction][colour] = look(showing[direction], PATTERNS[showing[direction].signal][colour]);
      if (lamps === 'per_direction' || direction === 'in') outputs.set(`${colour}_${direction}`, lit[direction][colour]);
    }
  }
  const sounding = DIRECTIONS.map((direction) => look(showing[direction], PATTERNS[showing[direction].signal].buzzer));
  outputs.set('buzzer', sounding.includes(true));
  return { outputs, lamps: lit, nextMs };
}

function moreUrgent(a: ActiveSignal, b: ActiveSignal): ActiveSignal {
  const [rankA, rankB] = [SIGNALS.indexOf(a.signal), SIGNALS.indexOf(b.signal)];
  if (rankA === rankB) return a.sinceMs >= b.sinceMs ? a : b;
  return rankA < rankB ? a : b;
}
