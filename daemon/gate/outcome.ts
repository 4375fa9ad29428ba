/** The outcomes that the gate's parts report, and what they are made of. outcomes.ts says who learns of each. */
import type { Direction, RowPosition } from '../../contract/ids.ts';
import type { AlertId, Severity } from '../../contract/messages.ts';
import type { Reason } from '../../contract/reasons.ts';
import type { LaneInput, LaneNote } from '../lane/types.ts';
import type { DeciderStatus, Decision, Fault, GrantConflict, Note, OutputName, Presentation, ReaderEvent } from '../ports.ts';

/** Bounds a cause in a row, characters; the rest is cut. */
export const MAX_DETAIL_CHARS = 500;

/** A lane input without its times: the loop adds them. */
export type UntimedInput = LaneInput extends infer I ? (I extends LaneInput ? Omit<I, 'atMs' | 'wallMs'> : never) : never;

/** A verdict as the guest saw it, with its reason. */
export interface ShownDecision {
  /** Rises by one with each, from 1. */
  readonly n: number;
  readonly wallMs: number;
  readonly direction: Direction;
  readonly reader: string | null;
  /** `exit_unmatched`: the gate let the guest out all the same. */
  readonly outcome: 'grant' | 'refusal' | 'exit_unmatched' | 'override';
  readonly reason: Reason | null;
  /** "admitted", "already used at 18:02, gate north-03". */
  readonly words: string;
  readonly eventId: string | null;
  readonly ticketId: string | null;
  readonly ticketRef: string | null;
  readonly units: number;
  readonly flags: readonly string[];
  readonly row: RowPosition | null;
  /** Last byte of the code → verdict in the loop, release driven. µs; null: no code. */
  readonly latencyUs: number | null;
  readonly stages: { readonly lookup_us: number; readonly decision_us: number; readonly commit_us: number } | null;
}

export interface ActiveAlert {
  readonly id: AlertId;
  readonly severity: Severity;
  readonly message: string;
  readonly sinceWallMs: number;
}

export type Outcome =
  /** `atMs`: when it happened, boottime; absent: now. */
  | { readonly kind: 'lane_input'; readonly input: UntimedInput; readonly atMs?: number }
  /** The lane is idle after a `drain`. */
  | { readonly kind: 'lane_idle' }
  /** Housekeeping is due. */
  | { readonly kind: 'tick'; readonly nowMs: number }
  /** The first bytes of a code arrive at a reader. */
  | { readonly kind: 'code_arriving' }
  | { readonly kind: 'code_read'; readonly frame: Extract<ReaderEvent, { kind: 'frame' }> }
  /** The decider decided in time. `latencyUs`: from the code's last byte until the lane has acted. */
  | { readonly kind: 'decision'; readonly decision: Decision; readonly presentation: Presentation; readonly latencyUs: number }
  /** The decider wrote the row of an exit. `unmatched`: no admission is known for its code. */
  | { readonly kind: 'exit_committed'; readonly exit: number; readonly row: RowPosition; readonly unmatched: boolean }
  /** The decider did not write the row of an exit. */
  | { readonly kind: 'exit_undecided'; readonly exit: number }
  | { readonly kind: 'entry'; readonly note: LaneNote }
  | { readonly kind: 'entry_committed'; readonly note: Note; readonly row: RowPosition }
  | { readonly kind: 'store_opened'; readonly status: DeciderStatus }
  | { readonly kind: 'store_status'; readonly status: DeciderStatus }
  | { readonly kind: 'store_failed'; readonly error: unknown }
  | { readonly kind: 'store_healthy' }
  | { readonly kind: 'backlog'; readonly rows: number }
  /** More rows wait to be sent again than before. */
  | { readonly kind: 'rows_resent' }
  | { readonly kind: 'board_fault'; readonly fault: Fault }
  | { readonly kind: 'output_failed'; readonly output: OutputName; readonly error: unknown }
  | { readonly kind: 'raise'; readonly alert: AlertId; readonly severity: Severity; readonly message: string }
  | { readonly kind: 'clear'; readonly alert: AlertId }
  | { readonly kind: 'alert_changed'; readonly alert: ActiveAlert; readonly active: boolean }
  | { readonly kind: 'decision_shown'; readonly decision: Omit<ShownDecision, 'n'> }
  | { readonly kind: 'conflict'; readonly conflict: GrantConflict }
  | { readonly kind: 'subscriber_failed'; readonly error: unknown }
  /** Something changed that a snapshot shows. */
  | { readonly kind: 'view_changed' };

/** Synchronous: what follows from an outcome has happened when it returns. */
export type Report = (outcome: Outcome) => void;

/** Returns the message of an error, whatever was thrown. */
export function causeOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
