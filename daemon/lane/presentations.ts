/** Codes before the readers: decided, repeated, told busy or closed, kept waiting, given up. */
import type { Direction } from '../../contract/ids.ts';
import { beginGrant } from './grants.ts';
import { cancelTimers, endNotice, isIdle, notify, patch, record, setTimer, showBusy, type Turn } from './step-context.ts';
import { effectiveMode, type LaneEffect, type LaneInput, type Recent } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;
type Dropped = Extract<LaneEffect, { kind: 'drop' }>['shown'];

/** A code that is seen again within this is still being held before the reader, ms (readers repeat the same code every 0.1 to 1 s). */
export const HELD_GAP_MS = 1_200;
/** Verdicts kept for repeats, per direction; the oldest goes first. */
const MAX_RECENT = 8;
/** Codes kept while a grant is open (`while_open: queue`), per direction; more are told busy. */
export const MAX_QUEUED_CODES = 4;
/** Longer in the queue: its guest has left; dropped, told busy. ms. */
export const MAX_QUEUED_MS = 15_000;
/** What rubbish counts as, for repeats: no real fingerprint looks like it. */
export const GARBLED = '';

export function onCode(turn: Turn, input: Input<'code'>): void {
  const { direction, presentation, fingerprint } = input;
  const drop = (shown: Dropped) => {
    turn.effects.push({ kind: 'drop', direction, presentation, shown });
  };
  const { deciding, queue, grant, mode } = turn.state[direction];
  if (turn.state.stopped) return drop('busy');
  if (effectiveMode(turn.state, direction) === 'emergency' || mode === 'free') return drop('open');
  if (deciding?.fingerprint === fingerprint || queue.some((one) => one.fingerprint === fingerprint)) return drop('held');
  if (grant !== null && grant.phase !== 'grace' && grant.fingerprint === fingerprint && isRepeat(turn, direction, fingerprint, false)) return drop('held');
  if (!isIdle(turn.state, direction) || turn.state.draining !== 'no') {
    // Out only comes here while somebody has closed the exit.
    if (direction === 'in' && turn.config.whileOpen === 'queue' && turn.state.draining === 'no' && queue.length < MAX_QUEUED_CODES) return enqueue(turn, input);
    showBusy(turn, direction);
    return drop('busy');
  }
  if (isRepeat(turn, direction, fingerprint, true)) {
    notify(turn, direction, { signal: 'refused', cause: 'verdict' }, turn.config.refusedMs);
    return drop('repeat');
  }
  if (mode !== 'controlled') {
    refuse(turn, direction, 'gate_locked', fingerprint);
    return drop('gate_locked');
  }
  decide(turn, direction, presentation, fingerprint, input.lastByteMs);
}

/** Is it still the same presentation? Remembers that it was seen. */
function isRepeat(turn: Turn, direction: Direction, fingerprint: string, refused: boolean): boolean {
  const { recent, notice } = turn.state[direction];
  const now = turn.now.atMs;
  const found = recent.find((one) => one.fingerprint === fingerprint && one.refused === refused);
  if (found === undefined) return false;
  const shown = refused ? notice?.signal === 'refused' : true;
  const same = now - found.verdictAtMs <= turn.config.repeatMs || (shown && now - found.seenAtMs <= HELD_GAP_MS);
  patch(turn, direction, { recent: recent.flatMap((one) => (one !== found ? [one] : same ? [{ ...one, seenAtMs: now }] : [])) });
  return same;
}

/** Remembers that a code was shown and how it was answered. */
export function remember(turn: Turn, direction: Direction, fingerprint: string, refused: boolean): void {
  const one: Recent = { fingerprint, refused, verdictAtMs: turn.now.atMs, seenAtMs: turn.now.atMs };
  const others = turn.state[direction].recent.filter((other) => other.fingerprint !== fingerprint);
  patch(turn, direction, { recent: [one, ...others].slice(0, MAX_RECENT) });
}

function decide(turn: Turn, direction: Direction, presentation: number, fingerprint: string, sinceMs: number): void {
  patch(turn, direction, { deciding: { presentation, fingerprint, waited: false } });
  setTimer(turn, `wait:${direction}`, sinceMs + turn.config.waitAfterMs);
  setTimer(turn, `refuse:${direction}`, sinceMs + turn.config.refuseAfterMs);
  turn.effects.push({ kind: 'decide', direction, presentation, mode: effectiveMode(turn.state, direction) });
}

function enqueue(turn: Turn, input: Input<'code'>): void {
  const { direction, presentation, fingerprint, atMs } = input;
  const { queue } = turn.state[direction];
  if (queue.length === 0) setTimer(turn, `queue:${direction}`, atMs + MAX_QUEUED_MS);
  patch(turn, direction, { queue: [...queue, { presentation, fingerprint, atMs }] });
  showBusy(turn, direction);
}

/** The first that waits has waited too long. */
export function onQueueTimeout(turn: Turn, direction: Direction): void {
  const [first, ...rest] = turn.state[direction].queue;
  if (first === undefined) return;
  turn.effects.push({ kind: 'drop', direction, presentation: first.presentation, shown: 'busy' });
  patch(turn, direction, { queue: rest });
  if (rest[0] !== undefined) setTimer(turn, `queue:${direction}`, rest[0].atMs + MAX_QUEUED_MS);
}

/** The lane is idle: the next that waits is decided. */
export function settleQueue(turn: Turn, direction: Direction): void {
  const [first, ...rest] = turn.state[direction].queue;
  if (first === undefined || !isIdle(turn.state, direction)) return;
  if (turn.state.draining !== 'no' || turn.state.stopped || effectiveMode(turn.state, direction) !== 'controlled') return dropQueue(turn, direction);
  cancelTimers(turn, direction, ['queue']);
  if (rest[0] !== undefined) setTimer(turn, `queue:${direction}`, rest[0].atMs + MAX_QUEUED_MS);
  patch(turn, direction, { queue: rest });
  decide(turn, direction, first.presentation, first.fingerprint, turn.now.atMs);
}

export function dropQueue(turn: Turn, direction: Direction): void {
  for (const one of turn.state[direction].queue) turn.effects.push({ kind: 'drop', direction, presentation: one.presentation, shown: 'busy' });
  cancelTimers(turn, direction, ['queue']);
  patch(turn, direction, { queue: [] });
}

/** The committed decision. One that was given up is not ours any more: the decider returns it. */
export function onVerdict(turn: Turn, input: Input<'verdict'>): void {
  const { direction, verdict, row } = input;
  const { deciding } = turn.state[direction];
  if (deciding === null || deciding.presentation !== input.presentation) return;
  endDeciding(turn, direction);
  remember(turn, direction, deciding.fingerprint, verdict.kind === 'refusal');
  if (verdict.kind === 'refusal') notify(turn, direction, { signal: 'refused', cause: 'verdict' }, turn.config.refusedMs);
  else beginGrant(turn, direction, { by: { row }, units: verdict.units, attention: verdict.attention, fingerprint: deciding.fingerprint });
}

function endDeciding(turn: Turn, direction: Direction): void {
  cancelTimers(turn, direction, ['wait', 'refuse']);
  patch(turn, direction, { deciding: null });
}

export function onDecisionFailed(turn: Turn, input: Input<'decision_failed'>): void {
  const { deciding } = turn.state[input.direction];
  if (deciding === null || deciding.presentation !== input.presentation) return;
  endDeciding(turn, input.direction);
  refuse(turn, input.direction, 'error', deciding.fingerprint);
}

/** No verdict yet: the lamps say so. */
export function onWait(turn: Turn, direction: Direction): void {
  const { deciding } = turn.state[direction];
  if (deciding === null) return;
  endNotice(turn, direction);
  patch(turn, direction, { deciding: { ...deciding, waited: true } });
}

/** No verdict within the bound: the guest is told no, and what still comes is returned. */
export function onRefuseTimeout(turn: Turn, direction: Direction): void {
  const { deciding } = turn.state[direction];
  if (deciding === null) return;
  abandonDecision(turn, direction, 'late');
  refuse(turn, direction, 'error', deciding.fingerprint);
}

/** Gives an awaited decision up, for whatever reason. */
export function abandonDecision(turn: Turn, direction: Direction, why: 'late' | 'overruled' = 'overruled'): void {
  const { deciding } = turn.state[direction];
  if (deciding === null) return;
  endDeciding(turn, direction);
  turn.effects.push({ kind: 'abandon', direction, presentation: deciding.presentation, why });
}

export function onGarbled(turn: Turn, direction: Direction): void {
  const { mode } = turn.state[direction];
  if (turn.state.stopped || turn.state.draining !== 'no' || turn.state.fire.latched || mode !== 'controlled' || !isIdle(turn.state, direction)) return;
  if (isRepeat(turn, direction, GARBLED, true)) notify(turn, direction, { signal: 'refused', cause: 'verdict' }, turn.config.refusedMs);
  else refuse(turn, direction, 'unreadable', GARBLED);
}

function refuse(turn: Turn, direction: Direction, reason: 'unreadable' | 'gate_locked' | 'error', fingerprint: string): void {
  remember(turn, direction, fingerprint, true);
  notify(turn, direction, { signal: 'refused', cause: 'verdict' }, turn.config.refusedMs);
  turn.effects.push({ kind: 'refused', direction, reason });
  record(turn, { kind: 'refusal', reason, direction });
}
