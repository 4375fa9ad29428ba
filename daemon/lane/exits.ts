/**
 * Out is never refused. Whoever shows anything at an outward reader is let out at once: the lane opens first, and what is known of the code
 * is found out after it. Only an exit that somebody closed (modes.ts) stays closed; fire and a free lane are open anyway.
 */
import type { Direction } from '../../contract/ids.ts';
import { hasSensor } from './config.ts';
import { beginGrant, returnUnits, settleGrant } from './grants.ts';
import { GARBLED, HELD_GAP_MS, remember } from './presentations.ts';
import { nextNumber, patch, record, type Turn } from './step-context.ts';
import { closes, effectiveMode, type LaneInput, type WaitingExit } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;

/** Guests who wait for the one before them to go out. A further one is let out in place of the oldest, who has probably gone. */
export const MAX_WAITING_EXITS = 8;

/** Does a code in this direction open, whatever it is? */
export function opensUnasked(turn: Turn, direction: Direction): boolean {
  const mode = effectiveMode(turn.state, direction);
  return direction === 'out' && !turn.state.stopped && mode !== 'emergency' && mode !== 'free' && !closes(mode);
}

/** A code at an outward reader: the lane opens, then the decider is asked whose it is. */
export function onExit(turn: Turn, { presentation, fingerprint }: Input<'code'>): void {
  if (isHeld(turn, fingerprint)) {
    turn.effects.push({ kind: 'drop', direction: 'out', presentation, shown: 'held' });
    return;
  }
  const exit = nextNumber(turn);
  turn.effects.push({ kind: 'expect', exit });
  begin(turn, exit, fingerprint);
  turn.effects.push({ kind: 'decide', direction: 'out', presentation, mode: effectiveMode(turn.state, 'out'), exit });
}

/** Rubbish at an outward reader opens as well: a torn ticket keeps nobody inside. */
export function onGarbledExit(turn: Turn): void {
  if (isHeld(turn, GARBLED)) return;
  const exit = nextNumber(turn);
  record(turn, { kind: 'exit_unmatched', direction: 'out', reason: 'unreadable' }, exit);
  begin(turn, exit, GARBLED);
}

function begin(turn: Turn, exit: number, fingerprint: string): void {
  remember(turn, 'out', fingerprint, false);
  letOut(turn, { by: { override: exit }, units: 1, attention: false, fingerprint });
}

/** The same code again while the lane is open for it: still the same guest. */
function isHeld(turn: Turn, fingerprint: string): boolean {
  const { grant, exits, recent } = turn.state.out;
  if (exits.some((one) => one.fingerprint === fingerprint)) return true;
  if (grant === null || grant.fingerprint !== fingerprint || grant.phase === 'grace') return false;
  const now = turn.now.atMs;
  const seenAtMs = recent.find((one) => one.fingerprint === fingerprint)?.seenAtMs ?? Number.NEGATIVE_INFINITY;
  patch(turn, 'out', { recent: recent.map((one) => (one.fingerprint === fingerprint ? { ...one, seenAtMs: now } : one)) });
  // Where the lane would tell that nobody has gone through yet, it is open for him still.
  return (grant.phase === 'released' && hasSensor(turn.config, 'out')) || now - seenAtMs <= HELD_GAP_MS;
}

/** Opens outwards, now or as soon as the one before has passed. */
export function letOut(turn: Turn, exit: WaitingExit): void {
  const { grant, exits } = turn.state.out;
  if (grant !== null && (grant.phase === 'grace' || !hasSensor(turn.config, 'out'))) settleGrant(turn, 'out', null);
  if (turn.state.out.grant === null && exits.length === 0) return beginGrant(turn, 'out', exit);
  const [oldest, ...rest] = exits;
  if (oldest !== undefined && exits.length >= MAX_WAITING_EXITS) {
    returnUnits(turn, 'out', oldest.by, 1, oldest.units);
    patch(turn, 'out', { exits: [...rest, exit] });
  } else {
    patch(turn, 'out', { exits: [...exits, exit] });
  }
}

/** The one before has passed, or has not come: the next. Nobody waits for a grace that is another's. */
export function settleExits(turn: Turn): void {
  const [next, ...rest] = turn.state.out.exits;
  if (next === undefined || turn.state.stopped) return;
  if (turn.state.out.grant?.phase === 'grace') settleGrant(turn, 'out', null);
  if (turn.state.out.grant !== null) return;
  patch(turn, 'out', { exits: rest });
  beginGrant(turn, 'out', next);
}

/** The lane is open for everybody, or stops: nobody waits any more. */
export function returnExits(turn: Turn): void {
  for (const { by, units } of turn.state.out.exits) returnUnits(turn, 'out', by, 1, units);
  patch(turn, 'out', { exits: [] });
}

/** An exit turned out to be of a ticket for several: the others may follow. Where it has ended already, what is left of it is returned. */
export function onExitGranted(turn: Turn, { exit, units, attention }: Input<'exit_granted'>): void {
  const isIt = (by: WaitingExit['by']): boolean => 'override' in by && by.override === exit;
  const { grant, exits } = turn.state.out;
  if (grant !== null && isIt(grant.by)) return patch(turn, 'out', { grant: { ...grant, units: Math.max(grant.unit, units), attention } });
  if (exits.some(({ by }) => isIt(by))) return patch(turn, 'out', { exits: exits.map((one) => (isIt(one.by) ? { ...one, units, attention } : one)) });
  returnUnits(turn, 'out', { override: exit }, 2, units);
}
