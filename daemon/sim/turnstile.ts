/**
 * A turnstile and its guests, as far as a lane can tell: a release unlocks one rotation, a guest walks, the passage sensor
 * says so. Pure: time is an input, what happens later is data (`deadlineMs`).
 */
import type { Direction } from '../../contract/ids.ts';
import type { InputName, OutputName } from '../ports.ts';

/** `auto`: a guest walks after each release. `nobody`: nobody does. `stuck`: a guest begins and stands in the arms. */
export type WalkMode = 'auto' | 'nobody' | 'stuck';

export interface TurnstileSettings {
  readonly walk: WalkMode;
  /** From the release until the guest moves, ms. */
  readonly delayMs: number;
  /** How long a passage takes, ms. */
  readonly rotateMs: number;
  /** A pulse unlocks for so long, whatever its length (5 s on common models). */
  readonly relockMs: number;
  readonly sensor: 'per_direction' | 'beams';
}

export const DEFAULT_TURNSTILE: TurnstileSettings = { walk: 'auto', delayMs: 300, rotateMs: 400, relockMs: 5_000, sensor: 'per_direction' };
/** Guests that wait behind one another; further ones turn away. */
export const MAX_WAITING_GUESTS = 16;

export interface TurnstileState {
  readonly settings: TurnstileSettings;
  /** Outputs of the lane that matter here. */
  readonly held: Readonly<Record<Direction, boolean>>;
  readonly stopped: boolean;
  /** Unlocked by a pulse until then; 0: locked. */
  readonly unlockedUntilMs: Readonly<Record<Direction, number>>;
  readonly rotating: Direction | null;
  /** Guests on their way, in order of time. */
  readonly guests: readonly { readonly direction: Direction; readonly atMs: number; readonly force: boolean; readonly stuck: boolean }[];
  /** Sensor edges to come, in order of time. */
  readonly edges: readonly { readonly atMs: number; readonly input: InputName; readonly active: boolean; readonly ends: boolean }[];
}

export type TurnstileInput =
  | { readonly kind: 'output'; readonly output: OutputName; readonly active: boolean }
  /** A guest pushes now. `force`: against locked arms, and they give. */
  | { readonly kind: 'guest'; readonly direction: Direction; readonly force: boolean }
  /** Whoever stands in the arms goes on. */
  | { readonly kind: 'unstick' }
  | { readonly kind: 'settings'; readonly settings: Partial<TurnstileSettings> }
  | { readonly kind: 'tick' };

export interface TurnstileStep {
  readonly state: TurnstileState;
  /** Sensor inputs that change now. */
  readonly effects: readonly { readonly input: InputName; readonly active: boolean }[];
  /** When to step with a tick at the latest; null: nothing is under way. */
  readonly deadlineMs: number | null;
}

export function initialTurnstile(settings: Partial<TurnstileSettings> = {}): TurnstileState {
  const both = { in: 0, out: 0 };
  return {
    settings: { ...DEFAULT_TURNSTILE, ...settings },
    held: { in: false, out: false },
    stopped: false,
    unlockedUntilMs: both,
    rotating: null,
    guests: [],
    edges: [],
  };
}

export function stepTurnstile(before: TurnstileState, input: TurnstileInput, atMs: number): TurnstileStep {
  const effects: { input: InputName; active: boolean }[] = [];
  // What was due comes first, so that a late tick changes nothing but the moment of its telling.
  let state = settle(before, atMs, effects);
  state = settle(take(state, input, atMs), atMs, effects);
  const due = [state.edges[0]?.atMs, state.rotating === null ? state.guests[0]?.atMs : undefined].filter((time) => time !== undefined);
  return { state, effects, deadlineMs: due.length === 0 ? null : Math.min(...due) };
}

/** Tells whether arms may turn in this direction. */
export const isUnlocked = (state: TurnstileState, direction: Direction, atMs: number): boolean =>
  !state.stopped && (state.held[direction] || atMs < state.unlockedUntilMs[direction]);

function take(state: TurnstileState, input: TurnstileInput, atMs: number): TurnstileState {
  if (input.kind === 'settings') return { ...state, settings: { ...state.settings, ...input.settings } };
  if (input.kind === 'guest') return invite(state, input.direction, atMs, input.force, false);
  if (input.kind === 'unstick') {
    if (state.rotating === null || state.edges.length > 0) return state;
    return { ...state, edges: passage(state.rotating, state.settings, atMs).filter(({ active }) => !active) };
  }
  if (input.kind === 'tick') return state;
  if (input.output === 'stop') return { ...state, stopped: input.active };
  const direction: Direction | null = input.output === 'release_in' ? 'in' : input.output === 'release_out' ? 'out' : null;
  if (direction === null || state.held[direction] === input.active) return state;
  const held = { ...state.held, [direction]: input.active };
  if (!input.active) return { ...state, held };
  const { walk, delayMs, relockMs } = state.settings;
  const released = { ...state, held, unlockedUntilMs: { ...state.unlockedUntilMs, [direction]: atMs + relockMs } };
  return walk === 'nobody' ? released : invite(released, direction, atMs + delayMs, false, walk === 'stuck');
}

function invite(state: TurnstileState, direction: Direction, atMs: number, force: boolean, stuck: boolean): TurnstileState {
  if (state.guests.length >= MAX_WAITING_GUESTS) return state;
  return { ...state, guests: [...state.guests, { direction, atMs, force, stuck }].sort((a, b) => a.atMs - b.atMs) };
}

/** Does everything that is due by `atMs`, in order. */
function settle(state: TurnstileState, atMs: number, effects: { input: InputName; active: boolean }[]): TurnstileState {
  let now = state;
  // When the arms came to rest: a guest who waited for that begins then.
  let restMs = 0;
  for (;;) {
    const edge = now.edges[0];
    if (edge !== undefined && edge.atMs <= atMs) {
      restMs = edge.atMs;
      effects.push({ input: edge.input, active: edge.active });
      now = { ...now, edges: now.edges.slice(1), rotating: edge.ends ? null : now.rotating };
      continue;
    }
    const guest = now.guests[0];
    if (guest === undefined || guest.atMs > atMs || now.rotating !== null) return now;
    now = { ...now, guests: now.guests.slice(1) };
    // Locked arms: the guest turns away.
    const beginsMs = Math.max(guest.atMs, restMs);
    if (!guest.force && !isUnlocked(now, guest.direction, beginsMs)) continue;
    const edges = passage(guest.direction, now.settings, beginsMs);
    // One pulse is worth one rotation.
    now = {
      ...now,
      rotating: guest.direction,
      unlockedUntilMs: { ...now.unlockedUntilMs, [guest.direction]: 0 },
      edges: guest.stuck ? edges.filter(({ active }) => active) : edges,
    };
  }
}

/** Returns the sensor's edges of one passage. Beams stand one behind the other: the first is broken first and freed first. */
function passage(direction: Direction, { sensor, rotateMs }: TurnstileSettings, beginsMs: number): TurnstileState['edges'] {
  if (sensor === 'per_direction') {
    const input = direction === 'in' ? 'passage_in' : 'passage_out';
    return [
      { atMs: beginsMs, input, active: true, ends: false },
      { atMs: beginsMs + rotateMs, input, active: false, ends: true },
    ];
  }
  const [first, second] = direction === 'in' ? (['beam_a', 'beam_b'] as const) : (['beam_b', 'beam_a'] as const);
  return [
    { atMs: beginsMs, input: first, active: true, ends: false },
    { atMs: beginsMs + rotateMs / 3, input: second, active: true, ends: false },
    { atMs: beginsMs + (rotateMs * 2) / 3, input: first, active: false, ends: false },
    { atMs: beginsMs + rotateMs, input: second, active: false, ends: true },
  ];
}
