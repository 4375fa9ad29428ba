/**
 * The types of the lane: its state, its inputs and its effects. Data only.
 *
 * One lane has two directions; each has its own mode, grant, lamps and release. Fire and tamper belong
 * to the lane. Times are boottime ms unless a name says wall.
 */
import type { Direction, RowPosition } from '../../contract/ids.ts';
import type { Mode, PassageOutcome } from '../../contract/ledger.ts';
import type { AlertId, NotTaken, Severity } from '../../contract/messages.ts';
import type { Reason } from '../../contract/reasons.ts';
import type { BeamState, LineState } from './debounce.ts';

/** Signals of a direction, the most urgent first: on a lane with one set of lamps, the earlier one shows. */
export const SIGNALS = [
  'emergency',
  'alarm',
  'granted_attention',
  'granted',
  'refused',
  'refused_elsewhere',
  'busy',
  'working',
  'free',
  'booting',
  'disk',
  'no_reader',
  'no_manifest',
  'ready',
  'closed',
  'exit_open',
] as const;
export type Signal = (typeof SIGNALS)[number];

/** Inputs of a lane. Logical levels: true = passage under way, pressed, alarm. */
export type LaneLine = 'passage_in' | 'passage_out' | 'beam_a' | 'beam_b' | 'button' | 'fire' | 'tamper' | 'key_free' | 'key_closed';
/** An output that moves the turnstile. */
export type ReleaseOutput = 'release_in' | 'release_out' | 'stop';
/** Every output of a lane. */
export type LaneOutput = ReleaseOutput | `${'green' | 'red' | 'amber'}_${Direction}` | 'buzzer';

/** Modes a direction is put into. Emergency is the fire latch's, and lies over them. */
export type BaseMode = Exclude<Mode, 'emergency'>;

/** The cause of an opening: a committed row, or an override or an exit whose row is still being written (its number in this process). */
export type OpenedBy = { readonly row: RowPosition } | { readonly override: number };

/** `released`: may begin. `grace`: locked again, a late beginning still counts. `passing`: begun. */
export type GrantPhase = 'released' | 'grace' | 'passing';

/** An open grant. One unit at a time, from 1. */
export interface OpenGrant {
  readonly by: OpenedBy;
  readonly units: number;
  readonly unit: number;
  readonly phase: GrantPhase;
  readonly attention: boolean;
  /** Recorded as passed when it was released: no sensor sees this direction. */
  readonly counted: boolean;
  /** Of the code that was granted; null: an override. */
  readonly fingerprint: string | null;
}

/** Somebody who may go out as soon as the one before has passed. */
export type WaitingExit = Pick<OpenGrant, 'by' | 'units' | 'attention' | 'fingerprint'>;

/** A rotation that the sensor reports. `forced` and `unknown` (under way at start) belong to nobody. */
export interface Rotation {
  readonly whose: 'grant' | 'free' | 'forced' | 'unknown';
  readonly sinceMs: number;
  readonly stuck: boolean;
}

/**
 * The release output. `gap`: off for a moment so that the turnstile sees a new edge; then on again.
 * `again`: a pulse was asked for while one was running.
 */
export interface Release {
  readonly state: 'off' | 'pulse' | 'held' | 'gap';
  readonly again: boolean;
  /** When it went off last: a new edge needs a gap before it. */
  readonly offSinceMs: number;
}

/** A code whose decision is awaited. */
export interface Deciding {
  readonly presentation: number;
  readonly fingerprint: string;
  /** Lamps say "wait" since the first bound passed. */
  readonly waited: boolean;
  /** The same presentation has ended in an error before: its row is written. */
  readonly retried: boolean;
}

export interface QueuedCode {
  readonly presentation: number;
  readonly fingerprint: string;
  readonly atMs: number;
}

/** A code that was answered busy and may still lie before its reader. */
export interface HeldCode {
  readonly presentation: number;
  readonly fingerprint: string;
}

/**
 * The answer of a presentation. Final are `granted`, `returned` (granted, and nobody passed) and `refused` (by a rule, or unreadable). `error` and
 * `locked` are not. null: a new presentation without a verdict.
 */
export type Answer = 'granted' | 'returned' | 'refused' | 'error' | 'locked' | null;

/** A code that was answered lately. */
export interface Recent {
  readonly fingerprint: string;
  readonly answer: Answer;
  /** Refused here, valid at another place or time. */
  readonly elsewhere: boolean;
  readonly verdictAtMs: number;
  readonly seenAtMs: number;
  /** When its refusal was shown last. */
  readonly shownAtMs: number;
  /** Between the last two sights; null: seen once. */
  readonly intervalMs: number | null;
}

/** A signal that is shown for a time; then the base signal again. */
export interface Notice {
  readonly signal: Extract<Signal, 'refused' | 'refused_elsewhere' | 'busy' | 'alarm'>;
  readonly cause: 'verdict' | 'forced' | 'stuck';
}

/** A mode that waits for a rotation in progress or an open grant. */
export interface PendingMode {
  readonly mode: BaseMode;
  readonly untilWallMs: number | null;
  readonly actor: string;
  readonly reason: string;
}

/** The passage sensor of a direction, as far as it is trusted. */
export interface SensorState {
  /** `blind`: grants in a row without a passage. `stuck`: the line does not return to rest. */
  readonly fault: 'blind' | 'stuck' | null;
  /** The release counts as the passage until the sensor speaks: a person said that the arms turn. */
  readonly counting: boolean;
  /** Grants returned since the last passage, the newest last. */
  readonly inARow: readonly { readonly atMs: number; readonly fingerprint: string | null }[];
  /** Grants returned lately, whatever passed between them. */
  readonly returns: readonly { readonly atMs: number; readonly fingerprint: string | null }[];
}

export interface DirectionState {
  readonly mode: BaseMode;
  readonly untilWallMs: number | null;
  readonly pendingMode: PendingMode | null;
  readonly deciding: Deciding | null;
  readonly grant: OpenGrant | null;
  readonly rotation: Rotation | null;
  readonly sensor: SensorState;
  readonly release: Release;
  /** A free lane was closed, but the turnstile may stay unlocked by its own timer until then: who begins before is not forced. */
  readonly freeTailMs: number;
  readonly queue: readonly QueuedCode[];
  readonly held: HeldCode | null;
  /** The intervals at which each reader repeated a code, ms, the newest last. */
  readonly repeats: Readonly<Record<string, readonly number[]>>;
  /** Outwards alone. */
  readonly exits: readonly WaitingExit[];
  readonly recent: readonly Recent[];
  readonly notice: Notice | null;
  readonly signal: Signal;
  readonly readerOk: boolean;
}

export type DirectionTimer = 'pulse' | 'edge' | 'passage' | 'grace' | 'stuck' | 'repulse' | 'wait' | 'refuse' | 'notice' | 'until' | 'queue' | 'held' | 'exit';
export type TimerName = `${DirectionTimer}:${Direction}` | `line:${LaneLine}` | 'beam' | 'stop' | 'button';

export interface LaneState {
  readonly in: DirectionState;
  readonly out: DirectionState;
  readonly fire: { readonly asserted: boolean; readonly latched: boolean };
  /** Contacts of the fire input that were too short to count, since the start. */
  readonly fireKicks: number;
  /** Orders over the mode of in, and the mode beneath them (null: none holds). */
  readonly entry: {
    readonly keyFree: boolean;
    readonly keyClosed: boolean;
    readonly stopped: { readonly actor: string; readonly reason: string } | null;
    readonly base: PendingMode | null;
    /** The lane was locked when the gate started: perhaps by a stop-entry of before. */
    readonly restored: boolean;
  };
  readonly tamper: boolean;
  readonly lines: Readonly<Partial<Record<LaneLine, LineState>>>;
  readonly beams: BeamState;
  /** Deadlines of running timers. */
  readonly timers: Readonly<Partial<Record<TimerName, number>>>;
  readonly nextOverride: number;
  /** `waiting`: no new guests, the lane is about to stop. `idle`: and nothing is open any more. */
  readonly draining: 'no' | 'waiting' | 'idle';
  /** The stop output is active. */
  readonly stopHeld: boolean;
  readonly booted: boolean;
  readonly manifestOk: boolean;
  readonly diskOk: boolean;
  readonly stopped: boolean;
}

/** The time of an input, by both clocks. */
export interface At {
  readonly atMs: number;
  readonly wallMs: number;
}

export type LaneInput = At &
  /** A code before a reader. `presentation`: the caller's number for it; `fingerprint`: equal for equal codes, and reveals nothing of them; `reader`: where it was read. */
  (
    | {
        readonly kind: 'code';
        readonly direction: Direction;
        readonly presentation: number;
        readonly fingerprint: string;
        readonly lastByteMs: number;
        readonly reader?: string;
      }
    | { readonly kind: 'garbled'; readonly direction: Direction }
    | {
        readonly kind: 'verdict';
        readonly direction: Direction;
        readonly presentation: number;
        readonly row: RowPosition;
        readonly verdict:
          | { readonly kind: 'grant'; readonly units: number; readonly attention: boolean }
          | { readonly kind: 'refusal'; readonly elsewhere?: boolean };
      }
    /** The decider could not decide (disk full, busy, denied). */
    | { readonly kind: 'decision_failed'; readonly direction: Direction; readonly presentation: number }
    /** A line of the board, as it is: edge or level. `initial`: read at start. */
    | { readonly kind: 'line'; readonly input: LaneLine; readonly active: boolean; readonly initial: boolean }
    | { readonly kind: 'timer'; readonly timer: TimerName }
    /** An operator's opening. Inwards its row is committed. */
    | ({ readonly kind: 'open'; readonly direction: Direction; readonly units: number } & OpenedBy)
    /** The row of an exit that is open already: it is a grant, for so many. */
    | { readonly kind: 'exit_granted'; readonly exit: number; readonly units: number; readonly attention: boolean }
    | {
        readonly kind: 'mode';
        readonly directions: readonly Direction[];
        readonly mode: BaseMode;
        readonly untilWallMs: number | null;
        readonly actor: string;
        readonly reason: string;
        /** Somebody has said that the exit shall be closed: without it a mode that closes does nothing outwards. */
        readonly exitClosedConfirmed?: boolean;
      }
    /** A person's answer to "do the arms turn?". */
    | { readonly kind: 'sensor_answer'; readonly turns: boolean; readonly actor: string; readonly reason: string }
    /** A self-test saw a passage in this direction. */
    | { readonly kind: 'sensor_tested'; readonly direction: Direction }
    | { readonly kind: 'evacuate'; readonly actor: string; readonly reason: string }
    | { readonly kind: 'stop_entry'; readonly actor: string; readonly reason: string }
    | { readonly kind: 'resume_entry'; readonly actor: string; readonly reason: string }
    | { readonly kind: 'reset_emergency'; readonly actor: string; readonly reason: string }
    /** At start: modes from the ledger, the fire latch from the disk. */
    | {
        readonly kind: 'restore';
        readonly modes: Readonly<Record<Direction, { readonly mode: BaseMode; readonly untilWallMs: number | null }>>;
        readonly fireLatched: boolean;
      }
    | { readonly kind: 'condition'; readonly condition: 'booted' | 'manifest' | 'disk'; readonly ok: boolean }
    | { readonly kind: 'reader'; readonly direction: Direction; readonly ok: boolean }
    /** No new guests from now on; `idle` follows when nothing is open. `cancel`: go on as before. */
    | { readonly kind: 'drain'; readonly cancel: boolean }
    /** The process ends now: open grants are settled as far as they can be, releases return. */
    | { readonly kind: 'stop' }
  );

/** An entry for the ledger. A passage may point at an override whose row is still being written. */
export type LaneNote =
  | { readonly kind: 'passage'; readonly of: OpenedBy | null; readonly direction: Direction; readonly unit: number | null; readonly outcome: PassageOutcome }
  | { readonly kind: 'refusal'; readonly reason: Extract<Reason, 'unreadable' | 'gate_locked' | 'see_staff' | 'error'>; readonly direction: Direction }
  /** Somebody was let out, and no admission is known for the code that was shown. */
  | { readonly kind: 'exit_unmatched'; readonly direction: Direction; readonly reason: Extract<Reason, 'unreadable' | 'error'> }
  | {
      readonly kind: 'override';
      readonly actor: string;
      readonly action: string;
      readonly reason: string;
      readonly direction?: Direction;
      readonly units?: number;
      readonly until?: string;
      readonly transaction?: string;
    }
  | {
      readonly kind: 'mode';
      readonly direction: Direction;
      readonly from: Mode;
      readonly to: Mode;
      readonly actor: string;
      readonly reason: string;
      readonly until?: string;
    }
  | { readonly kind: 'fault' | 'alarm'; readonly what: string; readonly detail: string };

export type LaneEffect =
  /** Drive a release or the stop output. Lamps and buzzer go by `signal`. */
  | { readonly kind: 'write'; readonly output: ReleaseOutput; readonly active: boolean }
  /** Show this pattern from its beginning. */
  | { readonly kind: 'signal'; readonly direction: Direction; readonly signal: Signal }
  /** One timer of a name runs at a time: setting it again replaces it. It comes back as input `timer`, not before `dueMs`. */
  | { readonly kind: 'set_timer'; readonly timer: TimerName; readonly dueMs: number }
  | { readonly kind: 'cancel_timer'; readonly timer: TimerName }
  /** The row of this exit is asked for in this step: passages with its number wait for it. */
  | { readonly kind: 'expect'; readonly exit: number }
  /** `exit`: the lane is open outwards already, whatever the answer is. */
  | { readonly kind: 'decide'; readonly direction: Direction; readonly presentation: number; readonly mode: Mode; readonly exit?: number }
  /** Abandon the decision; the decider returns a grant that still comes. `late`: it took too long; `overruled`: something else came first. */
  | { readonly kind: 'abandon'; readonly direction: Direction; readonly presentation: number; readonly why: 'late' | 'overruled' }
  /** The presentation ends here without the decider: forget its bytes. `shown`: the answer to the guest; `gate_locked`: the lane has refused it itself. */
  | { readonly kind: 'drop'; readonly direction: Direction; readonly presentation: number; readonly shown: NotTaken | 'gate_locked' | 'see_staff' }
  /** `override`: the number under which passages point at this row. */
  | { readonly kind: 'record'; readonly note: LaneNote; readonly override?: number }
  | { readonly kind: 'fire_latch'; readonly latched: boolean }
  /** The fire input was active for less than `fire_confirm_ms`. */
  | { readonly kind: 'fire_kick'; readonly count: number }
  | { readonly kind: 'raise'; readonly alert: AlertId; readonly severity: Severity; readonly message: string }
  | { readonly kind: 'clear'; readonly alert: AlertId }
  /** ActiveSignal to the guest without a decision of the decider. */
  | { readonly kind: 'refused'; readonly direction: Direction; readonly reason: Extract<Reason, 'unreadable' | 'gate_locked' | 'see_staff' | 'error'> }
  /** After `drain`: nothing is open any more. */
  | { readonly kind: 'idle' };

export interface Step {
  readonly state: LaneState;
  readonly effects: readonly LaneEffect[];
}

/** Returns the effective mode: emergency over everything while the fire input is asserted or latched. */
export function effectiveMode(state: LaneState, direction: Direction): Mode {
  return state.fire.latched ? 'emergency' : state[direction].mode;
}

/** Returns whether this mode closes the direction. */
export const closes = (mode: Mode): boolean => mode === 'locked' || mode === 'out_of_service';

export const BOTH: readonly Direction[] = ['in', 'out'];
