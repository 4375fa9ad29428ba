/** Codes at the readers: decides, repeats, queues, abandons them, or shows busy or closed. */
import type { Direction } from '../../contract/ids.ts';
import { beginGrant } from './grants.ts';
import { heldGapOf, learnRepeat } from './held-gap.ts';
import { needsStaff } from './sensor.ts';
import { cancelTimers, endBusy, endNotice, isIdle, notify, record, type StepContext, setTimer, showBusy, update } from './step-context.ts';
import { type Answer, effectiveMode, type LaneEffect, type LaneInput, type Recent } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;
type Dropped = Extract<LaneEffect, { kind: 'drop' }>['shown'];

/** Verdicts kept for repeats, per direction. At the bound: the oldest is evicted. */
const MAX_RECENT = 8;
/** Codes kept while a grant is open (`while_open: queue`), per direction. At the bound: busy is shown. */
export const MAX_QUEUED_CODES = 1;
/** Longest wait in the queue, ms. At the bound: the code is dropped as busy, because its guest has left. */
export const MAX_QUEUED_MS = 15_000;
/** Least time between two showings of the same refusal, and between two attempts at a code that ended in an error, ms. */
export const SHOW_AGAIN_MS = 1_000;
/** The fingerprint of every garbled frame: no real fingerprint equals it. */
export const GARBLED = '';

export function onCode(context: StepContext, input: Input<'code'>): void {
  const { direction, presentation, fingerprint } = input;
  const drop = (shown: Dropped) => {
    context.effects.push({ kind: 'drop', direction, presentation, shown });
  };
  const { deciding, queue, grant, mode } = context.state[direction];
  if (context.state.stopped) return drop('busy');
  if (effectiveMode(context.state, direction) === 'emergency' || mode === 'free') return drop('open');
  const seen = seeAgain(context, input);
  if (deciding?.fingerprint === fingerprint || queue.some((one) => one.fingerprint === fingerprint)) return drop('held');
  if (seen?.answer === 'granted' || seen?.answer === 'returned') return drop('held');
  if (grant !== null && grant.phase !== 'grace' && grant.fingerprint === fingerprint) return drop('held');
  if (!isIdle(context.state, direction) || context.state.draining !== 'no') return seen?.answer === 'refused' ? drop('repeat') : waitForLane(context, input);
  if (seen?.answer === 'refused' || (seen !== null && isTooSoon(context, seen, mode !== 'controlled'))) {
    showAgain(context, direction, seen);
    return drop('repeat');
  }
  if (mode !== 'controlled') {
    refuse(context, direction, 'gate_locked', fingerprint);
    return drop('gate_locked');
  }
  if (direction === 'in' && needsStaff(context, direction, fingerprint)) {
    refuse(context, direction, 'see_staff', fingerprint);
    return drop('see_staff');
  }
  decide(context, input, input.lastByteMs, seen?.answer === 'error');
}

/** Returns whether a code without a final verdict has to wait: a closed lane is still closed, or the last attempt has just failed. */
function isTooSoon(context: StepContext, seen: Recent, closed: boolean): boolean {
  if (seen.answer === 'locked') return closed;
  return seen.answer === 'error' && !closed && context.now.atMs - seen.verdictAtMs < SHOW_AGAIN_MS;
}

/**
 * Notes that a code was seen, and learns the interval at which its reader repeats a code. Returns what is known of this
 * presentation; null: it is a new one.
 */
function seeAgain(context: StepContext, { direction, fingerprint, reader }: Pick<Input<'code'>, 'direction' | 'fingerprint' | 'reader'>): Recent | null {
  const { recent, repeats } = context.state[direction];
  const found = recent.find((one) => one.fingerprint === fingerprint);
  if (found === undefined) return null;
  const now = context.now.atMs;
  const intervalMs = now - found.seenAtMs;
  if (reader !== undefined) update(context, direction, { repeats: learnRepeat(repeats, reader, intervalMs, found, heldGapOf(context, direction, reader)) });
  const held = intervalMs <= heldGapOf(context, direction, reader);
  const repeated = found.answer !== 'granted' && found.answer !== 'returned' && now - found.verdictAtMs <= context.config.repeatMs;
  const seen: Recent = { ...found, seenAtMs: now, intervalMs, answer: held || repeated ? found.answer : null };
  update(context, direction, { recent: recent.map((one) => (one === found ? seen : one)) });
  return seen.answer === null ? null : seen;
}

/** Shows the refusal again, at most once a second. Writes no row. */
function showAgain(context: StepContext, direction: Direction, seen: Recent): void {
  const { recent } = context.state[direction];
  if (context.now.atMs - seen.shownAtMs < SHOW_AGAIN_MS) return;
  update(context, direction, { recent: recent.map((one) => (one.fingerprint === seen.fingerprint ? { ...one, shownAtMs: context.now.atMs } : one)) });
  notify(context, direction, { signal: seen.elsewhere ? 'refused_elsewhere' : 'refused', cause: 'verdict' }, context.config.refusedMs);
}

/** Remembers how a code was answered. */
export function remember(context: StepContext, direction: Direction, fingerprint: string, answer: Exclude<Answer, 'returned' | null>, elsewhere = false): void {
  const { recent } = context.state[direction];
  const before = recent.find((one) => one.fingerprint === fingerprint);
  const now = context.now.atMs;
  // A decision takes its time; the code was seen when it was read.
  const seenAtMs = before?.answer === null || answer === 'error' ? (before?.seenAtMs ?? now) : now;
  const one: Recent = { fingerprint, answer, elsewhere, verdictAtMs: now, seenAtMs, shownAtMs: now, intervalMs: before?.intervalMs ?? null };
  update(context, direction, { recent: [one, ...recent.filter((other) => other.fingerprint !== fingerprint)].slice(0, MAX_RECENT) });
}

/** Keeps a code without a final verdict for as long as its reader still sees it: the lane decides it as soon as it can. */
function waitForLane(context: StepContext, input: Input<'code'>): void {
  const { direction, presentation, fingerprint, reader } = input;
  const { queue, held } = context.state[direction];
  if (direction === 'in' && context.config.whileOpen === 'queue' && context.state.draining === 'no' && queue.length < MAX_QUEUED_CODES)
    return enqueue(context, input);
  const again = held?.fingerprint === fingerprint;
  // Once a presentation: green belongs to the guest who passes.
  if (!again) showBusy(context, direction);
  // Outwards a code comes here only while the exit is closed: its next sight opens once the exit does.
  if (direction === 'out' || context.state.draining !== 'no') {
    context.effects.push({ kind: 'drop', direction, presentation, shown: 'busy' });
    return;
  }
  if (held !== null) context.effects.push({ kind: 'drop', direction, presentation: held.presentation, shown: again ? 'held' : 'busy' });
  update(context, direction, { held: { presentation, fingerprint } });
  setTimer(context, `held:${direction}`, context.now.atMs + heldGapOf(context, direction, reader));
}

/** Drops the code that waits: it has left the reader, or the lane is open or closed for everybody. */
export function dropHeld(context: StepContext, direction: Direction): void {
  const { held } = context.state[direction];
  if (held === null) return;
  cancelTimers(context, direction, ['held']);
  update(context, direction, { held: null });
  context.effects.push({ kind: 'drop', direction, presentation: held.presentation, shown: 'busy' });
}

/** Decides the code that still lies before the reader when the lane is idle. */
export function settleHeld(context: StepContext, direction: Direction): void {
  const { held, mode } = context.state[direction];
  if (held === null) return;
  if (effectiveMode(context.state, direction) === 'emergency' || mode === 'free') return dropHeld(context, direction);
  if (mode !== 'controlled' || !isIdle(context.state, direction) || context.state.draining !== 'no') return;
  cancelTimers(context, direction, ['held']);
  update(context, direction, { held: null });
  decide(context, { direction, presentation: held.presentation, fingerprint: held.fingerprint }, context.now.atMs, false);
}

/** Asks the decider. `retried`: the same presentation has ended in an error already. */
function decide(context: StepContext, code: Pick<Input<'code'>, 'direction' | 'presentation' | 'fingerprint'>, sinceMs: number, retried: boolean): void {
  const { direction, presentation, fingerprint } = code;
  endBusy(context, direction);
  update(context, direction, { deciding: { presentation, fingerprint, waited: false, retried } });
  setTimer(context, `wait:${direction}`, sinceMs + context.config.waitAfterMs);
  setTimer(context, `refuse:${direction}`, sinceMs + context.config.refuseAfterMs);
  context.effects.push({ kind: 'decide', direction, presentation, mode: effectiveMode(context.state, direction) });
}

function enqueue(context: StepContext, input: Input<'code'>): void {
  const { direction, presentation, fingerprint, atMs } = input;
  const { queue } = context.state[direction];
  if (queue.length === 0) setTimer(context, `queue:${direction}`, atMs + MAX_QUEUED_MS);
  update(context, direction, { queue: [...queue, { presentation, fingerprint, atMs }] });
  showBusy(context, direction);
}

/** Drops the first queued code: it has waited too long. */
export function onQueueTimeout(context: StepContext, direction: Direction): void {
  const [first, ...rest] = context.state[direction].queue;
  if (first === undefined) return;
  context.effects.push({ kind: 'drop', direction, presentation: first.presentation, shown: 'busy' });
  update(context, direction, { queue: rest });
  if (rest[0] !== undefined) setTimer(context, `queue:${direction}`, rest[0].atMs + MAX_QUEUED_MS);
}

/** Decides the next queued code when the lane is idle. */
export function settleQueue(context: StepContext, direction: Direction): void {
  const [first, ...rest] = context.state[direction].queue;
  if (first === undefined || !isIdle(context.state, direction)) return;
  if (context.state.draining !== 'no' || context.state.stopped || effectiveMode(context.state, direction) !== 'controlled')
    return dropQueue(context, direction);
  cancelTimers(context, direction, ['queue']);
  if (rest[0] !== undefined) setTimer(context, `queue:${direction}`, rest[0].atMs + MAX_QUEUED_MS);
  update(context, direction, { queue: rest });
  decide(context, { direction, presentation: first.presentation, fingerprint: first.fingerprint }, context.now.atMs, false);
}

export function dropQueue(context: StepContext, direction: Direction): void {
  dropHeld(context, direction);
  for (const one of context.state[direction].queue) context.effects.push({ kind: 'drop', direction, presentation: one.presentation, shown: 'busy' });
  cancelTimers(context, direction, ['queue']);
  update(context, direction, { queue: [] });
}

/** Takes the committed decision. The decider returns one that was abandoned. */
export function onVerdict(context: StepContext, input: Input<'verdict'>): void {
  const { direction, verdict, row } = input;
  const { deciding } = context.state[direction];
  if (deciding === null || deciding.presentation !== input.presentation) return;
  endDeciding(context, direction);
  const elsewhere = verdict.kind === 'refusal' && verdict.elsewhere === true;
  remember(context, direction, deciding.fingerprint, verdict.kind === 'refusal' ? 'refused' : 'granted', elsewhere);
  if (verdict.kind === 'refusal')
    notify(context, direction, { signal: elsewhere ? 'refused_elsewhere' : 'refused', cause: 'verdict' }, context.config.refusedMs);
  else beginGrant(context, direction, { by: { row }, units: verdict.units, attention: verdict.attention, fingerprint: deciding.fingerprint });
}

function endDeciding(context: StepContext, direction: Direction): void {
  cancelTimers(context, direction, ['wait', 'refuse']);
  update(context, direction, { deciding: null });
}

export function onDecisionFailed(context: StepContext, input: Input<'decision_failed'>): void {
  const { deciding } = context.state[input.direction];
  if (deciding === null || deciding.presentation !== input.presentation) return;
  endDeciding(context, input.direction);
  refuse(context, input.direction, 'error', deciding.fingerprint, deciding.retried);
}

/** Shows `working`: there is no verdict yet. */
export function onWait(context: StepContext, direction: Direction): void {
  const { deciding } = context.state[direction];
  if (deciding === null) return;
  endNotice(context, direction);
  update(context, direction, { deciding: { ...deciding, waited: true } });
}

/** Refuses the guest: there is no verdict within the bound. The decider returns a late grant. */
export function onRefuseTimeout(context: StepContext, direction: Direction): void {
  const { deciding } = context.state[direction];
  if (deciding === null) return;
  abandonDecision(context, direction, 'late');
  refuse(context, direction, 'error', deciding.fingerprint, deciding.retried);
}

/** Abandons the decision in flight. */
export function abandonDecision(context: StepContext, direction: Direction, why: 'late' | 'overruled' = 'overruled'): void {
  const { deciding } = context.state[direction];
  if (deciding === null) return;
  endDeciding(context, direction);
  context.effects.push({ kind: 'abandon', direction, presentation: deciding.presentation, why });
}

export function onGarbled(context: StepContext, direction: Direction): void {
  const { mode } = context.state[direction];
  if (context.state.stopped || context.state.draining !== 'no' || context.state.fire.latched || mode !== 'controlled' || !isIdle(context.state, direction))
    return;
  const seen = seeAgain(context, { direction, fingerprint: GARBLED });
  if (seen === null) refuse(context, direction, 'unreadable', GARBLED);
  else showAgain(context, direction, seen);
}

/** Refuses without the decider. `retried`: the presentation's row is written already. */
function refuse(
  context: StepContext,
  direction: Direction,
  reason: 'unreadable' | 'gate_locked' | 'see_staff' | 'error',
  fingerprint: string,
  retried = false,
): void {
  remember(context, direction, fingerprint, reason === 'error' ? 'error' : reason === 'gate_locked' ? 'locked' : 'refused');
  notify(context, direction, { signal: 'refused', cause: 'verdict' }, context.config.refusedMs);
  if (retried) return;
  context.effects.push({ kind: 'refused', direction, reason });
  record(context, { kind: 'refusal', reason, direction });
}
