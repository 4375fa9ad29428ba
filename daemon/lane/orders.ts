/** Openings by hand: the staff button, and an operator's `open`. */
import type { Direction } from '../../contract/ids.ts';
import { letOut } from './exits.ts';
import { beginGrant, returnUnits } from './grants.ts';
import { abandonDecision } from './presentations.ts';
import { answerSensor, awaitsAnswer } from './sensor.ts';
import { nextNumber, record, type StepContext, showBusy } from './step-context.ts';
import { closes, effectiveMode, type LaneInput, type OpenedBy } from './types.ts';

type Input<K extends LaneInput['kind']> = Extract<LaneInput, { kind: K }>;

/** Returns why a person's opening is not possible now; null: it is. Outwards it always is, but where the lane is open anyway or somebody closed the exit. */
export function cannotOpen(context: Pick<StepContext, 'state'>, direction: Direction): string | null {
  const mode = effectiveMode(context.state, direction);
  if (context.state.stopped) return 'the gate is about to stop';
  if (mode === 'emergency' || mode === 'free') return `the lane is open already (${mode})`;
  if (closes(mode)) return `the lane is closed (${mode}): set the mode first`;
  return direction === 'out' ? null : whyBusy(context);
}

function whyBusy({ state }: Pick<StepContext, 'state'>): string | null {
  if (state.stopped || state.draining !== 'no') return 'the gate is about to stop';
  return state.in.grant !== null || state.in.rotation !== null ? 'somebody is passing: try again when the lane is idle' : null;
}

/** Opens for one guest by the staff button, in every mode, recorded while the lane opens already. Abandons a decision in flight. */
export function onButton(context: StepContext): void {
  for (const direction of ['out', 'in'] as const) {
    if (context.config.button === direction || context.config.button === 'both') press(context, direction);
  }
}

/** Answers "the arms turn" where the sensor's fault waits for it: the button is held. */
export function onButtonHeld(context: StepContext): void {
  if (!awaitsAnswer(context)) return;
  const reason = 'staff button held: the arms turn';
  record(context, { kind: 'override', actor: 'button', action: 'sensor', reason }, nextNumber(context));
  answerSensor(context, true, 'button', reason);
}

function press(context: StepContext, direction: Direction): void {
  const mode = effectiveMode(context.state, direction);
  if (context.state.stopped || mode === 'emergency' || mode === 'free') return;
  if (direction === 'in' && whyBusy(context) !== null) return showBusy(context, direction);
  const override = nextNumber(context);
  record(context, { kind: 'override', actor: 'button', action: 'open', reason: 'staff button', direction, units: 1 }, override);
  begin(context, direction, { override }, 1);
}

/** Opens by an operator's order. Where the lane cannot open any more, its units are returned. */
export function onOpen(context: StepContext, input: Input<'open'>): void {
  const { direction, units } = input;
  const by: OpenedBy = 'row' in input ? { row: input.row } : { override: input.override };
  if (cannotOpen(context, direction) !== null) returnUnits(context, direction, by, 1, units);
  else begin(context, direction, by, units);
}

function begin(context: StepContext, direction: Direction, by: OpenedBy, units: number): void {
  const grant = { by, units, attention: false, fingerprint: null };
  abandonDecision(context, direction);
  if (direction === 'out') letOut(context, grant);
  else beginGrant(context, direction, grant);
}
