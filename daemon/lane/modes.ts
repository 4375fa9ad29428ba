/** Modes of the directions, and the fire latch that lies over them. */
import type { Direction } from '../../contract/ids.ts';
import { dropQueue, giveUp } from './codes.ts';
import { endRotation, lockOut, settleGrant } from './grants.ts';
import { closeFree, openEmergency, openFree } from './release.ts';
import { cancelTimers, endNotice, isIdle, patch, record, setTimer, type Turn } from './turn.ts';
import { type BaseMode, BOTH, type LaneInput, type PendingMode } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;

/** The wall clock may be set meanwhile: an `until` is looked at again at least so often, ms. */
const UNTIL_CHECK_MS = 60_000;

const closes = (mode: BaseMode): boolean => mode === 'locked' || mode === 'out_of_service';

/** A command: closing waits for who is under way; a stuck rotation ends by it. */
export function onMode(turn: Turn, input: Input<'mode'>): void {
  const wanted: PendingMode = { mode: input.mode, untilWallMs: input.untilWallMs, actor: input.actor, reason: input.reason };
  for (const direction of input.directions) {
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
  const { mode: to, untilWallMs } = wanted;
  const until = untilWallMs === null ? {} : { until: new Date(untilWallMs).toISOString() };
  record(turn, { kind: 'mode', direction, from: turn.state.fire.latched ? 'emergency' : from, to, actor: wanted.actor, reason: wanted.reason, ...until });
  patch(turn, direction, { mode: to, untilWallMs, pendingMode: null });
  armUntil(turn, direction);
  if (to !== 'controlled') dropQueue(turn, direction);
  if (turn.state.fire.latched || from === to) return;
  endNotice(turn, direction);
  if (to === 'free') {
    giveUp(turn, direction);
    openFree(turn, direction);
  } else if (from === 'free') {
    closeFree(turn, direction);
    lockOut(turn, direction);
  }
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

/** What the ledger and the disk remember. Writes no row, but where fire came before it and so told a wrong mode. */
export function onRestore(turn: Turn, input: Input<'restore'>): void {
  for (const direction of BOTH) {
    const { mode, untilWallMs } = input.modes[direction];
    if (turn.state.fire.latched && !input.fireLatched && mode !== turn.state[direction].mode) recordEmergency(turn, direction, mode);
    patch(turn, direction, { mode, untilWallMs, pendingMode: null });
    if (mode === 'free' && !turn.state.fire.latched && !input.fireLatched) openFree(turn, direction);
    if (untilWallMs !== null) setTimer(turn, `until:${direction}`, turn.now.atMs + Math.min(UNTIL_CHECK_MS, Math.max(0, untilWallMs - turn.now.wallMs)));
  }
  if (input.fireLatched && !turn.state.fire.latched) {
    latch(turn);
    raiseFire(turn);
  }
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
    giveUp(turn, direction);
    dropQueue(turn, direction);
    settleGrant(turn, direction, null);
    const { pendingMode } = turn.state[direction];
    if (pendingMode !== null) applyMode(turn, direction, pendingMode);
  }
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
