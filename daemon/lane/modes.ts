/** Modes of the directions, and the fire latch that lies over them. */
import type { Direction } from '../../contract/ids.ts';
import { returnExits } from './exits.ts';
import { endRotation, lockOut, settleGrant } from './grants.ts';
import { abandonDecision, dropQueue } from './presentations.ts';
import { closeFree, openEmergency, openFree, openRelease } from './release.ts';
import { cancelTimer, cancelTimers, endNotice, isIdle, patch, record, setTimer, type Turn } from './step-context.ts';
import { type BaseMode, BOTH, closes, type LaneInput, type PendingMode } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;

/** The wall clock may be set meanwhile: an `until` is looked at again at least so often, ms. */
const UNTIL_CHECK_MS = 60_000;

/** An exit that somebody closed opens by itself after this, by the boot clock. ms */
export const EXIT_CLOSED_MAX_MS = 15 * 60_000;

/** Where nobody ordered anything: inwards by decision; outwards free, or by code. */
const restingMode = (turn: Turn, direction: Direction): BaseMode => (direction === 'out' && turn.config.exit === 'free' ? 'free' : 'controlled');
const modeOf = (turn: Turn, direction: Direction, wanted: BaseMode): BaseMode => (wanted === 'controlled' ? restingMode(turn, direction) : wanted);

/** A command: closing waits for who is under way; a stuck rotation ends by it. Closing out does nothing unless somebody confirmed it. */
export function onMode(turn: Turn, input: Input<'mode'>): void {
  const wanted: PendingMode = { mode: input.mode, untilWallMs: input.untilWallMs, actor: input.actor, reason: input.reason };
  for (const direction of input.directions) {
    if (direction === 'out' && closes(input.mode) && input.exitClosedConfirmed !== true) continue;
    if (turn.state[direction].rotation?.stuck === true) endRotation(turn, direction);
    if (closes(input.mode) && !isIdle(turn.state, direction) && !turn.state.fire.latched) patch(turn, direction, { pendingMode: wanted });
    else applyMode(turn, direction, wanted);
  }
}

/** The lane is idle: the mode that waited for it. */
export function settleMode(turn: Turn, direction: Direction): void {
  const { pendingMode } = turn.state[direction];
  if (pendingMode !== null && (isIdle(turn.state, direction) || turn.state[direction].rotation?.stuck === true)) applyMode(turn, direction, pendingMode);
}

function applyMode(turn: Turn, direction: Direction, wanted: PendingMode): void {
  const { mode: from } = turn.state[direction];
  const { untilWallMs } = wanted;
  const to = modeOf(turn, direction, wanted.mode);
  const until = untilWallMs === null ? {} : { until: new Date(untilWallMs).toISOString() };
  record(turn, { kind: 'mode', direction, from: turn.state.fire.latched ? 'emergency' : from, to, actor: wanted.actor, reason: wanted.reason, ...until });
  patch(turn, direction, { mode: to, untilWallMs, pendingMode: null });
  armUntil(turn, direction);
  if (direction === 'out') watchExit(turn, from, to, wanted);
  if (to !== 'controlled') dropQueue(turn, direction);
  if (from === to) return;
  // Red belongs to the mode that refused: it never stays over a way that has opened since, not even behind an emergency.
  endNotice(turn, direction);
  if (turn.state.fire.latched) return;
  if (to === 'free') {
    abandonDecision(turn, direction);
    if (direction === 'out') returnExits(turn);
    openFree(turn, direction);
  } else if (from === 'free') {
    endFree(turn, direction, to);
  }
}

function endFree(turn: Turn, direction: Direction, to: BaseMode): void {
  closeFree(turn, direction);
  // Who is about to go out goes out.
  if (direction === 'out' && !closes(to) && turn.state.out.grant?.phase === 'released') openRelease(turn, direction);
  else lockOut(turn, direction);
}

/** A closed exit alarms while it lasts, and ends by itself. */
function watchExit(turn: Turn, from: BaseMode, to: BaseMode, { actor, reason }: PendingMode): void {
  if (closes(to)) {
    setTimer(turn, 'exit:out', turn.now.atMs + EXIT_CLOSED_MAX_MS);
    const message = `the exit is closed by ${actor} (${reason}): it opens by itself within ${EXIT_CLOSED_MAX_MS / 60_000} min`;
    turn.effects.push({ kind: 'raise', alert: 'exit-closed', severity: 'critical', message });
  } else if (closes(from)) {
    forgetClosed(turn);
  }
}

function forgetClosed(turn: Turn): void {
  cancelTimer(turn, 'exit:out');
  turn.effects.push({ kind: 'clear', alert: 'exit-closed' });
}

/** The exit was closed for as long as it may be. */
export function onExitTimeout(turn: Turn): void {
  const reason = `an exit opens by itself after ${EXIT_CLOSED_MAX_MS / 60_000} min`;
  applyMode(turn, 'out', { mode: 'controlled', untilWallMs: null, actor: 'system', reason });
}

/** A lane whose exit is free is so from its first moment, and whatever came before. Writes no row. */
export function settleExitMode(turn: Turn): void {
  if (turn.state.stopped || turn.state.out.mode === modeOf(turn, 'out', turn.state.out.mode)) return;
  patch(turn, 'out', { mode: 'free', untilWallMs: null });
  endNotice(turn, 'out');
  cancelTimers(turn, 'out', ['until']);
  if (!turn.state.fire.latched) openFree(turn, 'out');
}

function armUntil(turn: Turn, direction: Direction): void {
  const { untilWallMs } = turn.state[direction];
  cancelTimers(turn, direction, ['until']);
  if (untilWallMs !== null) setTimer(turn, `until:${direction}`, turn.now.atMs + Math.min(UNTIL_CHECK_MS, Math.max(0, untilWallMs - turn.now.wallMs)));
}

/** A mode with an end goes back to controlled. */
export function onUntil(turn: Turn, direction: Direction): void {
  const { untilWallMs } = turn.state[direction];
  if (untilWallMs === null) return;
  if (turn.now.wallMs < untilWallMs) return armUntil(turn, direction);
  applyMode(turn, direction, { mode: 'controlled', untilWallMs: null, actor: 'system', reason: "the mode's time is over" });
}

/** What the ledger and the disk remember. Writes no row, but where fire came before it and so told a wrong mode, and where the exit was closed. */
export function onRestore(turn: Turn, input: Input<'restore'>): void {
  for (const direction of BOTH) {
    const { mode, untilWallMs } = direction === 'out' ? restoredExit(turn, input) : input.modes.in;
    const was = turn.state[direction].mode;
    if (turn.state.fire.latched && !input.fireLatched && mode !== turn.state[direction].mode) recordEmergency(turn, direction, mode);
    patch(turn, direction, { mode, untilWallMs, pendingMode: null });
    if (was !== mode) endNotice(turn, direction);
    if (direction === 'out' && closes(was)) forgetClosed(turn);
    // Freed by somebody before the ledger was open, which knows of another mode.
    if (was === 'free' && mode !== 'free' && !turn.state.fire.latched) endFree(turn, direction, mode);
    if (mode === 'free' && was !== 'free' && !turn.state.fire.latched && !input.fireLatched) openFree(turn, direction);
    if (untilWallMs !== null) setTimer(turn, `until:${direction}`, turn.now.atMs + Math.min(UNTIL_CHECK_MS, Math.max(0, untilWallMs - turn.now.wallMs)));
  }
  if (input.fireLatched && !turn.state.fire.latched) {
    latch(turn);
    raiseFire(turn);
  }
}

/** No row brings a closed exit back: it has ended with the process that closed it. */
function restoredExit(turn: Turn, input: Input<'restore'>): Input<'restore'>['modes']['out'] {
  const found = input.modes.out;
  const mode = modeOf(turn, 'out', closes(found.mode) ? 'controlled' : found.mode);
  if (closes(found.mode) && !input.fireLatched && !turn.state.fire.latched)
    record(turn, { kind: 'mode', direction: 'out', from: found.mode, to: mode, actor: 'system', reason: 'a closed exit ends at every start' });
  return { mode, untilWallMs: closes(found.mode) || turn.config.exit === 'free' ? null : found.untilWallMs };
}

/** Tried first, in every state. The latch stays when the input clears. */
export function onFire(turn: Turn, active: boolean): void {
  const wasLatched = turn.state.fire.latched;
  turn.state.fire = { asserted: active, latched: wasLatched || active };
  if (!active || wasLatched) return;
  latch(turn);
  turn.effects.push({ kind: 'fire_latch', latched: true });
  raiseFire(turn);
  record(turn, { kind: 'alarm', what: 'fire', detail: 'the fire input is asserted' });
  for (const direction of BOTH) recordEmergency(turn, direction, turn.state[direction].mode);
}

/** Opens first; what was going on is settled after. */
function latch(turn: Turn): void {
  turn.state.fire = { ...turn.state.fire, latched: true };
  for (const direction of BOTH) openEmergency(turn, direction);
  for (const direction of BOTH) {
    abandonDecision(turn, direction);
    dropQueue(turn, direction);
    settleGrant(turn, direction, null);
    const { pendingMode } = turn.state[direction];
    // An exit that was still to be closed is not closed after a fire.
    if (direction === 'out' && pendingMode !== null && closes(pendingMode.mode)) patch(turn, direction, { pendingMode: null });
    else if (pendingMode !== null) applyMode(turn, direction, pendingMode);
  }
  returnExits(turn);
}

function recordEmergency(turn: Turn, direction: Direction, from: BaseMode): void {
  record(turn, { kind: 'mode', direction, from, to: 'emergency', actor: 'system', reason: 'fire input' });
}

function raiseFire(turn: Turn): void {
  turn.effects.push({
    kind: 'raise',
    alert: 'fire',
    severity: 'critical',
    message: 'fire input: the lane is open until the input clears and somebody resets it',
  });
}

/** Only once the input is clear. */
export function onResetEmergency(turn: Turn, input: Input<'reset_emergency'>): void {
  if (turn.state.fire.asserted || !turn.state.fire.latched) return;
  turn.state.fire = { asserted: false, latched: false };
  turn.effects.push({ kind: 'fire_latch', latched: false }, { kind: 'clear', alert: 'fire' });
  for (const direction of BOTH) {
    const { mode, untilWallMs } = turn.state[direction];
    const until = untilWallMs === null ? {} : { until: new Date(untilWallMs).toISOString() };
    record(turn, { kind: 'mode', direction, from: 'emergency', to: mode, actor: input.actor, reason: input.reason, ...until });
    closeFree(turn, direction);
    if (mode === 'free') openFree(turn, direction);
  }
}
