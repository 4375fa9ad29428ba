/**
 * The turnstile: one lane, two directions. Pure: `step(state, input, config)` gives the next state and what shall
 * be done; timers are effects that come back as inputs, time enters with each input.
 *
 * Fire is tried first, in every state. A release inwards follows only a committed decision, a recorded or button override,
 * a free lane, or fire; outwards whatever is shown opens, and the row follows. One release a unit; what has not begun is returned.
 */

import type { LaneConfig } from './config.ts';
import { AT_REST, beam, beamGap, type Debounced, debounce, type Holds, type LevelChange, settle } from './debounce.ts';
import { onExit, onExitGranted, onGarbledExit, opensUnasked, returnExits, settleExits } from './exits.ts';
import { onGraceTimeout, onPassage, onPassageTimeout, onStuck, settleGrant } from './grants.ts';
import { onExitTimeout, onFire, onMode, onResetEmergency, onRestore, onUntil, settleExitMode, settleMode } from './modes.ts';
import { cannotOpen, onButton, onOpen } from './orders.ts';
import {
  abandonDecision,
  dropQueue,
  onCode,
  onDecisionFailed,
  onGarbled,
  onQueueTimeout,
  onRefuseTimeout,
  onVerdict,
  onWait,
  settleQueue,
} from './presentations.ts';
import { closeRelease, freeByHold, onGapEnd, onPulseEnd, renewFree, setStop, settleStop } from './release.ts';
import { beginStep, cancelTimer, endNotice, initialLane, isIdle, patch, record, setTimer, signalOf, type Turn } from './step-context.ts';
import { BOTH, type DirectionTimer, effectiveMode, type LaneInput, type LaneLine, type LaneState, type Step, type TimerName } from './types.ts';

export { effectiveMode, initialLane, isIdle };

/** One input, one step. Never throws; inputs that mean nothing in this state change nothing. */
export function step(state: LaneState, input: LaneInput, config: LaneConfig): Step {
  const turn = beginStep(state, config, { atMs: input.atMs, wallMs: input.wallMs });
  if (input.kind === 'line' && input.input === 'fire') onFire(turn, input.active);
  else if (!turn.state.stopped) act(turn, input);
  if (!turn.state.stopped) settleAll(turn);
  settleSignals(turn);
  return { state: turn.state, effects: turn.effects };
}

/** Why a person's opening is refused now; null: the lane can open. */
export function openRefusal(state: LaneState, direction: 'in' | 'out'): string | null {
  return cannotOpen({ state }, direction);
}

function act(turn: Turn, input: LaneInput): void {
  switch (input.kind) {
    case 'code':
      return opensUnasked(turn, input.direction) ? onExit(turn, input) : onCode(turn, input);
    case 'garbled':
      return opensUnasked(turn, input.direction) ? onGarbledExit(turn) : onGarbled(turn, input.direction);
    case 'exit_granted':
      return onExitGranted(turn, input);
    case 'verdict':
      return onVerdict(turn, input);
    case 'decision_failed':
      return onDecisionFailed(turn, input);
    case 'line':
      return onLine(turn, input.input, input.active, input.initial);
    case 'timer':
      return onTimer(turn, input.timer);
    case 'open':
      return onOpen(turn, input);
    case 'mode':
      return onMode(turn, input);
    case 'reset_emergency':
      return onResetEmergency(turn, input);
    case 'restore':
      return onRestore(turn, input);
    case 'condition':
      return onCondition(turn, input.condition, input.ok);
    case 'reader':
      return patch(turn, input.direction, { readerOk: input.ok });
    case 'drain':
      turn.state.draining = input.cancel ? 'no' : 'waiting';
      return;
    case 'stop':
      return onStop(turn);
  }
}

function onCondition(turn: Turn, condition: 'booted' | 'manifest' | 'disk', ok: boolean): void {
  if (condition === 'booted') turn.state.booted = ok;
  else if (condition === 'manifest') turn.state.manifestOk = ok;
  else turn.state.diskOk = ok;
}

// ---------------------------------------------------------------- inputs of the board

function holdsOf(input: LaneLine, config: LaneConfig): Holds {
  const sensor = input.startsWith('passage_') || input.startsWith('beam_');
  return sensor ? { activeMs: config.passageDebounceMs, restMs: config.passageRestMs } : { activeMs: config.inputDebounceMs, restMs: config.inputDebounceMs };
}

function onLine(turn: Turn, input: LaneLine, active: boolean, initial: boolean): void {
  const line = turn.state.lines[input] ?? AT_REST;
  if (initial) {
    turn.state.lines = { ...turn.state.lines, [input]: { level: active, raw: active, sinceMs: turn.now.atMs } };
    if (active) onLevel(turn, input, { active, atMs: turn.now.atMs }, true);
    return;
  }
  follow(turn, input, debounce(line, active, turn.now.atMs, holdsOf(input, turn.config)));
}

function follow(turn: Turn, input: LaneLine, seen: Debounced): void {
  turn.state.lines = { ...turn.state.lines, [input]: seen.line };
  if (seen.dueMs === null) cancelTimer(turn, `line:${input}`);
  else setTimer(turn, `line:${input}`, seen.dueMs);
  for (const change of seen.changes) onLevel(turn, input, change, false);
}

function onLevel(turn: Turn, input: LaneLine, change: LevelChange, initial: boolean): void {
  switch (input) {
    case 'passage_in':
    case 'passage_out':
      if (turn.config.sensor !== 'per_direction') return;
      return onPassage(turn, { kind: change.active ? 'started' : 'finished', direction: input === 'passage_in' ? 'in' : 'out', atMs: change.atMs }, initial);
    case 'beam_a':
    case 'beam_b': {
      if (turn.config.sensor !== 'beams') return;
      const seen = beam(turn.state.beams, input, change);
      return followBeams(turn, seen, initial);
    }
    case 'button':
      if (change.active && !initial) onButton(turn);
      return;
    case 'tamper':
      return onTamper(turn, change.active);
    case 'fire':
      return;
  }
}

function followBeams(turn: Turn, seen: ReturnType<typeof beam>, initial: boolean): void {
  turn.state.beams = seen.state;
  if (seen.state.gapUntilMs === null) cancelTimer(turn, 'beam');
  else setTimer(turn, 'beam', seen.state.gapUntilMs);
  for (const event of seen.events) onPassage(turn, event, initial);
}

/** An alert and a row; never a change of the mode. */
function onTamper(turn: Turn, active: boolean): void {
  turn.state.tamper = active;
  record(turn, { kind: 'alarm', what: 'tamper', detail: active ? 'the housing was opened' : 'the housing is closed again' });
  if (active) turn.effects.push({ kind: 'raise', alert: 'tamper', severity: 'critical', message: 'the housing is open' });
  else turn.effects.push({ kind: 'clear', alert: 'tamper' });
}

// ---------------------------------------------------------------- timers

function onTimer(turn: Turn, timer: TimerName): void {
  const dueMs = turn.state.timers[timer];
  if (dueMs === undefined) return;
  if (turn.now.atMs < dueMs) return setTimer(turn, timer, dueMs);
  delete (turn.state.timers as Record<string, number>)[timer];
  if (timer === 'stop') return setStop(turn, false);
  if (timer === 'beam') return followBeams(turn, beamGap(turn.state.beams, turn.now.atMs), false);
  const [name, rest] = timer.split(':') as [DirectionTimer | 'line', string];
  if (name === 'line') {
    const input = rest as LaneLine;
    return follow(turn, input, settle(turn.state.lines[input] ?? AT_REST, turn.now.atMs, holdsOf(input, turn.config)));
  }
  onDirectionTimer(turn, name, rest as 'in' | 'out');
}

function onDirectionTimer(turn: Turn, name: DirectionTimer, direction: 'in' | 'out'): void {
  switch (name) {
    case 'pulse':
      return onPulseEnd(turn, direction);
    case 'edge':
      return onGapEnd(turn, direction);
    case 'passage':
      return onPassageTimeout(turn, direction);
    case 'grace':
      return onGraceTimeout(turn, direction);
    case 'stuck':
      return onStuck(turn, direction);
    case 'repulse':
      return renewFree(turn, direction);
    case 'wait':
      return onWait(turn, direction);
    case 'refuse':
      return onRefuseTimeout(turn, direction);
    case 'notice':
      return endNotice(turn, direction);
    case 'until':
      return onUntil(turn, direction);
    case 'queue':
      return onQueueTimeout(turn, direction);
    case 'exit':
      return onExitTimeout(turn);
  }
}

// ---------------------------------------------------------------- the end of a step

function onStop(turn: Turn): void {
  for (const direction of BOTH) {
    abandonDecision(turn, direction);
    dropQueue(turn, direction);
    settleGrant(turn, direction, 'unknown');
    endNotice(turn, direction);
    // A way out that is held open stays so until the board's own defined state takes over.
    const staysOpen = turn.state.fire.latched || (direction === 'out' && turn.state.out.mode === 'free' && freeByHold(turn));
    if (!staysOpen) closeRelease(turn, direction);
  }
  returnExits(turn);
  if (!turn.state.fire.latched) setStop(turn, false);
  for (const timer of Object.keys(turn.state.timers) as TimerName[]) cancelTimer(turn, timer);
  turn.state.stopped = true;
}

function settleAll(turn: Turn): void {
  settleExitMode(turn);
  settleExits(turn);
  for (const direction of BOTH) settleMode(turn, direction);
  for (const direction of BOTH) settleQueue(turn, direction);
  settleStop(turn);
  if (turn.state.draining === 'waiting' && BOTH.every((one) => isIdle(turn.state, one) || turn.state[one].rotation?.stuck === true)) {
    turn.state.draining = 'idle';
    turn.effects.push({ kind: 'idle' });
  }
}

function settleSignals(turn: Turn): void {
  for (const direction of BOTH) {
    const signal = signalOf(turn.state, direction, turn.config.exit);
    if (signal === turn.state[direction].signal && !turn.again.has(direction)) continue;
    patch(turn, direction, { signal });
    turn.effects.push({ kind: 'signal', direction, signal });
  }
}
