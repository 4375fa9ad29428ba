/**
 * Timed edges → levels that held → passages. Pure: the edges' own times decide, not when they were delivered.
 *
 * A level counts once it has held for its time: short for "active" (a turnstile's pulse of 5 ms is kept, chatter below is
 * dropped), longer for "rest" (a bouncing contact stays one passage). What held is dated back to its edge.
 */
import type { Direction } from '../../contract/ids.ts';

/** One input line. `level` is what counts; `raw` is what the wire says since `sinceMs`. */
export interface LineState {
  readonly level: boolean;
  readonly raw: boolean;
  readonly sinceMs: number;
}

/** The times that a level must hold, in ms. */
export interface Holds {
  readonly activeMs: number;
  readonly restMs: number;
}

/** A level that held, dated at its edge. */
export interface LevelChange {
  readonly active: boolean;
  readonly atMs: number;
}

export interface Debounced {
  readonly line: LineState;
  readonly changes: readonly LevelChange[];
  /** Ask again (`settle`) at this time, boottime ms; null: nothing is open. */
  readonly dueMs: number | null;
}

export const AT_REST: LineState = { level: false, raw: false, sinceMs: 0 };

/** Takes one report of the wire: an edge, or a level read in passing (the same level again changes nothing). */
export function debounce(line: LineState, active: boolean, atMs: number, holds: Holds): Debounced {
  if (active === line.raw) return settle(line, atMs, holds);
  const before = settle(line, atMs, holds);
  const after = settle({ ...before.line, raw: active, sinceMs: atMs }, atMs, holds);
  return { ...after, changes: [...before.changes, ...after.changes] };
}

/** Applies the passed time: a raw level that has held counts. */
export function settle(line: LineState, atMs: number, holds: Holds): Debounced {
  if (line.raw === line.level) return { line, changes: [], dueMs: null };
  const dueMs = line.sinceMs + (line.raw ? holds.activeMs : holds.restMs);
  if (atMs < dueMs) return { line, changes: [], dueMs };
  return { line: { ...line, level: line.raw }, changes: [{ active: line.raw, atMs: line.sinceMs }], dueMs: null };
}

/** A passage event. `backed_out`: begun and abandoned, nobody went through. */
export interface PassageEvent {
  readonly kind: 'started' | 'finished' | 'backed_out';
  readonly direction: Direction;
  readonly atMs: number;
}

export type Beam = 'beam_a' | 'beam_b';

/** Two light barriers: a, then b is the way in. `first`: the beam that was broken first, null while nobody is there. */
export interface BeamState {
  readonly a: boolean;
  readonly b: boolean;
  readonly first: Beam | null;
  readonly both: boolean;
  readonly lastCleared: Beam | null;
  /** Both clear after only one was broken: given up at this time unless the other is broken before (a quick walker between the beams). */
  readonly gapUntilMs: number | null;
}

export const NO_ONE: BeamState = { a: false, b: false, first: null, both: false, lastCleared: null, gapUntilMs: null };

/** How long a guest may be between the two beams, touching neither, ms. Longer: counted as given up. */
export const BEAM_GAP_MS = 400;

/** Takes one debounced change of a beam. `dueMs`: ask `beamGap` then. */
export function beam(state: BeamState, which: Beam, change: LevelChange): { readonly state: BeamState; readonly events: readonly PassageEvent[] } {
  const levels = which === 'beam_a' ? { a: change.active, b: state.b } : { a: state.a, b: change.active };
  const next: BeamState = { ...state, ...levels, lastCleared: change.active ? state.lastCleared : which };
  if (change.active) {
    if (next.first === null)
      return { state: { ...next, first: which, gapUntilMs: null }, events: [{ kind: 'started', direction: wayOf(which), atMs: change.atMs }] };
    return { state: { ...next, both: next.both || which !== next.first, gapUntilMs: null }, events: [] };
  }
  if (next.a || next.b || next.first === null) return { state: next, events: [] };
  if (!next.both) return { state: { ...next, gapUntilMs: change.atMs + BEAM_GAP_MS }, events: [] };
  const kind = which === next.first ? 'backed_out' : 'finished';
  return { state: NO_ONE, events: [{ kind, direction: wayOf(next.first), atMs: change.atMs }] };
}

/** The gap's time is up: given up, unless a beam was broken meanwhile. */
export function beamGap(state: BeamState, atMs: number): { readonly state: BeamState; readonly events: readonly PassageEvent[] } {
  if (state.first === null || state.gapUntilMs === null || atMs < state.gapUntilMs) return { state, events: [] };
  return { state: NO_ONE, events: [{ kind: 'backed_out', direction: wayOf(state.first), atMs }] };
}

function wayOf(first: Beam): Direction {
  return first === 'beam_a' ? 'in' : 'out';
}
