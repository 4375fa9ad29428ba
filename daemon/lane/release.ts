/**
 * The release outputs and the stop output: when they are driven, for how long, and with which gap between two edges.
 *
 * A grant opens by pulse or by a held signal. A free lane is held, or pulsed again after each passage and each
 * expiry. In emergency the signal is held whatever the turnstile likes; where it needs edges, it is let go for a moment.
 */
import type { Direction } from '../../contract/ids.ts';
import { holdsFree } from './config.ts';
import { cancelTimer, cancelTimers, isIdle, patch, setTimer, type Turn } from './step-context.ts';
import { BOTH, closes, type Release } from './types.ts';

/** Off for at least so long before a new edge, ms: turnstiles see pulses and pauses of 100 ms. */
export const EDGE_GAP_MS = 100;

export const isDriven = (release: Release): boolean => release.state === 'pulse' || release.state === 'held';

export const freeByHold = (turn: Turn): boolean => holdsFree(turn.config);

function setRelease(turn: Turn, direction: Direction, release: Partial<Release>): void {
  const before = turn.state[direction].release;
  const after = { ...before, ...release };
  if (isDriven(before) !== isDriven(after)) {
    turn.effects.push({ kind: 'write', output: `release_${direction}`, active: isDriven(after) });
    patch(turn, direction, { release: isDriven(after) ? after : { ...after, offSinceMs: turn.now.atMs } });
    return;
  }
  patch(turn, direction, { release: after });
}

/** Opens for one rotation (or, by a held signal, until `closeRelease`). Already open by emergency or a free lane: nothing to do. */
export function openRelease(turn: Turn, direction: Direction): void {
  const { release } = turn.state[direction];
  if (turn.state.fire.latched || release.state === 'held' || release.state === 'gap') return;
  setStop(turn, false);
  if (release.state === 'pulse') {
    setRelease(turn, direction, { again: true });
    return;
  }
  const readyMs = release.offSinceMs + EDGE_GAP_MS;
  if (turn.now.atMs < readyMs) return beginGap(turn, direction, readyMs);
  drive(turn, direction);
}

function drive(turn: Turn, direction: Direction): void {
  const held = turn.config.release === 'hold' || (turn.state[direction].mode === 'free' && freeByHold(turn));
  setRelease(turn, direction, { state: held ? 'held' : 'pulse', again: false });
  if (!held) setTimer(turn, `pulse:${direction}`, turn.now.atMs + turn.config.pulseMs);
}

function beginGap(turn: Turn, direction: Direction, untilMs: number): void {
  setRelease(turn, direction, { state: 'gap', again: false });
  setTimer(turn, `edge:${direction}`, untilMs);
}

/** Ends whatever signal there is. */
export function closeRelease(turn: Turn, direction: Direction): void {
  cancelTimers(turn, direction, ['pulse', 'edge', 'repulse']);
  setRelease(turn, direction, { state: 'off', again: false });
}

export function onPulseEnd(turn: Turn, direction: Direction): void {
  const { release } = turn.state[direction];
  if (release.state !== 'pulse') return;
  setRelease(turn, direction, { state: 'off', again: false });
  if (release.again) beginGap(turn, direction, turn.now.atMs + EDGE_GAP_MS);
}

/** The gap is over: on again, where somebody still may pass. */
export function onGapEnd(turn: Turn, direction: Direction): void {
  const { release, grant, mode } = turn.state[direction];
  if (release.state !== 'gap') return;
  setRelease(turn, direction, { state: 'off' });
  if (turn.state.fire.latched) setRelease(turn, direction, { state: 'held', again: false });
  else if (grant?.phase === 'released' || mode === 'free') drive(turn, direction);
}

/** The lane becomes free. */
export function openFree(turn: Turn, direction: Direction): void {
  openRelease(turn, direction);
  if (!freeByHold(turn)) setTimer(turn, `repulse:${direction}`, turn.now.atMs + turn.config.passageTimeoutMs);
}

/** The lane is free no longer. A turnstile that was opened by an edge locks only by its own timer (or by its stop input). */
export function closeFree(turn: Turn, direction: Direction): void {
  closeRelease(turn, direction);
  if (!freeByHold(turn)) patch(turn, direction, { freeTailMs: turn.now.atMs + turn.config.passageTimeoutMs });
}

/** Emergency: open at once, whatever was going on. */
export function openEmergency(turn: Turn, direction: Direction): void {
  setStop(turn, false);
  cancelTimers(turn, direction, ['pulse', 'edge', 'repulse']);
  setRelease(turn, direction, { state: 'held', again: false });
  if (!freeByHold(turn)) setTimer(turn, `repulse:${direction}`, turn.now.atMs + turn.config.passageTimeoutMs);
}

/** Somebody passed a free lane, or nobody did for the turnstile's own time: it wants a new edge. */
export function renewFree(turn: Turn, direction: Direction): void {
  if (freeByHold(turn)) return;
  if (turn.state.fire.latched) beginGap(turn, direction, turn.now.atMs + EDGE_GAP_MS);
  else if (turn.state[direction].mode === 'free' && turn.state[direction].pendingMode === null) openRelease(turn, direction);
  else return cancelTimer(turn, `repulse:${direction}`);
  setTimer(turn, `repulse:${direction}`, turn.now.atMs + turn.config.passageTimeoutMs);
}

/** The turnstile's stop input, where there is one: it locks both directions at once. */
export function setStop(turn: Turn, active: boolean): void {
  cancelTimer(turn, 'stop');
  if (turn.state.stopHeld === active) return;
  turn.state.stopHeld = active;
  turn.effects.push({ kind: 'write', output: 'stop', active });
}

/** Nobody came: locks the turnstile before its own time is up, unless that would lock somebody else out. */
export function lockByStop(turn: Turn, direction: Direction): void {
  const other = direction === 'in' ? 'out' : 'in';
  if (turn.config.release === 'hold' || turn.state.fire.latched || turn.state[other].mode === 'free' || !isIdle(turn.state, other)) return;
  setStop(turn, true);
  setTimer(turn, 'stop', turn.now.atMs + turn.config.pulseMs);
}

/** Held while both directions are closed and nothing is under way; a pulse of it ends by itself. */
export function settleStop(turn: Turn): void {
  const closed = !turn.state.fire.latched && !turn.state.stopped && BOTH.every((one) => closes(turn.state[one].mode) && isIdle(turn.state, one));
  if (closed) setStop(turn, true);
  else if (turn.state.timers.stop === undefined) setStop(turn, false);
}
