/** Types of the forms of a code: opaque, signed by Stile, signed by pretix. */

/** A code without structure: it is found by its salted hash, or not at all. */
export interface OpaqueForm {
  readonly form: 'opaque';
  readonly text: string;
  /** What is hashed after the event's salt. */
  readonly lookupText: string;
}
/** Stile's signed code. Times are Unix ms; null: open. */
export interface StileForm {
  readonly form: 'stile';
  readonly keyId: string;
  readonly eventId: string;
  readonly ticketId: string;
  readonly tier: string;
  readonly zone: string | null;
  readonly validFromMs: number | null;
  readonly validUntilMs: number | null;
  readonly signedBytes: Uint8Array;
  readonly signature: Uint8Array;
  /** What is hashed after the event's salt: the ticket id, which stands in place of the code. */
  readonly lookupText: string;
}
/** pretix's signed ticket (`pretix_sig1`). It names neither event nor key nor ticket: the event's pretix keys are tried. */
export interface PretixForm {
  readonly form: 'pretix';
  readonly item: number;
  readonly variation: number | null;
  readonly subevent: number | null;
  readonly validFromMs: number | null;
  readonly validUntilMs: number | null;
  readonly signedBytes: Uint8Array;
  readonly signature: Uint8Array;
  /** What is hashed after the event's salt: the whole secret. */
  readonly lookupText: string;
}
export type SignedForm = StileForm | PretixForm;
export type CodeForm = OpaqueForm | SignedForm;
