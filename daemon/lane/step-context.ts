/** One turn of the lane: the state being made, the effects so far. Used by the parts of the step; leaves the given state untouched. */
import type { Direction } from '../../contract/ids.ts';
import type { Exit, LaneConfig } from './config.ts';
import { NO_ONE } from './debounce.ts';
import type { At, DirectionState, DirectionTimer, LaneEffect, LaneNote, LaneState, Notice, Signal, TimerName } from './types.ts';
import { BOTH } from './types.ts';

type Writable<T> = { -readonly [K in keyof T]: T[K] };

export interface Turn {
  readonly state: Writable<LaneState>;
  readonly effects: LaneEffect[];
  readonly config: LaneConfig;
  readonly now: At;
  /** Directions whose pattern begins anew although the signal stays. */
  readonly again: Set<Direction>;
}

/** Long ago, for "off since". */
const LONG_AGO_MS = -1e12;

function initialDirection(): DirectionState {
  return {
    mode: 'controlled',
    untilWallMs: null,
    pendingMode: null,
    deciding: null,
    grant: null,
    rotation: null,
    release: { state: 'off', again: false, offSinceMs: LONG_AGO_MS },
    freeTailMs: LONG_AGO_MS,
    queue: [],
    exits: [],
    recent: [],
    notice: null,
    signal: 'booting',
    readerOk: true,
  };
}

/** A lane that has just been switched on: controlled, closed, booting. `condition: booted` ends the booting. */
export function initialLane(): LaneState {
  return {
    in: initialDirection(),
    out: initialDirection(),
    fire: { asserted: false, latched: false },
    tamper: false,
    lines: {},
    beams: NO_ONE,
    timers: {},
    nextOverride: 1,
    draining: 'no',
    stopHeld: false,
    booted: false,
    manifestOk: true,
    diskOk: true,
    stopped: false,
  };
}

export function beginStep(state: LaneState, config: LaneConfig, now: At): Turn {
  return { state: { ...state, timers: { ...state.timers } }, effects: [], config, now, again: new Set() };
}

export function patch(turn: Turn, direction: Direction, change: Partial<DirectionState>): void {
  turn.state[direction] = { ...turn.state[direction], ...change };
}

export function setTimer(turn: Turn, timer: TimerName, dueMs: number): void {
  (turn.state.timers as Record<string, number>)[timer] = dueMs;
  turn.effects.push({ kind: 'set_timer', timer, dueMs });
}

export function cancelTimer(turn: Turn, timer: TimerName): void {
  if (turn.state.timers[timer] === undefined) return;
  delete (turn.state.timers as Record<string, number>)[timer];
  turn.effects.push({ kind: 'cancel_timer', timer });
}

export function cancelTimers(turn: Turn, direction: Direction, names: readonly DirectionTimer[]): void {
  for (const name of names) cancelTimer(turn, `${name}:${direction}`);
}

export function record(turn: Turn, note: LaneNote, override?: number): void {
  turn.effects.push(override === undefined ? { kind: 'record', note } : { kind: 'record', note, override });
}

/** Shows something for a time, from its beginning. */
export function notify(turn: Turn, direction: Direction, notice: Notice, forMs: number): void {
  endNotice(turn, direction);
  patch(turn, direction, { notice });
  turn.again.add(direction);
  setTimer(turn, `notice:${direction}`, turn.now.atMs + forMs);
}

/** Ends what is shown for a time; the alert `forced` ends with its alarm. */
export function endNotice(turn: Turn, direction: Direction): void {
  const was = turn.state[direction].notice;
  if (was === null) return;
  cancelTimer(turn, `notice:${direction}`);
  patch(turn, direction, { notice: null });
  if (was.cause === 'forced' && !BOTH.some((one) => turn.state[one].notice?.cause === 'forced')) turn.effects.push({ kind: 'clear', alert: 'forced' });
}

/** How long "busy" blinks, ms. */
const BUSY_MS = 1_600;

/** "Please wait": does not hide an alarm. */
export function showBusy(turn: Turn, direction: Direction): void {
  if (turn.state[direction].notice?.signal !== 'alarm') notify(turn, direction, { signal: 'busy', cause: 'verdict' }, BUSY_MS);
}

/** Nothing is decided, open or turning. */
export function isIdle(state: LaneState, direction: Direction): boolean {
  const { deciding, grant, rotation } = state[direction];
  return deciding === null && grant === null && rotation === null;
}

/** A number for what opens before its row is written. */
export function nextNumber(turn: Turn): number {
  const number = turn.state.nextOverride;
  turn.state.nextOverride = number + 1;
  return number;
}

/** What a direction shows. */
export function signalOf(state: LaneState, direction: Direction, exit: Exit): Signal {
  const { notice, deciding, grant, rotation, mode, readerOk } = state[direction];
  if (state.fire.latched) return 'emergency';
  if (notice !== null) return notice.signal;
  if (deciding?.waited === true) return 'working';
  // Who shows a code outwards is let out although the line is stuck.
  if (rotation?.stuck === true && direction === 'in') return 'closed';
  if (grant !== null && grant.phase !== 'grace') return grant.attention ? 'granted_attention' : 'granted';
  if (mode === 'free') return direction === 'out' && exit === 'free' && !state.stopped ? 'exit_open' : 'free';
  if (mode !== 'controlled' || state.stopped) return 'closed';
  if (!state.booted) return 'booting';
  // Out needs neither the store nor a list.
  if (direction === 'out') return readerOk ? 'ready' : 'no_reader';
  if (!state.diskOk) return 'disk';
  if (!readerOk) return 'no_reader';
  return state.manifestOk ? 'ready' : 'no_manifest';
}
