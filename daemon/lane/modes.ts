/** Modes of the directions, and the fire latch that lies over them. */
import type { Direction } from '../../contract/ids.ts';
import { returnExits } from './exits.ts';
import { lockOut, settleGrant } from './grants.ts';
import { abandonDecision, dropQueue } from './presentations.ts';
import { closeFree, openEmergency, openFree, openRelease } from './release.ts';
import { cancelTimer, cancelTimers, endNotice, isIdle, record, type StepContext, setTimer, update } from './step-context.ts';
import { type BaseMode, BOTH, closes, type LaneInput, type PendingMode } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;

/** Longest time between two checks of an `until`, ms: the wall clock may be set meanwhile. */
const UNTIL_CHECK_MS = 60_000;

/** Longest time for which an exit stays closed, boot time, ms. At the bound: it opens by itself. */
export const EXIT_CLOSED_MAX_MS = 15 * 60_000;

/** Returns the mode without an order: inwards by decision; outwards free, or by code. */
const restingMode = (context: StepContext, direction: Direction): BaseMode => (direction === 'out' && context.config.exit === 'free' ? 'free' : 'controlled');
const modeOf = (context: StepContext, direction: Direction, wanted: BaseMode): BaseMode => (wanted === 'controlled' ? restingMode(context, direction) : wanted);

/** Takes a mode command. Closing waits for a passage in progress; closing out does nothing unless somebody confirmed it. */
export function onMode(context: StepContext, input: Input<'mode'>): void {
  const wanted: PendingMode = { mode: input.mode, untilWallMs: input.untilWallMs, actor: input.actor, reason: input.reason };
  for (const direction of input.directions) {
    if (direction === 'in') context.state.entry = { ...context.state.entry, restored: false };
    // A key or stop-entry holds: the order counts when they end.
    if (direction === 'in' && context.state.entry.base !== null) {
      context.state.entry = { ...context.state.entry, base: wanted };
      continue;
    }
    if (direction === 'out' && closes(input.mode) && input.exitClosedConfirmed !== true) continue;
    if (closes(input.mode) && !isIdle(context.state, direction) && !context.state.fire.latched) update(context, direction, { pendingMode: wanted });
    else applyMode(context, direction, wanted);
  }
}

/** Applies the pending mode when the lane is idle. */
export function settleMode(context: StepContext, direction: Direction): void {
  const { pendingMode } = context.state[direction];
  if (pendingMode !== null && (isIdle(context.state, direction) || context.state[direction].rotation?.stuck === true))
    applyMode(context, direction, pendingMode);
}

/** Puts a direction into a mode now, with its row. */
export function applyMode(context: StepContext, direction: Direction, wanted: PendingMode): void {
  const { mode: from } = context.state[direction];
  const { untilWallMs } = wanted;
  const to = modeOf(context, direction, wanted.mode);
  const until = untilWallMs === null ? {} : { until: new Date(untilWallMs).toISOString() };
  record(context, { kind: 'mode', direction, from: context.state.fire.latched ? 'emergency' : from, to, actor: wanted.actor, reason: wanted.reason, ...until });
  update(context, direction, { mode: to, untilWallMs, pendingMode: null });
  armUntil(context, direction);
  if (direction === 'out') watchExit(context, from, to, wanted);
  if (to !== 'controlled') dropQueue(context, direction);
  if (from === to) return;
  // Red belongs to the mode that refused: it never stays over a way that has opened since, not even behind an emergency.
  endNotice(context, direction);
  if (context.state.fire.latched) return;
  if (to === 'free') {
    abandonDecision(context, direction);
    if (direction === 'out') returnExits(context);
    openFree(context, direction);
  } else if (from === 'free') {
    endFree(context, direction, to);
  }
}

function endFree(context: StepContext, direction: Direction, to: BaseMode): void {
  closeFree(context, direction);
  // Who is about to go out goes out.
  if (direction === 'out' && !closes(to) && context.state.out.grant?.phase === 'released') openRelease(context, direction);
  else lockOut(context, direction);
}

/** Raises `exit-closed` while the exit is closed, and bounds its time. */
function watchExit(context: StepContext, from: BaseMode, to: BaseMode, { actor, reason }: PendingMode): void {
  if (closes(to)) {
    setTimer(context, 'exit:out', context.now.atMs + EXIT_CLOSED_MAX_MS);
    const message = `the exit is closed by ${actor} (${reason}): it opens by itself within ${EXIT_CLOSED_MAX_MS / 60_000} min`;
    context.effects.push({ kind: 'raise', alert: 'exit-closed', severity: 'critical', message });
  } else if (closes(from)) {
    forgetClosed(context);
  }
}

function forgetClosed(context: StepContext): void {
  cancelTimer(context, 'exit:out');
  context.effects.push({ kind: 'clear', alert: 'exit-closed' });
}

/** Opens the exit: it was closed for EXIT_CLOSED_MAX_MS. */
export function onExitTimeout(context: StepContext): void {
  const reason = `an exit opens by itself after ${EXIT_CLOSED_MAX_MS / 60_000} min`;
  applyMode(context, 'out', { mode: 'controlled', untilWallMs: null, actor: 'system', reason });
}

/** Frees the exit where the configuration says so, from the first moment. Writes no row. */
export function settleExitMode(context: StepContext): void {
  if (context.state.stopped || context.state.out.mode === modeOf(context, 'out', context.state.out.mode)) return;
  update(context, 'out', { mode: 'free', untilWallMs: null });
  endNotice(context, 'out');
  cancelTimers(context, 'out', ['until']);
  if (!context.state.fire.latched) openFree(context, 'out');
}

function armUntil(context: StepContext, direction: Direction): void {
  const { untilWallMs } = context.state[direction];
  cancelTimers(context, direction, ['until']);
  if (untilWallMs !== null) setTimer(context, `until:${direction}`, context.now.atMs + Math.min(UNTIL_CHECK_MS, Math.max(0, untilWallMs - context.now.wallMs)));
}

/** Ends a mode whose `until` has passed. */
export function onUntil(context: StepContext, direction: Direction): void {
  const { untilWallMs } = context.state[direction];
  if (untilWallMs === null) return;
  if (context.now.wallMs < untilWallMs) return armUntil(context, direction);
  applyMode(context, direction, { mode: 'controlled', untilWallMs: null, actor: 'system', reason: "the mode's time is over" });
}

/** Restores modes and fire latch. Writes rows only where fire came before it with a wrong mode, and where the exit was closed. */
export function onRestore(context: StepContext, input: Input<'restore'>): void {
  for (const direction of BOTH) {
    const { mode, untilWallMs } = direction === 'out' ? restoredExit(context, input) : input.modes.in;
    const was = context.state[direction].mode;
    if (direction === 'in') context.state.entry = { ...context.state.entry, restored: mode === 'locked' };
    if (direction === 'in' && context.state.entry.base !== null) {
      context.state.entry = { ...context.state.entry, base: { ...context.state.entry.base, mode, untilWallMs } };
      continue;
    }
    if (context.state.fire.latched && !input.fireLatched && mode !== context.state[direction].mode) recordEmergency(context, direction, mode);
    update(context, direction, { mode, untilWallMs, pendingMode: null });
    if (was !== mode) endNotice(context, direction);
    if (direction === 'out' && closes(was)) forgetClosed(context);
    // Freed by somebody before the ledger was open, which knows of another mode.
    if (was === 'free' && mode !== 'free' && !context.state.fire.latched) endFree(context, direction, mode);
    if (mode === 'free' && was !== 'free' && !context.state.fire.latched && !input.fireLatched) openFree(context, direction);
    if (untilWallMs !== null)
      setTimer(context, `until:${direction}`, context.now.atMs + Math.min(UNTIL_CHECK_MS, Math.max(0, untilWallMs - context.now.wallMs)));
  }
  if (input.fireLatched && !context.state.fire.latched) {
    latch(context);
    raiseFire(context);
  }
}

/** Returns the exit's mode: no row brings a closed exit back. */
function restoredExit(context: StepContext, input: Input<'restore'>): Input<'restore'>['modes']['out'] {
  const found = input.modes.out;
  const mode = modeOf(context, 'out', closes(found.mode) ? 'controlled' : found.mode);
  if (closes(found.mode) && !input.fireLatched && !context.state.fire.latched)
    record(context, { kind: 'mode', direction: 'out', from: found.mode, to: mode, actor: 'system', reason: 'a closed exit ends at every start' });
  return { mode, untilWallMs: closes(found.mode) || context.config.exit === 'free' ? null : found.untilWallMs };
}

/** Takes the fire input, in every state. The latch stays when the input clears. */
export function onFire(context: StepContext, active: boolean): void {
  const wasLatched = context.state.fire.latched;
  context.state.fire = { asserted: active, latched: wasLatched || active };
  if (!active || wasLatched) return;
  latch(context);
  context.effects.push({ kind: 'fire_latch', latched: true });
  raiseFire(context);
  record(context, { kind: 'alarm', what: 'fire', detail: 'the fire input is asserted' });
  for (const direction of BOTH) recordEmergency(context, direction, context.state[direction].mode);
}

/** Opens both ways until somebody resets it, as fire does. */
export function onEvacuate(context: StepContext, { actor, reason }: Input<'evacuate'>): void {
  const wasLatched = context.state.fire.latched;
  context.effects.push({
    kind: 'raise',
    alert: 'evacuate',
    severity: 'critical',
    message: `evacuation by ${actor} (${reason}): the lane is open until somebody resets it`,
  });
  if (wasLatched) return;
  latch(context);
  context.effects.push({ kind: 'fire_latch', latched: true });
  for (const direction of BOTH) recordEmergency(context, direction, context.state[direction].mode, actor, reason);
}

/** Opens first, then settles decisions, grants and modes. */
function latch(context: StepContext): void {
  context.state.fire = { ...context.state.fire, latched: true };
  for (const direction of BOTH) openEmergency(context, direction);
  for (const direction of BOTH) {
    abandonDecision(context, direction);
    dropQueue(context, direction);
    settleGrant(context, direction, null);
    const { pendingMode } = context.state[direction];
    // An exit that was still to be closed is not closed after a fire.
    if (direction === 'out' && pendingMode !== null && closes(pendingMode.mode)) update(context, direction, { pendingMode: null });
    else if (pendingMode !== null) applyMode(context, direction, pendingMode);
  }
  returnExits(context);
}

function recordEmergency(context: StepContext, direction: Direction, from: BaseMode, actor = 'system', reason = 'fire input'): void {
  record(context, { kind: 'mode', direction, from, to: 'emergency', actor, reason });
}

function raiseFire(context: StepContext): void {
  context.effects.push({
    kind: 'raise',
    alert: 'fire',
    severity: 'critical',
    message: 'fire input: the lane is open until the input clears and somebody resets it',
  });
}

/** Ends the emergency once the input is clear. */
export function onResetEmergency(context: StepContext, input: Input<'reset_emergency'>): void {
  if (context.state.fire.asserted || !context.state.fire.latched) return;
  context.state.fire = { asserted: false, latched: false };
  context.effects.push({ kind: 'fire_latch', latched: false }, { kind: 'clear', alert: 'fire' }, { kind: 'clear', alert: 'evacuate' });
  for (const direction of BOTH) {
    const { mode, untilWallMs } = context.state[direction];
    const until = untilWallMs === null ? {} : { until: new Date(untilWallMs).toISOString() };
    record(context, { kind: 'mode', direction, from: 'emergency', to: mode, actor: input.actor, reason: input.reason, ...until });
    closeFree(context, direction);
    if (mode === 'free') openFree(context, direction);
  }
}
