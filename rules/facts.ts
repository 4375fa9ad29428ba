/**
 * Types of a decision's inputs and outcome: pure data, without clocks or I/O.
 *
 * Usage is the list of entries, not a count: the rules derive what they need.
 */
import type { Direction, Medium } from '../contract/ids.ts';
import type { GrantType, Mode, PassageOutcome } from '../contract/ledger.ts';
import type { TicketRight } from '../contract/manifest.ts';
import type { Reason, ReasonFacts } from '../contract/reasons.ts';

/** A ticket's right, from the overlay, the manifest file, the cloud's answer or a signature. */
export interface TicketFacts {
  readonly eventId: string;
  readonly ticketId: string;
  readonly ticketRef: string;
  readonly tier: string;
  readonly zone: string | null;
  readonly status: TicketRight;
  /** Entries in total; null: by the policy. */
  readonly maxScans: number | null;
  readonly units: number;
  readonly validFromMs: number | null;
  readonly validUntilMs: number | null;
  readonly vip: boolean;
  readonly note: string | null;
  /** `signature`: known only from its own signature (sold after the last sync). */
  readonly source: 'manifest' | 'overlay' | 'cloud' | 'signature';
  /** The date of a series that a signed code names; null and absent: none. */
  readonly subevent?: number | null;
}

/** One grant of a ticket that counts (a returned one is not here). Times are corrected Unix ms where known, else the wall hint. */
export interface Entry {
  readonly gate: string;
  readonly atMs: number;
  readonly direction: Direction;
  readonly units: number;
  /** Strongest outcome so far; `open`: granted, no outcome yet. stuck, unknown and open count as used. */
  readonly outcome: Extract<PassageOutcome, 'passed' | 'stuck' | 'unknown'> | 'open';
}

export interface EventFacts {
  readonly eventId: string;
  readonly startsAtMs: number | null;
  readonly endsAtMs: number | null;
  readonly timeZone: string;
  readonly manifestVersion: number;
  readonly manifestGeneratedAtMs: number;
  readonly manifestExpiresAtMs: number;
  /** Counted by this gate from its own usage; null: no occupancy rule applies. */
  readonly inside: number | null;
}

/** The place and time of the presentation. */
export interface PlaceFacts {
  readonly gate: string;
  readonly direction: Direction;
  readonly mode: Mode;
  readonly nowMs: number;
  readonly clockTrusted: boolean;
  readonly online: boolean;
  /** False while this gate's usage is incomplete (rebuilt ledger, gap in a peer's). */
  readonly usageComplete: boolean;
  /** Guests of a party who are present, where somebody counted them; absent: as many as may pass. */
  readonly units?: number;
}

export interface RecognisedTicket {
  readonly kind: 'ticket';
  readonly ticket: TicketFacts;
  readonly medium: Medium;
  readonly entries: readonly Entry[];
  readonly event: EventFacts;
  /** Other events of this gate would have admitted the code as well. */
  readonly chosenOfSeveral?: true;
}

/** The result of the lookup of the code. */
export type Recognised =
  | RecognisedTicket
  /** `removed`: a tombstone has the reason. `asked`: the cloud was asked and did not know it. */
  | { readonly kind: 'unknown'; readonly removed: Extract<Reason, 'invalid' | 'revoked' | 'canceled'> | null; readonly asked: boolean }
  | { readonly kind: 'ambiguous' }
  | { readonly kind: 'unreadable' }
  /** No manifest at all: the gate cannot know any ticket. */
  | { readonly kind: 'no_manifest' };

export interface Grant {
  readonly kind: 'grant';
  readonly type: GrantType;
  readonly direction: Direction;
  /** Number of guests who may pass. */
  readonly units: number;
  /** Conditions that failed but were admitted by policy (GrantFlag in contract/ledger.ts). */
  readonly flags: readonly string[];
  /** Shown to the staff: the last entry before this one, of a re-entry or of the party's first, Unix ms. */
  readonly lastEntryMs: number | null;
  readonly vip: boolean;
}

export interface Refusal {
  readonly kind: 'refusal';
  readonly reason: Reason;
  /** Values of the texts' placeholders; times are formatted in the venue's zone. */
  readonly facts: ReasonFacts;
  readonly explanation: string;
  readonly validAgainAtMs: number | null;
}

export type Verdict = Grant | Refusal;
