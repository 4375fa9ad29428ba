/**
 * The turnstile: one lane, two directions. Pure: `step(state, input, config)` gives the next state and what shall
 * be done; timers are effects that come back as inputs, time enters with each input.
 *
 * Fire is tried first, in every state. A release inwards follows only a committed decision, a recorded or button override,
 * a free lane, or fire; outwards whatever is shown opens, and the row follows. One release a unit; what has not begun is returned.
 */

import type { LaneConfig } from './config.ts';
import { AT_REST, beam, beamGap, type Debounced, debounce, type Holds, type LevelChange, settle } from './debounce.ts';
import { onKey, onResumeEntry, onStopEntry, settleEntry } from './entry-orders.ts';
import { onExit, onExitGranted, onGarbledExit, opensUnasked, returnExits, settleExits } from './exits.ts';
import { onGraceTimeout, onPassage, onPassageTimeout, onStuck, settleGrant } from './grants.ts';
import { onEvacuate, onExitTimeout, onFire, onMode, onResetEmergency, onRestore, onUntil, settleExitMode, settleMode } from './modes.ts';
import { cannotOpen, onButton, onButtonHeld, onOpen } from './orders.ts';
import {
  abandonDecision,
  dropHeld,
  dropQueue,
  onCode,
  onDecisionFailed,
  onGarbled,
  onQueueTimeout,
  onRefuseTimeout,
  onVerdict,
  onWait,
  settleHeld,
  settleQueue,
} from './presentations.ts';
import { closeRelease, freeByHold, onGapEnd, onPulseEnd, renewFree, setStop, settleStop } from './release.ts';
import { answerSensor, BUTTON_ANSWER_MS, clearSensor } from './sensor.ts';
import { beginStep, cancelTimer, endNotice, initialLane, isIdle, record, type StepContext, setTimer, signalOf, update } from './step-context.ts';
import { BOTH, type DirectionTimer, effectiveMode, type LaneInput, type LaneLine, type LaneState, type Step, type TimerName } from './types.ts';

export { effectiveMode, initialLane, isIdle };

/** Takes one input. Never throws; an input without a meaning in this state changes nothing. */
export function step(state: LaneState, input: LaneInput, config: LaneConfig): Step {
  const context = beginStep(state, config, { atMs: input.atMs, wallMs: input.wallMs });
  if (input.kind === 'line' && input.input === 'fire') onFireLine(context, input.active, input.initial);
  else if (input.kind === 'timer' && input.timer === 'line:fire') onFireTimer(context);
  else if (!context.state.stopped) act(context, input);
  if (!context.state.stopped) settleAll(context);
  settleSignals(context);
  return { state: context.state, effects: context.effects };
}

/** Returns why a person's opening is refused now; null: the lane can open. */
export function openRefusal(state: LaneState, direction: 'in' | 'out'): string | null {
  return cannotOpen({ state }, direction);
}

function act(context: StepContext, input: LaneInput): void {
  switch (input.kind) {
    case 'code':
      return opensUnasked(context, input.direction) ? onExit(context, input) : onCode(context, input);
    case 'garbled':
      return opensUnasked(context, input.direction) ? onGarbledExit(context) : onGarbled(context, input.direction);
    case 'exit_granted':
      return onExitGranted(context, input);
    case 'verdict':
      return onVerdict(context, input);
    case 'decision_failed':
      return onDecisionFailed(context, input);
    case 'line':
      return onLine(context, input.input, input.active, input.initial);
    case 'timer':
      return onTimer(context, input.timer);
    case 'open':
      return onOpen(context, input);
    case 'mode':
      return onMode(context, input);
    case 'sensor_answer':
      return answerSensor(context, input.turns, input.actor, input.reason);
    case 'sensor_tested':
      return clearSensor(context, input.direction, 'a self-test saw a passage');
    case 'evacuate':
      return onEvacuate(context, input);
    case 'stop_entry':
      return onStopEntry(context, input);
    case 'resume_entry':
      return onResumeEntry(context, input);
    case 'reset_emergency':
      return onResetEmergency(context, input);
    case 'restore':
      return onRestore(context, input);
    case 'condition':
      return onCondition(context, input.condition, input.ok);
    case 'reader':
      return update(context, input.direction, { readerOk: input.ok });
    case 'drain':
      context.state.draining = input.cancel ? 'no' : 'waiting';
      return;
    case 'stop':
      return onStop(context);
  }
}

function onCondition(context: StepContext, condition: 'booted' | 'manifest' | 'disk', ok: boolean): void {
  if (condition === 'booted') context.state.booted = ok;
  else if (condition === 'manifest') context.state.manifestOk = ok;
  else context.state.diskOk = ok;
}

// ---------------------------------------------------------------- inputs of the board

/** Takes the fire input: it counts when it is active for `fire_confirm_ms`, and at once where it was so at start. */
function onFireLine(context: StepContext, active: boolean, initial: boolean): void {
  if (initial) {
    context.state.lines = { ...context.state.lines, fire: { level: active, raw: active, sinceMs: context.now.atMs } };
    if (active) onFire(context, true);
    return;
  }
  const before = context.state.lines.fire ?? AT_REST;
  followFire(context, debounce(before, active, context.now.atMs, fireHolds(context)));
  if (!before.raw || before.level || active || context.state.lines.fire?.level === true) return;
  const count = context.state.fireKicks + 1;
  context.state.fireKicks = count;
  context.effects.push({ kind: 'fire_kick', count });
}

function onFireTimer(context: StepContext): void {
  const dueMs = context.state.timers['line:fire'];
  if (dueMs === undefined) return;
  if (context.now.atMs < dueMs) return setTimer(context, 'line:fire', dueMs);
  delete (context.state.timers as Record<string, number>)['line:fire'];
  followFire(context, settle(context.state.lines.fire ?? AT_REST, context.now.atMs, fireHolds(context)));
}

const fireHolds = ({ config }: StepContext): Holds => ({ activeMs: config.fireConfirmMs, restMs: 0 });

function followFire(context: StepContext, seen: Debounced): void {
  context.state.lines = { ...context.state.lines, fire: seen.line };
  if (seen.dueMs === null) cancelTimer(context, 'line:fire');
  else setTimer(context, 'line:fire', seen.dueMs);
  for (const change of seen.changes) onFire(context, change.active);
}

function holdsOf(input: LaneLine, config: LaneConfig): Holds {
  const sensor = input.startsWith('passage_') || input.startsWith('beam_');
  return sensor ? { activeMs: config.passageDebounceMs, restMs: config.passageRestMs } : { activeMs: config.inputDebounceMs, restMs: config.inputDebounceMs };
}

function onLine(context: StepContext, input: LaneLine, active: boolean, initial: boolean): void {
  const line = context.state.lines[input] ?? AT_REST;
  if (initial) {
    context.state.lines = { ...context.state.lines, [input]: { level: active, raw: active, sinceMs: context.now.atMs } };
    if (active) onLevel(context, input, { active, atMs: context.now.atMs }, true);
    return;
  }
  follow(context, input, debounce(line, active, context.now.atMs, holdsOf(input, context.config)));
}

function follow(context: StepContext, input: LaneLine, seen: Debounced): void {
  context.state.lines = { ...context.state.lines, [input]: seen.line };
  if (seen.dueMs === null) cancelTimer(context, `line:${input}`);
  else setTimer(context, `line:${input}`, seen.dueMs);
  for (const change of seen.changes) onLevel(context, input, change, false);
}

function onLevel(context: StepContext, input: LaneLine, change: LevelChange, initial: boolean): void {
  switch (input) {
    case 'passage_in':
    case 'passage_out':
      if (context.config.sensor !== 'per_direction') return;
      return onPassage(context, { kind: change.active ? 'started' : 'finished', direction: input === 'passage_in' ? 'in' : 'out', atMs: change.atMs }, initial);
    case 'beam_a':
    case 'beam_b': {
      if (context.config.sensor !== 'beams') return;
      const seen = beam(context.state.beams, input, change);
      return followBeams(context, seen, initial);
    }
    case 'button':
      if (change.active && !initial) onButton(context);
      if (change.active) setTimer(context, 'button', context.now.atMs + BUTTON_ANSWER_MS);
      else cancelTimer(context, 'button');
      return;
    case 'tamper':
      return onTamper(context, change.active);
    case 'key_free':
    case 'key_closed':
      return onKey(context, input, change.active);
    case 'fire':
      return;
  }
}

function followBeams(context: StepContext, seen: ReturnType<typeof beam>, initial: boolean): void {
  context.state.beams = seen.state;
  if (seen.state.gapUntilMs === null) cancelTimer(context, 'beam');
  else setTimer(context, 'beam', seen.state.gapUntilMs);
  for (const event of seen.events) onPassage(context, event, initial);
}

/** Raises the alert and records the alarm. The mode stays. */
function onTamper(context: StepContext, active: boolean): void {
  context.state.tamper = active;
  record(context, { kind: 'alarm', what: 'tamper', detail: active ? 'the housing was opened' : 'the housing is closed again' });
  if (active) context.effects.push({ kind: 'raise', alert: 'tamper', severity: 'critical', message: 'the housing is open' });
  else context.effects.push({ kind: 'clear', alert: 'tamper' });
}

// ---------------------------------------------------------------- timers

function onTimer(context: StepContext, timer: TimerName): void {
  const dueMs = context.state.timers[timer];
  if (dueMs === undefined) return;
  if (context.now.atMs < dueMs) return setTimer(context, timer, dueMs);
  delete (context.state.timers as Record<string, number>)[timer];
  if (timer === 'stop') return setStop(context, false);
  if (timer === 'button') return onButtonHeld(context);
  if (timer === 'beam') return followBeams(context, beamGap(context.state.beams, context.now.atMs), false);
  const [name, rest] = timer.split(':') as [DirectionTimer | 'line', string];
  if (name === 'line') {
    const input = rest as LaneLine;
    return follow(context, input, settle(context.state.lines[input] ?? AT_REST, context.now.atMs, holdsOf(input, context.config)));
  }
  onDirectionTimer(context, name, rest as 'in' | 'out');
}

function onDirectionTimer(context: StepContext, name: DirectionTimer, direction: 'in' | 'out'): void {
  switch (name) {
    case 'pulse':
      return onPulseEnd(context, direction);
    case 'edge':
      return onGapEnd(context, direction);
    case 'passage':
      return onPassageTimeout(context, direction);
    case 'grace':
      return onGraceTimeout(context, direction);
    case 'stuck':
      return onStuck(context, direction);
    case 'repulse':
      return renewFree(context, direction);
    case 'wait':
      return onWait(context, direction);
    case 'refuse':
      return onRefuseTimeout(context, direction);
    case 'notice':
      return endNotice(context, direction);
    case 'until':
      return onUntil(context, direction);
    case 'queue':
      return onQueueTimeout(context, direction);
    case 'held':
      return dropHeld(context, direction);
    case 'exit':
      return onExitTimeout(context);
  }
}

// ---------------------------------------------------------------- the end of a step

function onStop(context: StepContext): void {
  for (const direction of BOTH) {
    abandonDecision(context, direction);
    dropQueue(context, direction);
    settleGrant(context, direction, 'unknown');
    endNotice(context, direction);
    // A way out that is held open stays so until the board's own defined state takes over.
    const staysOpen = context.state.fire.latched || (direction === 'out' && context.state.out.mode === 'free' && freeByHold(context));
    if (!staysOpen) closeRelease(context, direction);
  }
  returnExits(context);
  if (!context.state.fire.latched) setStop(context, false);
  for (const timer of Object.keys(context.state.timers) as TimerName[]) cancelTimer(context, timer);
  context.state.stopped = true;
}

function settleAll(context: StepContext): void {
  settleExitMode(context);
  settleExits(context);
  settleEntry(context);
  for (const direction of BOTH) settleMode(context, direction);
  for (const direction of BOTH) settleQueue(context, direction);
  for (const direction of BOTH) settleHeld(context, direction);
  settleStop(context);
  if (context.state.draining === 'waiting' && BOTH.every((one) => isIdle(context.state, one) || context.state[one].rotation?.stuck === true)) {
    context.state.draining = 'idle';
    context.effects.push({ kind: 'idle' });
  }
}

function settleSignals(context: StepContext): void {
  for (const direction of BOTH) {
    const signal = signalOf(context.state, direction, context.config.exit);
    if (signal === context.state[direction].signal && !context.again.has(direction)) continue;
    update(context, direction, { signal });
    context.effects.push({ kind: 'signal', direction, signal });
  }
}
