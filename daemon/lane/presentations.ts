/** Codes at the readers: decides, repeats, queues, abandons them, or shows busy or closed. */
import type { Direction } from '../../contract/ids.ts';
import { beginGrant } from './grants.ts';
import { cancelTimers, endNotice, isIdle, notify, record, type StepContext, setTimer, showBusy, update } from './step-context.ts';
import { effectiveMode, type LaneEffect, type LaneInput, type Recent } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;
type Dropped = Extract<LaneEffect, { kind: 'drop' }>['shown'];

/** A code that is seen again within this is still being held before the reader, ms (readers repeat the same code every 0.1 to 1 s). */
export const HELD_GAP_MS = 1_200;
/** Verdicts kept for repeats, per direction. At the bound: the oldest is evicted. */
const MAX_RECENT = 8;
/** Codes kept while a grant is open (`while_open: queue`), per direction. At the bound: busy is shown. */
export const MAX_QUEUED_CODES = 4;
/** Longest wait in the queue, ms. At the bound: the code is dropped as busy, because its guest has left. */
export const MAX_QUEUED_MS = 15_000;
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
  if (deciding?.fingerprint === fingerprint || queue.some((one) => one.fingerprint === fingerprint)) return drop('held');
  if (grant !== null && grant.phase !== 'grace' && grant.fingerprint === fingerprint && isRepeat(context, direction, fingerprint, false)) return drop('held');
  if (!isIdle(context.state, direction) || context.state.draining !== 'no') {
    // Out only comes here while somebody has closed the exit.
    if (direction === 'in' && context.config.whileOpen === 'queue' && context.state.draining === 'no' && queue.length < MAX_QUEUED_CODES)
      return enqueue(context, input);
    showBusy(context, direction);
    return drop('busy');
  }
  if (isRepeat(context, direction, fingerprint, true)) {
    notify(context, direction, { signal: 'refused', cause: 'verdict' }, context.config.refusedMs);
    return drop('repeat');
  }
  if (mode !== 'controlled') {
    refuse(context, direction, 'gate_locked', fingerprint);
    return drop('gate_locked');
  }
  decide(context, direction, presentation, fingerprint, input.lastByteMs);
}

/** Returns whether it is still the same presentation, and notes that it was seen. */
function isRepeat(context: StepContext, direction: Direction, fingerprint: string, refused: boolean): boolean {
  const { recent, notice } = context.state[direction];
  const now = context.now.atMs;
  const found = recent.find((one) => one.fingerprint === fingerprint && one.refused === refused);
  if (found === undefined) return false;
  const shown = refused ? notice?.signal === 'refused' : true;
  const same = now - found.verdictAtMs <= context.config.repeatMs || (shown && now - found.seenAtMs <= HELD_GAP_MS);
  update(context, direction, { recent: recent.flatMap((one) => (one !== found ? [one] : same ? [{ ...one, seenAtMs: now }] : [])) });
  return same;
}

/** Remembers that a code was shown and how it was answered. */
export function remember(context: StepContext, direction: Direction, fingerprint: string, refused: boolean): void {
  const one: Recent = { fingerprint, refused, verdictAtMs: context.now.atMs, seenAtMs: context.now.atMs };
  const others = context.state[direction].recent.filter((other) => other.fingerprint !== fingerprint);
  update(context, direction, { recent: [one, ...others].slice(0, MAX_RECENT) });
}

function decide(context: StepContext, direction: Direction, presentation: number, fingerprint: string, sinceMs: number): void {
  update(context, direction, { deciding: { presentation, fingerprint, waited: false } });
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
  decide(context, direction, first.presentation, first.fingerprint, context.now.atMs);
}

export function dropQueue(context: StepContext, direction: Direction): void {
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
  remember(context, direction, deciding.fingerprint, verdict.kind === 'refusal');
  if (verdict.kind === 'refusal') notify(context, direction, { signal: 'refused', cause: 'verdict' }, context.config.refusedMs);
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
  refuse(context, input.direction, 'error', deciding.fingerprint);
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
  refuse(context, direction, 'error', deciding.fingerprint);
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
  if (isRepeat(context, direction, GARBLED, true)) notify(context, direction, { signal: 'refused', cause: 'verdict' }, context.config.refusedMs);
  else refuse(context, direction, 'unreadable', GARBLED);
}

function refuse(context: StepContext, direction: Direction, reason: 'unreadable' | 'gate_locked' | 'error', fingerprint: string): void {
  remember(context, direction, fingerprint, true);
  notify(context, direction, { signal: 'refused', cause: 'verdict' }, context.config.refusedMs);
  context.effects.push({ kind: 'refused', direction, reason });
  record(context, { kind: 'refusal', reason, direction });
}
