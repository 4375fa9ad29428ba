/** Grants and passages: one unit after the other is released, begun, passed, or given back. */
import type { Direction } from '../../contract/ids.ts';
import type { PassageOutcome } from '../../contract/ledger.ts';
import type { PassageEvent } from './debounce.ts';
import { closeRelease, lockByStop, openRelease, renewFree } from './release.ts';
import { clearSensor, isSensed, noteReturned, noteStuck } from './sensor.ts';
import { cancelTimer, cancelTimers, endNotice, notify, record, type StepContext, setTimer, update } from './step-context.ts';
import { BOTH, type OpenedBy, type OpenGrant, type Rotation } from './types.ts';

/** An opening and its units. */
export type NewGrant = Pick<OpenGrant, 'by' | 'units' | 'attention' | 'fingerprint'>;

/** Opens for the first unit. The decision, or the override, is recorded (or on its way, for the staff button). */
export function beginGrant(context: StepContext, direction: Direction, grant: NewGrant): void {
  endNotice(context, direction);
  context.again.add(direction);
  beginUnit(context, direction, { ...grant, unit: 1, phase: 'released', counted: false });
}

function beginUnit(context: StepContext, direction: Direction, grant: OpenGrant): void {
  const counted = !isSensed(context, direction);
  update(context, direction, { grant: { ...grant, phase: 'released', counted } });
  openRelease(context, direction);
  setTimer(context, `passage:${direction}`, context.now.atMs + context.config.passageTimeoutMs);
  if (counted) recordUnit(context, direction, grant.by, grant.unit, 'passed');
}

function recordUnit(context: StepContext, direction: Direction, by: OpenedBy, unit: number, outcome: PassageOutcome): void {
  record(context, { kind: 'passage', of: by, direction, unit, outcome });
}

/** Records units `from`..`units` as returned. */
export function returnUnits(context: StepContext, direction: Direction, by: OpenedBy, from: number, units: number): void {
  for (let unit = from; unit <= units; unit += 1) recordUnit(context, direction, by, unit, 'returned');
}

function nextUnit(context: StepContext, direction: Direction, grant: OpenGrant): void {
  if (grant.unit < grant.units) beginUnit(context, direction, { ...grant, unit: grant.unit + 1 });
  else endGrant(context, direction);
}

function endGrant(context: StepContext, direction: Direction): void {
  cancelTimers(context, direction, ['passage', 'grace']);
  update(context, direction, { grant: null });
  keepClosed(context, direction);
}

/** Ends a held signal; a running pulse ends by its own timer, and a free lane stays open. */
function keepClosed(context: StepContext, direction: Direction): void {
  const { release, mode } = context.state[direction];
  if (context.state.fire.latched || mode === 'free') return;
  if (release.state === 'held' || release.state === 'gap') closeRelease(context, direction);
  else if (release.again) update(context, direction, { release: { ...release, again: false } });
}

/** Locks the lane: no passage has begun within the time. */
export function onPassageTimeout(context: StepContext, direction: Direction): void {
  const { grant } = context.state[direction];
  if (grant === null || grant.phase !== 'released') return;
  if (grant.counted) {
    keepClosed(context, direction);
    return nextUnit(context, direction, grant);
  }
  keepClosed(context, direction);
  if (context.state[direction].mode !== 'free') lockByStop(context, direction);
  lockOut(context, direction);
}

/** Leaves only the grace to a unit that has not begun: a unit is released once. */
export function lockOut(context: StepContext, direction: Direction): void {
  const { grant } = context.state[direction];
  if (grant === null || grant.phase !== 'released' || grant.counted) return;
  cancelTimer(context, `passage:${direction}`);
  update(context, direction, { grant: { ...grant, phase: 'grace' } });
  setTimer(context, `grace:${direction}`, context.now.atMs + context.config.passageGraceMs);
}

/** Returns the grant: no passage has begun within the grace either. */
export function onGraceTimeout(context: StepContext, direction: Direction): void {
  const { grant } = context.state[direction];
  if (grant === null || grant.phase !== 'grace') return;
  returnUnits(context, direction, grant.by, grant.unit, grant.units);
  if (grant.unit === 1) markReturned(context, direction, grant);
  noteReturned(context, direction, grant.fingerprint);
  endGrant(context, direction);
}

/** Notes that the guest has not passed: a guest may show the code again by hand. */
function markReturned(context: StepContext, direction: Direction, { fingerprint }: OpenGrant): void {
  const { recent } = context.state[direction];
  update(context, direction, { recent: recent.map((one) => (one.fingerprint === fingerprint ? { ...one, answer: 'returned' as const } : one)) });
}

/** Ends an open grant at once: what has not begun is returned; `begun` says what becomes of a unit on its way (null: it goes on). */
export function settleGrant(context: StepContext, direction: Direction, begun: Extract<PassageOutcome, 'unknown' | 'stuck'> | null): void {
  const { grant } = context.state[direction];
  if (grant === null) return;
  const { counted } = grant;
  if (grant.phase !== 'passing') {
    returnUnits(context, direction, grant.by, counted ? grant.unit + 1 : grant.unit, grant.units);
    return endGrant(context, direction);
  }
  returnUnits(context, direction, grant.by, grant.unit + 1, grant.units);
  if (begun === null) return update(context, direction, { grant: { ...grant, units: grant.unit } });
  if (!counted) recordUnit(context, direction, grant.by, grant.unit, begun);
  endGrant(context, direction);
}

/** Takes a passage event. `initial`: the line was active when the daemon started. */
export function onPassage(context: StepContext, event: PassageEvent, initial: boolean): void {
  if (event.kind === 'started') onStarted(context, event.direction, initial);
  else onEnded(context, event.direction, event.kind === 'finished');
}

function onStarted(context: StepContext, direction: Direction, initial: boolean): void {
  const { grant, mode, freeTailMs } = context.state[direction];
  const open = context.state.fire.latched || mode === 'free' || context.now.atMs <= freeTailMs;
  if (!initial) clearSensor(context, direction, 'a passage is reported');
  const mine = grant !== null && grant.phase !== 'passing';
  const whose: Rotation['whose'] = mine ? 'grant' : initial ? 'unknown' : open ? 'free' : 'forced';
  update(context, direction, { rotation: { whose, sinceMs: context.now.atMs, stuck: false } });
  setTimer(context, `stuck:${direction}`, context.now.atMs + context.config.stuckTimeoutMs);
  if (mine) {
    cancelTimer(context, `grace:${direction}`);
    update(context, direction, { grant: { ...grant, phase: 'passing' } });
    keepClosed(context, direction);
  } else if (whose === 'forced' && context.config.sensor === 'per_direction') {
    recordForced(context, direction);
  }
}

function recordForced(context: StepContext, direction: Direction): void {
  record(context, { kind: 'passage', of: null, direction, unit: null, outcome: 'forced' });
  context.effects.push({ kind: 'raise', alert: 'forced', severity: 'warning', message: `somebody passed without a grant, direction ${direction}` });
  notify(context, direction, { signal: 'alarm', cause: 'forced' }, context.config.alarmMs);
}

function onEnded(context: StepContext, direction: Direction, through: boolean): void {
  const { rotation, grant, sensor } = context.state[direction];
  if (rotation === null && sensor.fault !== 'stuck') return;
  endRotation(context, direction);
  if (rotation === null) return;
  if (rotation.whose === 'grant' && grant?.phase === 'passing') {
    if (through) {
      if (!grant.counted) recordUnit(context, direction, grant.by, grant.unit, 'passed');
      nextUnit(context, direction, grant);
    } else {
      resumeUnit(context, direction, grant);
    }
  } else if (through && rotation.whose === 'forced' && context.config.sensor === 'beams') {
    recordForced(context, direction);
  } else if (through && rotation.whose === 'free') {
    record(context, { kind: 'passage', of: null, direction, unit: null, outcome: 'free' });
  }
  if (through) renewFree(context, direction);
}

/** Resumes a unit whose passage was backed out of. While the turnstile's own time runs it may still be used, else only the grace is left. */
function resumeUnit(context: StepContext, direction: Direction, grant: OpenGrant): void {
  if (grant.counted) return nextUnit(context, direction, grant);
  const running = context.state.timers[`passage:${direction}`] !== undefined && context.config.release === 'pulse';
  update(context, direction, { grant: { ...grant, phase: running ? 'released' : 'grace' } });
  if (!running) setTimer(context, `grace:${direction}`, context.now.atMs + context.config.passageGraceMs);
}

/** Ends the rotation: the turnstile is at rest. */
export function endRotation(context: StepContext, direction: Direction): void {
  const { notice, sensor } = context.state[direction];
  cancelTimer(context, `stuck:${direction}`);
  update(context, direction, { rotation: null });
  if (sensor.fault !== 'stuck') return;
  clearSensor(context, direction, 'the line rests');
  if (notice?.cause === 'stuck') endNotice(context, direction);
  if (BOTH.every((one) => context.state[one].sensor.fault !== 'stuck')) context.effects.push({ kind: 'clear', alert: 'stuck' });
}

/** Counts a rotation that does not finish as used, and raises `stuck`. */
export function onStuck(context: StepContext, direction: Direction): void {
  const { rotation } = context.state[direction];
  if (rotation === null || rotation.stuck) return;
  if (rotation.whose === 'grant') settleGrant(context, direction, 'stuck');
  else record(context, { kind: 'alarm', what: 'stuck', detail: `the passage line ${direction} does not return to rest` });
  noteStuck(context, direction, rotation.whose !== 'grant');
  update(context, direction, { rotation: { ...rotation, stuck: true } });
  context.effects.push({ kind: 'raise', alert: 'stuck', severity: 'critical', message: `a passage began and did not finish, direction ${direction}` });
  notify(context, direction, { signal: 'alarm', cause: 'stuck' }, context.config.alarmMs);
}
