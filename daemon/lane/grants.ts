/** Grants and passages: one unit after the other is released, begun, passed, or given back. */
import type { Direction } from '../../contract/ids.ts';
import type { PassageOutcome } from '../../contract/ledger.ts';
import { hasSensor } from './config.ts';
import type { PassageEvent } from './debounce.ts';
import { closeRelease, lockByStop, openRelease, renewFree } from './release.ts';
import { cancelTimer, cancelTimers, endNotice, notify, patch, record, setTimer, type Turn } from './step-context.ts';
import { BOTH, type OpenedBy, type OpenGrant, type Rotation } from './types.ts';

/** What opens the lane, and for how many. */
export type NewGrant = Pick<OpenGrant, 'by' | 'units' | 'attention' | 'fingerprint'>;

/** Opens for the first unit. The decision, or the override, is recorded (or on its way, for the staff button). */
export function beginGrant(turn: Turn, direction: Direction, grant: NewGrant): void {
  endNotice(turn, direction);
  turn.again.add(direction);
  beginUnit(turn, direction, { ...grant, unit: 1, phase: 'released' });
}

function beginUnit(turn: Turn, direction: Direction, grant: OpenGrant): void {
  patch(turn, direction, { grant: { ...grant, phase: 'released' } });
  openRelease(turn, direction);
  setTimer(turn, `passage:${direction}`, turn.now.atMs + turn.config.passageTimeoutMs);
  if (!hasSensor(turn.config, direction)) recordUnit(turn, direction, grant.by, grant.unit, 'passed');
}

function recordUnit(turn: Turn, direction: Direction, by: OpenedBy, unit: number, outcome: PassageOutcome): void {
  record(turn, { kind: 'passage', of: by, direction, unit, outcome });
}

/** Gives units `from`..all back. */
export function returnUnits(turn: Turn, direction: Direction, by: OpenedBy, from: number, units: number): void {
  for (let unit = from; unit <= units; unit += 1) recordUnit(turn, direction, by, unit, 'returned');
}

function nextUnit(turn: Turn, direction: Direction, grant: OpenGrant): void {
  if (grant.unit < grant.units) beginUnit(turn, direction, { ...grant, unit: grant.unit + 1 });
  else endGrant(turn, direction);
}

function endGrant(turn: Turn, direction: Direction): void {
  cancelTimers(turn, direction, ['passage', 'grace']);
  patch(turn, direction, { grant: null });
  keepClosed(turn, direction);
}

/** No grant is open: a held signal ends, a running pulse ends by its own timer; a free lane stays open. */
function keepClosed(turn: Turn, direction: Direction): void {
  const { release, mode } = turn.state[direction];
  if (turn.state.fire.latched || mode === 'free') return;
  if (release.state === 'held' || release.state === 'gap') closeRelease(turn, direction);
  else if (release.again) patch(turn, direction, { release: { ...release, again: false } });
}

/** Nobody has begun within the time. */
export function onPassageTimeout(turn: Turn, direction: Direction): void {
  const { grant } = turn.state[direction];
  if (grant === null || grant.phase !== 'released') return;
  if (!hasSensor(turn.config, direction)) {
    keepClosed(turn, direction);
    return nextUnit(turn, direction, grant);
  }
  keepClosed(turn, direction);
  if (turn.state[direction].mode !== 'free') lockByStop(turn, direction);
  lockOut(turn, direction);
}

/** The lane is locked again for a unit that has not begun: only the grace is left, for a unit is released once. */
export function lockOut(turn: Turn, direction: Direction): void {
  const { grant } = turn.state[direction];
  if (grant === null || grant.phase !== 'released' || !hasSensor(turn.config, direction)) return;
  cancelTimer(turn, `passage:${direction}`);
  patch(turn, direction, { grant: { ...grant, phase: 'grace' } });
  setTimer(turn, `grace:${direction}`, turn.now.atMs + turn.config.passageGraceMs);
}

/** Nor within the grace: the ticket is as it was. */
export function onGraceTimeout(turn: Turn, direction: Direction): void {
  const { grant } = turn.state[direction];
  if (grant === null || grant.phase !== 'grace') return;
  returnUnits(turn, direction, grant.by, grant.unit, grant.units);
  endGrant(turn, direction);
}

/** Ends an open grant at once: what has not begun is returned; `begun` says what becomes of a unit on its way (null: it goes on). */
export function settleGrant(turn: Turn, direction: Direction, begun: Extract<PassageOutcome, 'unknown' | 'stuck'> | null): void {
  const { grant } = turn.state[direction];
  if (grant === null) return;
  const counted = !hasSensor(turn.config, direction);
  if (grant.phase !== 'passing') {
    returnUnits(turn, direction, grant.by, counted ? grant.unit + 1 : grant.unit, grant.units);
    return endGrant(turn, direction);
  }
  returnUnits(turn, direction, grant.by, grant.unit + 1, grant.units);
  if (begun === null) return patch(turn, direction, { grant: { ...grant, units: grant.unit } });
  recordUnit(turn, direction, grant.by, grant.unit, begun);
  endGrant(turn, direction);
}

/** What the sensor saw. `initial`: it was so when the daemon started. */
export function onPassage(turn: Turn, event: PassageEvent, initial: boolean): void {
  if (event.kind === 'started') onStarted(turn, event.direction, initial);
  else onEnded(turn, event.direction, event.kind === 'finished');
}

function onStarted(turn: Turn, direction: Direction, initial: boolean): void {
  const { grant, mode, freeTailMs } = turn.state[direction];
  const open = turn.state.fire.latched || mode === 'free' || turn.now.atMs <= freeTailMs;
  const mine = grant !== null && grant.phase !== 'passing';
  const whose: Rotation['whose'] = mine ? 'grant' : initial ? 'unknown' : open ? 'free' : 'forced';
  patch(turn, direction, { rotation: { whose, sinceMs: turn.now.atMs, stuck: false } });
  setTimer(turn, `stuck:${direction}`, turn.now.atMs + turn.config.stuckTimeoutMs);
  if (mine) {
    cancelTimer(turn, `grace:${direction}`);
    patch(turn, direction, { grant: { ...grant, phase: 'passing' } });
    keepClosed(turn, direction);
  } else if (whose === 'forced' && turn.config.sensor === 'per_direction') {
    recordForced(turn, direction);
  }
}

function recordForced(turn: Turn, direction: Direction): void {
  record(turn, { kind: 'passage', of: null, direction, unit: null, outcome: 'forced' });
  turn.effects.push({ kind: 'raise', alert: 'forced', severity: 'warning', message: `somebody passed without a grant, direction ${direction}` });
  notify(turn, direction, { signal: 'alarm', cause: 'forced' }, turn.config.alarmMs);
}

function onEnded(turn: Turn, direction: Direction, through: boolean): void {
  const { rotation, grant } = turn.state[direction];
  if (rotation === null) return;
  endRotation(turn, direction);
  if (rotation.whose === 'grant' && grant?.phase === 'passing') {
    if (through) {
      recordUnit(turn, direction, grant.by, grant.unit, 'passed');
      nextUnit(turn, direction, grant);
    } else {
      resumeUnit(turn, direction, grant);
    }
  } else if (through && rotation.whose === 'forced' && turn.config.sensor === 'beams') {
    recordForced(turn, direction);
  } else if (through && rotation.whose === 'free') {
    record(turn, { kind: 'passage', of: null, direction, unit: null, outcome: 'free' });
  }
  if (through) renewFree(turn, direction);
}

/** Begun and given up. A unit is released once: while the turnstile's own time runs it may still be used, else only the grace is left. */
function resumeUnit(turn: Turn, direction: Direction, grant: OpenGrant): void {
  const running = turn.state.timers[`passage:${direction}`] !== undefined && turn.config.release === 'pulse';
  patch(turn, direction, { grant: { ...grant, phase: running ? 'released' : 'grace' } });
  if (!running) setTimer(turn, `grace:${direction}`, turn.now.atMs + turn.config.passageGraceMs);
}

/** The turnstile is at rest, or a person says so. */
export function endRotation(turn: Turn, direction: Direction): void {
  const { rotation, notice } = turn.state[direction];
  if (rotation === null) return;
  cancelTimer(turn, `stuck:${direction}`);
  patch(turn, direction, { rotation: null });
  if (!rotation.stuck) return;
  if (notice?.cause === 'stuck') endNotice(turn, direction);
  if (!BOTH.some((one) => turn.state[one].rotation?.stuck)) turn.effects.push({ kind: 'clear', alert: 'stuck' });
}

/** Begun and not finished: counts as used, an alarm. */
export function onStuck(turn: Turn, direction: Direction): void {
  const { rotation } = turn.state[direction];
  if (rotation === null || rotation.stuck) return;
  if (rotation.whose === 'grant') settleGrant(turn, direction, 'stuck');
  else record(turn, { kind: 'alarm', what: 'stuck', detail: `the passage line ${direction} does not return to rest` });
  patch(turn, direction, { rotation: { ...rotation, stuck: true } });
  turn.effects.push({ kind: 'raise', alert: 'stuck', severity: 'critical', message: `a passage began and did not finish, direction ${direction}` });
  notify(turn, direction, { signal: 'alarm', cause: 'stuck' }, turn.config.alarmMs);
}
