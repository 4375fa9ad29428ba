/**
 * Orders that lie over the mode of *in*: the key switches, then stop-entry. When the last of them ends, the mode beneath is back. They close in
 * only; fire and evacuation lie over all of them.
 */
import { applyMode } from './modes.ts';
import { record, type StepContext, update } from './step-context.ts';
import { closes, type LaneInput, type PendingMode } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;

/** Returns the order that holds; null: the mode beneath. */
function orderOf({ state }: StepContext): PendingMode | null {
  const { keyFree, keyClosed, stopped } = state.entry;
  const byKey = (mode: PendingMode['mode'], reason: string): PendingMode => ({ mode, untilWallMs: null, actor: 'key', reason });
  if (keyFree && keyClosed) return byKey('locked', 'both key switches are on');
  if (keyClosed) return byKey('locked', 'key switch: closed');
  if (keyFree) return byKey('free', 'key switch: free');
  return stopped === null ? null : { mode: 'locked', untilWallMs: null, ...stopped };
}

/** Takes a key switch. Both at once are a fault, and close in. */
export function onKey(context: StepContext, key: 'key_free' | 'key_closed', active: boolean): void {
  const before = context.state.entry.keyFree && context.state.entry.keyClosed;
  context.state.entry = { ...context.state.entry, ...(key === 'key_free' ? { keyFree: active } : { keyClosed: active }) };
  const both = context.state.entry.keyFree && context.state.entry.keyClosed;
  if (both === before) return;
  if (!both) {
    context.effects.push({ kind: 'clear', alert: 'key' });
    return;
  }
  record(context, { kind: 'fault', what: 'key', detail: 'both key switches are on' });
  context.effects.push({
    kind: 'raise',
    alert: 'key',
    severity: 'warning',
    message: 'both key switches are on: in is closed. Put one back, or check the wires',
  });
}

/** Closes in until `resume-entry`; tickets stay as they are. */
export function onStopEntry(context: StepContext, { actor, reason }: Input<'stop_entry'>): void {
  context.state.entry = { ...context.state.entry, stopped: { actor, reason } };
}

/** Ends stop-entry, also one of before a restart. */
export function onResumeEntry(context: StepContext, { actor, reason }: Input<'resume_entry'>): void {
  const { stopped, base, restored } = context.state.entry;
  const resumed: PendingMode = { mode: 'controlled', untilWallMs: null, actor, reason };
  if (stopped === null && base === null && restored) {
    context.state.entry = { ...context.state.entry, restored: false };
    applyMode(context, 'in', resumed);
  } else if (stopped !== null && base !== null) context.state.entry = { ...context.state.entry, stopped: null, base: { ...base, actor, reason } };
  else context.state.entry = { ...context.state.entry, stopped: null };
}

/** Puts in into the mode that the orders ask for. Closing waits for who is passing. */
export function settleEntry(context: StepContext): void {
  const wanted = orderOf(context);
  const { base } = context.state.entry;
  const { mode, untilWallMs, pendingMode } = context.state.in;
  if (wanted === null) {
    if (base === null) return;
    context.state.entry = { ...context.state.entry, base: null };
    const isOver = base.untilWallMs !== null && context.now.wallMs >= base.untilWallMs;
    update(context, 'in', { pendingMode: null });
    if (base.mode !== mode || base.untilWallMs !== null) order(context, isOver ? { ...base, mode: 'controlled', untilWallMs: null } : base);
    return;
  }
  if (base === null) {
    const beneath = pendingMode ?? { mode, untilWallMs, actor: wanted.actor, reason: `${wanted.reason}: over` };
    context.state.entry = { ...context.state.entry, base: beneath };
    update(context, 'in', { pendingMode: null });
  }
  if ((context.state.in.pendingMode?.mode ?? context.state.in.mode) !== wanted.mode) order(context, wanted);
}

function order(context: StepContext, wanted: PendingMode): void {
  if (closes(wanted.mode)) update(context, 'in', { pendingMode: wanted });
  else applyMode(context, 'in', wanted);
}
