/** What people open by hand: the staff button, and an operator's `open`. */
import type { Direction } from '../../contract/ids.ts';
import { letOut } from './exits.ts';
import { beginGrant, returnUnits } from './grants.ts';
import { abandonDecision } from './presentations.ts';
import { nextNumber, record, showBusy, type Turn } from './step-context.ts';
import { closes, effectiveMode, type LaneInput, type OpenedBy } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;

/** Why a person's opening is not possible now; null: it is. Outwards it always is, but where the lane is open anyway or somebody closed the exit. */
export function cannotOpen(turn: Pick<Turn, 'state'>, direction: Direction): string | null {
  const mode = effectiveMode(turn.state, direction);
  if (turn.state.stopped) return 'the gate is about to stop';
  if (mode === 'emergency' || mode === 'free') return `the lane is open already (${mode})`;
  if (closes(mode)) return `the lane is closed (${mode}): set the mode first`;
  return direction === 'out' ? null : whyBusy(turn);
}

function whyBusy({ state }: Pick<Turn, 'state'>): string | null {
  if (state.stopped || state.draining !== 'no') return 'the gate is about to stop';
  return state.in.grant !== null || state.in.rotation !== null ? 'somebody is passing: try again when the lane is idle' : null;
}

/** The staff button: one guest, in every mode, recorded while the lane opens already. A decision that is awaited is given up for it. */
export function onButton(turn: Turn): void {
  for (const direction of ['out', 'in'] as const) {
    if (turn.config.button === direction || turn.config.button === 'both') press(turn, direction);
  }
}

function press(turn: Turn, direction: Direction): void {
  const mode = effectiveMode(turn.state, direction);
  if (turn.state.stopped || mode === 'emergency' || mode === 'free') return;
  if (direction === 'in' && whyBusy(turn) !== null) return showBusy(turn, direction);
  const override = nextNumber(turn);
  record(turn, { kind: 'override', actor: 'button', action: 'open', reason: 'staff button', direction, units: 1 }, override);
  begin(turn, direction, { override }, 1);
}

/** An operator's opening. Where the lane cannot open any more, its units are returned. */
export function onOpen(turn: Turn, input: Input<'open'>): void {
  const { direction, units } = input;
  const by: OpenedBy = 'row' in input ? { row: input.row } : { override: input.override };
  if (cannotOpen(turn, direction) !== null) returnUnits(turn, direction, by, 1, units);
  else begin(turn, direction, by, units);
}

function begin(turn: Turn, direction: Direction, by: OpenedBy, units: number): void {
  const grant = { by, units, attention: false, fingerprint: null };
  abandonDecision(turn, direction);
  if (direction === 'out') letOut(turn, grant);
  else beginGrant(turn, direction, grant);
}
