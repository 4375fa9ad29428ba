/** The context of one step of the lane: the state being built and the effects so far. The given state stays untouched. */
import type { Direction } from '../../contract/ids.ts';
import type { Exit, LaneConfig } from './config.ts';
import { NO_ONE } from './debounce.ts';
import type { At, DirectionState, DirectionTimer, LaneEffect, LaneNote, LaneState, Notice, SensorState, Signal, TimerName } from './types.ts';
import { BOTH } from './types.ts';

type Writable<T> = { -readonly [K in keyof T]: T[K] };

export interface StepContext {
  readonly state: Writable<LaneState>;
  readonly effects: LaneEffect[];
  readonly config: LaneConfig;
  readonly now: At;
  /** Directions whose pattern restarts although the signal stays. */
  readonly again: Set<Direction>;
}

/** Long ago, for "off since". */
const LONG_AGO_MS = -1e12;

export const NO_SENSOR_FAULT: SensorState = { fault: null, counting: false, inARow: [], returns: [] };

function initialDirection(): DirectionState {
  return {
    mode: 'controlled',
    untilWallMs: null,
    pendingMode: null,
    deciding: null,
    grant: null,
    rotation: null,
    sensor: NO_SENSOR_FAULT,
    release: { state: 'off', again: false, offSinceMs: LONG_AGO_MS },
    freeTailMs: LONG_AGO_MS,
    queue: [],
    held: null,
    repeats: {},
    exits: [],
    recent: [],
    notice: null,
    signal: 'booting',
    readerOk: true,
  };
}

/** Returns a lane that has just been switched on: controlled, closed, booting. `condition: booted` ends the booting. */
export function initialLane(): LaneState {
  return {
    in: initialDirection(),
    out: initialDirection(),
    fire: { asserted: false, latched: false },
    fireKicks: 0,
    entry: { keyFree: false, keyClosed: false, stopped: null, base: null, restored: false },
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

export function beginStep(state: LaneState, config: LaneConfig, now: At): StepContext {
  return { state: { ...state, timers: { ...state.timers } }, effects: [], config, now, again: new Set() };
}

export function update(context: StepContext, direction: Direction, change: Partial<DirectionState>): void {
  context.state[direction] = { ...context.state[direction], ...change };
}

export function setTimer(context: StepContext, timer: TimerName, dueMs: number): void {
  (context.state.timers as Record<string, number>)[timer] = dueMs;
  context.effects.push({ kind: 'set_timer', timer, dueMs });
}

export function cancelTimer(context: StepContext, timer: TimerName): void {
  if (context.state.timers[timer] === undefined) return;
  delete (context.state.timers as Record<string, number>)[timer];
  context.effects.push({ kind: 'cancel_timer', timer });
}

export function cancelTimers(context: StepContext, direction: Direction, names: readonly DirectionTimer[]): void {
  for (const name of names) cancelTimer(context, `${name}:${direction}`);
}

export function record(context: StepContext, note: LaneNote, override?: number): void {
  context.effects.push(override === undefined ? { kind: 'record', note } : { kind: 'record', note, override });
}

/** Shows a notice for `forMs`, from its beginning. */
export function notify(context: StepContext, direction: Direction, notice: Notice, forMs: number): void {
  endNotice(context, direction);
  update(context, direction, { notice });
  context.again.add(direction);
  setTimer(context, `notice:${direction}`, context.now.atMs + forMs);
}

/** Ends the notice, and with the last alarm the alert `forced`. */
export function endNotice(context: StepContext, direction: Direction): void {
  const was = context.state[direction].notice;
  if (was === null) return;
  cancelTimer(context, `notice:${direction}`);
  update(context, direction, { notice: null });
  if (was.cause === 'forced' && !BOTH.some((one) => context.state[one].notice?.cause === 'forced')) context.effects.push({ kind: 'clear', alert: 'forced' });
}

/** Duration of the busy notice, ms. */
const BUSY_MS = 1_600;

/** Shows `busy`, unless an alarm is shown. */
export function showBusy(context: StepContext, direction: Direction): void {
  if (context.state[direction].notice?.signal !== 'alarm') notify(context, direction, { signal: 'busy', cause: 'verdict' }, BUSY_MS);
}

/** Ends a busy notice. */
export function endBusy(context: StepContext, direction: Direction): void {
  if (context.state[direction].notice?.signal === 'busy') endNotice(context, direction);
}

/** Returns whether no decision, grant or rotation is in progress. */
export function isIdle(state: LaneState, direction: Direction): boolean {
  const { deciding, grant, rotation } = state[direction];
  return deciding === null && grant === null && rotation === null;
}

/** Returns the number of an opening whose row is not written yet. */
export function nextNumber(context: StepContext): number {
  const number = context.state.nextOverride;
  context.state.nextOverride = number + 1;
  return number;
}

/** Returns the signal of a direction. */
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
