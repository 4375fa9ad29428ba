/**
 * Judges the passage sensor. A blind line gives every ticket back, so grants that nobody passes in a row are a fault; a line that stays active is
 * one as well. A person answers whether the arms turn; the configuration may answer for him.
 */
import type { Direction } from '../../contract/ids.ts';
import { hasSensor } from './config.ts';
import { NO_SENSOR_FAULT, record, type StepContext, update } from './step-context.ts';
import { BOTH, type SensorState } from './types.ts';

/** Grants count as returned in a row within this, ms. */
export const RETURNED_IN_A_ROW_MS = 3 * 60_000;
/** So many returned grants of one ticket in a row are a fault of the sensor, whatever `returned_in_a_row` is. */
export const RETURNED_OF_ONE = 3;
/** Returns of one ticket count together within this, ms. */
export const RETURNED_PER_TICKET_MS = 10 * 60_000;
/** Returns kept per direction. At the bound: the oldest is evicted. */
const MAX_RETURNS = 64;
/** The staff button held for this long answers "the arms turn", ms. */
export const BUTTON_ANSWER_MS = 3_000;

/** Returns whether a passage in this direction is seen, not counted by its release. */
export const isSensed = (context: Pick<StepContext, 'state' | 'config'>, direction: Direction): boolean =>
  hasSensor(context.config, direction) && !context.state[direction].sensor.counting;

function set(context: StepContext, direction: Direction, change: Partial<SensorState>): void {
  update(context, direction, { sensor: { ...context.state[direction].sensor, ...change } });
}

/** Notes a grant that nobody passed within its time. */
export function noteReturned(context: StepContext, direction: Direction, fingerprint: string | null): void {
  const { sensor } = context.state[direction];
  const one = { atMs: context.now.atMs, fingerprint };
  const within = (list: SensorState['returns'], ms: number) => [...list, one].filter(({ atMs }) => context.now.atMs - atMs <= ms).slice(-MAX_RETURNS);
  const inARow = within(sensor.inARow, RETURNED_IN_A_ROW_MS);
  set(context, direction, { inARow, returns: within(sensor.returns, RETURNED_PER_TICKET_MS) });
  const ofOne = fingerprint === null ? 0 : inARow.filter((other) => other.fingerprint === fingerprint).length;
  if (sensor.fault === null && (inARow.length >= context.config.returnedInARow || ofOne >= RETURNED_OF_ONE)) beginBlind(context, direction, inARow.length);
}

/** Returns whether a ticket was returned here so often that a person has to look. */
export function needsStaff(context: StepContext, direction: Direction, fingerprint: string): boolean {
  const { returns } = context.state[direction].sensor;
  const own = returns.filter((one) => one.fingerprint === fingerprint && context.now.atMs - one.atMs <= RETURNED_PER_TICKET_MS);
  return own.length >= context.config.returnedPerTicket;
}

function beginBlind(context: StepContext, direction: Direction, grants: number): void {
  set(context, direction, { fault: 'blind' });
  record(context, { kind: 'fault', what: 'sensor', detail: `${grants} grants in a row without a passage, direction ${direction}` });
  raise(context, `${grants} grants in a row without a passage, direction ${direction}: do the arms turn?`);
  if (context.config.sensorFault === 'count_release') startCounting(context, direction);
  if (context.config.sensorFault === 'close') closeIn(context, 'system', 'the passage sensor is blind');
}

function raise(context: StepContext, what: string): void {
  const hint = 'Answer with stile-gate sensor --turns yes|no, or hold the staff button for 3 s where they do';
  context.effects.push({ kind: 'raise', alert: 'sensor', severity: 'critical', message: `${what} ${hint}` });
}

/** Notes a line that stays active. `alone`: without a grant. */
export function noteStuck(context: StepContext, direction: Direction, alone: boolean): void {
  set(context, direction, { fault: 'stuck' });
  if (!alone) return;
  record(context, { kind: 'fault', what: 'sensor', detail: `the passage line ${direction} is active without a rotation` });
  raise(context, `the passage line ${direction} is active without a rotation: do the arms turn?`);
}

/** Ends the fault: the sensor speaks, the line rests, or a self-test saw a passage. */
export function clearSensor(context: StepContext, direction: Direction, why: string): void {
  const { fault, counting } = context.state[direction].sensor;
  set(context, direction, NO_SENSOR_FAULT);
  if (fault === null && !counting) return;
  record(context, { kind: 'fault', what: 'sensor', detail: `the passage sensor works again, direction ${direction}: ${why}` });
  if (BOTH.every((one) => context.state[one].sensor.fault === null)) context.effects.push({ kind: 'clear', alert: 'sensor' });
}

/** Takes a person's answer to "do the arms turn?". Yes: the release counts until the sensor speaks. No: in closes. */
export function answerSensor(context: StepContext, turns: boolean, actor: string, reason: string): void {
  for (const direction of BOTH) {
    const { sensor } = context.state[direction];
    if (sensor.fault === null || (turns && sensor.counting)) continue;
    if (turns) startCounting(context, direction);
    else if (direction === 'in') closeIn(context, actor, reason);
  }
}

/** Returns whether a sensor's fault waits for an answer. */
export const awaitsAnswer = (context: StepContext): boolean =>
  BOTH.some((direction) => context.state[direction].sensor.fault !== null && !context.state[direction].sensor.counting);

/** Counts releases as passages. A rotation that never ended is over: the line is known to be stuck. */
function startCounting(context: StepContext, direction: Direction): void {
  set(context, direction, { counting: true, inARow: [], returns: [] });
  if (context.state[direction].rotation?.stuck === true) update(context, direction, { rotation: null });
}

/** Closes in when the lane is idle. Out never closes. */
function closeIn(context: StepContext, actor: string, reason: string): void {
  update(context, 'in', { pendingMode: { mode: 'out_of_service', untilWallMs: null, actor, reason } });
}
