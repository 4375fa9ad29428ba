/**
 * The release outputs and the stop output: when they are driven, for how long, and with which gap between two edges.
 *
 * A grant opens by pulse or by a held signal. A free lane is held, or pulsed again after each passage and each
 * expiry. In emergency the signal is held whatever the turnstile likes; where it needs edges, it is let go for a moment.
 */
import type { Direction } from '../../contract/ids.ts';
import { holdsFree } from './config.ts';
import { cancelTimer, cancelTimers, isIdle, type StepContext, setTimer, update } from './step-context.ts';
import { BOTH, closes, type Release } from './types.ts';

/** Least pause before a new edge, ms: turnstiles see pulses and pauses of 100 ms. */
export const EDGE_GAP_MS = 100;

export const isDriven = (release: Release): boolean => release.state === 'pulse' || release.state === 'held';

export const freeByHold = (context: StepContext): boolean => holdsFree(context.config);

function setRelease(context: StepContext, direction: Direction, release: Partial<Release>): void {
  const before = context.state[direction].release;
  const after = { ...before, ...release };
  if (isDriven(before) !== isDriven(after)) {
    context.effects.push({ kind: 'write', output: `release_${direction}`, active: isDriven(after) });
    update(context, direction, { release: isDriven(after) ? after : { ...after, offSinceMs: context.now.atMs } });
    return;
  }
  update(context, direction, { release: after });
}

/** Opens for one rotation (or, by a held signal, until `closeRelease`). Already open by emergency or a free lane: nothing to do. */
export function openRelease(context: StepContext, direction: Direction): void {
  const { release } = context.state[direction];
  if (context.state.fire.latched || release.state === 'held' || release.state === 'gap') return;
  setStop(context, false);
  if (release.state === 'pulse') {
    setRelease(context, direction, { again: true });
    return;
  }
  const readyMs = release.offSinceMs + EDGE_GAP_MS;
  if (context.now.atMs < readyMs) return beginGap(context, direction, readyMs);
  drive(context, direction);
}

function drive(context: StepContext, direction: Direction): void {
  const held = context.config.release === 'hold' || (context.state[direction].mode === 'free' && freeByHold(context));
  setRelease(context, direction, { state: held ? 'held' : 'pulse', again: false });
  if (!held) setTimer(context, `pulse:${direction}`, context.now.atMs + context.config.pulseMs);
}

function beginGap(context: StepContext, direction: Direction, untilMs: number): void {
  setRelease(context, direction, { state: 'gap', again: false });
  setTimer(context, `edge:${direction}`, untilMs);
}

/** Ends the release signal. */
export function closeRelease(context: StepContext, direction: Direction): void {
  cancelTimers(context, direction, ['pulse', 'edge', 'repulse']);
  setRelease(context, direction, { state: 'off', again: false });
}

export function onPulseEnd(context: StepContext, direction: Direction): void {
  const { release } = context.state[direction];
  if (release.state !== 'pulse') return;
  setRelease(context, direction, { state: 'off', again: false });
  if (release.again) beginGap(context, direction, context.now.atMs + EDGE_GAP_MS);
}

/** Drives the release again after the gap, where a guest still may pass. */
export function onGapEnd(context: StepContext, direction: Direction): void {
  const { release, grant, mode } = context.state[direction];
  if (release.state !== 'gap') return;
  setRelease(context, direction, { state: 'off' });
  if (context.state.fire.latched) setRelease(context, direction, { state: 'held', again: false });
  else if (grant?.phase === 'released' || mode === 'free') drive(context, direction);
}

/** Opens a free lane. */
export function openFree(context: StepContext, direction: Direction): void {
  openRelease(context, direction);
  if (!freeByHold(context)) setTimer(context, `repulse:${direction}`, context.now.atMs + context.config.passageTimeoutMs);
}

/** Closes a free lane. A turnstile that was opened by an edge locks only by its own timer (or by its stop input). */
export function closeFree(context: StepContext, direction: Direction): void {
  closeRelease(context, direction);
  if (!freeByHold(context)) update(context, direction, { freeTailMs: context.now.atMs + context.config.passageTimeoutMs });
}

/** Opens at once for an emergency, in every state. */
export function openEmergency(context: StepContext, direction: Direction): void {
  setStop(context, false);
  cancelTimers(context, direction, ['pulse', 'edge', 'repulse']);
  setRelease(context, direction, { state: 'held', again: false });
  if (!freeByHold(context)) setTimer(context, `repulse:${direction}`, context.now.atMs + context.config.passageTimeoutMs);
}

/** Gives the turnstile of a free lane a new edge: after each passage and each expiry. */
export function renewFree(context: StepContext, direction: Direction): void {
  if (freeByHold(context)) return;
  if (context.state.fire.latched) beginGap(context, direction, context.now.atMs + EDGE_GAP_MS);
  else if (context.state[direction].mode === 'free' && context.state[direction].pendingMode === null) openRelease(context, direction);
  else return cancelTimer(context, `repulse:${direction}`);
  setTimer(context, `repulse:${direction}`, context.now.atMs + context.config.passageTimeoutMs);
}

/** Drives the turnstile's stop input, where there is one: it locks both directions. */
export function setStop(context: StepContext, active: boolean): void {
  cancelTimer(context, 'stop');
  if (context.state.stopHeld === active) return;
  context.state.stopHeld = active;
  context.effects.push({ kind: 'write', output: 'stop', active });
}

/** Locks the turnstile before its own time is up, unless that would lock out the other direction. */
export function lockByStop(context: StepContext, direction: Direction): void {
  const other = direction === 'in' ? 'out' : 'in';
  if (context.config.release === 'hold' || context.state.fire.latched || context.state[other].mode === 'free' || !isIdle(context.state, other)) return;
  setStop(context, true);
  setTimer(context, 'stop', context.now.atMs + context.config.pulseMs);
}

/** Holds the stop output while both directions are closed and idle; a pulse of it ends by itself. */
export function settleStop(context: StepContext): void {
  const closed = !context.state.fire.latched && !context.state.stopped && BOTH.every((one) => closes(context.state[one].mode) && isIdle(context.state, one));
  if (closed) setStop(context, true);
  else if (context.state.timers.stop === undefined) setStop(context, false);
}
