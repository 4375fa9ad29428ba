/**
 * Out is never refused. Whoever shows anything at an outward reader is let out at once: the lane opens first, and what is known of the code
 * is found out after it. Only an exit that somebody closed (modes.ts) stays closed; fire and a free lane are open anyway.
 */
import type { Direction } from '../../contract/ids.ts';
import { beginGrant, returnUnits, settleGrant } from './grants.ts';
import { heldGapOf } from './held-gap.ts';
import { GARBLED, remember } from './presentations.ts';
import { nextNumber, record, type StepContext, update } from './step-context.ts';
import { closes, effectiveMode, type LaneInput, type WaitingExit } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;

/** Guests who wait for the one before them to go out. At the bound: a further one replaces the oldest, who has probably gone. */
export const MAX_WAITING_EXITS = 8;

/** Returns whether every code opens in this direction. */
export function opensUnasked(context: StepContext, direction: Direction): boolean {
  const mode = effectiveMode(context.state, direction);
  return direction === 'out' && !context.state.stopped && mode !== 'emergency' && mode !== 'free' && !closes(mode);
}

/** Opens for a code at an outward reader, then asks the decider whose it is. */
export function onExit(context: StepContext, { presentation, fingerprint, reader }: Input<'code'>): void {
  if (isHeld(context, fingerprint, reader)) {
    context.effects.push({ kind: 'drop', direction: 'out', presentation, shown: 'held' });
    return;
  }
  const exit = nextNumber(context);
  context.effects.push({ kind: 'expect', exit });
  begin(context, exit, fingerprint);
  context.effects.push({ kind: 'decide', direction: 'out', presentation, mode: effectiveMode(context.state, 'out'), exit });
}

/** Opens for a garbled frame at an outward reader: a torn ticket keeps nobody inside. */
export function onGarbledExit(context: StepContext): void {
  if (isHeld(context, GARBLED, undefined)) return;
  const exit = nextNumber(context);
  record(context, { kind: 'exit_unmatched', direction: 'out', reason: 'unreadable' }, exit);
  begin(context, exit, GARBLED);
}

function begin(context: StepContext, exit: number, fingerprint: string): void {
  remember(context, 'out', fingerprint, 'granted');
  letOut(context, { by: { override: exit }, units: 1, attention: false, fingerprint });
}

/** Returns whether the code is the one for which the lane is open: still the same guest. */
function isHeld(context: StepContext, fingerprint: string, reader: string | undefined): boolean {
  const { grant, exits, recent } = context.state.out;
  if (exits.some((one) => one.fingerprint === fingerprint)) return true;
  if (grant === null || grant.fingerprint !== fingerprint || grant.phase === 'grace') return false;
  const now = context.now.atMs;
  const seenAtMs = recent.find((one) => one.fingerprint === fingerprint)?.seenAtMs ?? Number.NEGATIVE_INFINITY;
  update(context, 'out', { recent: recent.map((one) => (one.fingerprint === fingerprint ? { ...one, seenAtMs: now } : one)) });
  // A sensor shows that nobody has passed yet: the lane is still open for this guest.
  return (grant.phase === 'released' && !grant.counted) || now - seenAtMs <= heldGapOf(context, 'out', reader);
}

/** Opens outwards, now or as soon as the one before has passed. */
export function letOut(context: StepContext, exit: WaitingExit): void {
  const { grant, exits } = context.state.out;
  if (grant !== null && (grant.phase === 'grace' || grant.counted)) settleGrant(context, 'out', null);
  if (context.state.out.grant === null && exits.length === 0) return beginGrant(context, 'out', exit);
  const [oldest, ...rest] = exits;
  if (oldest !== undefined && exits.length >= MAX_WAITING_EXITS) {
    returnUnits(context, 'out', oldest.by, 1, oldest.units);
    update(context, 'out', { exits: [...rest, exit] });
  } else {
    update(context, 'out', { exits: [...exits, exit] });
  }
}

/** Lets the next guest out when the one before has passed or has not come. */
export function settleExits(context: StepContext): void {
  const [next, ...rest] = context.state.out.exits;
  if (next === undefined || context.state.stopped) return;
  if (context.state.out.grant?.phase === 'grace') settleGrant(context, 'out', null);
  if (context.state.out.grant !== null) return;
  update(context, 'out', { exits: rest });
  beginGrant(context, 'out', next);
}

/** Returns every waiting exit: the lane is free or stops. */
export function returnExits(context: StepContext): void {
  for (const { by, units } of context.state.out.exits) returnUnits(context, 'out', by, 1, units);
  update(context, 'out', { exits: [] });
}

/** Extends an exit to the units of its ticket. Where it has ended already, the other units are returned. */
export function onExitGranted(context: StepContext, { exit, units, attention }: Input<'exit_granted'>): void {
  const isIt = (by: WaitingExit['by']): boolean => 'override' in by && by.override === exit;
  const { grant, exits } = context.state.out;
  if (grant !== null && isIt(grant.by)) return update(context, 'out', { grant: { ...grant, units: Math.max(grant.unit, units), attention } });
  if (exits.some(({ by }) => isIt(by))) return update(context, 'out', { exits: exits.map((one) => (isIt(one.by) ? { ...one, units, attention } : one)) });
  returnUnits(context, 'out', { override: exit }, 2, units);
}
