/**
 * What the reader saw → a code, or why not; and what kind of code it is.
 *
 * Everything here is total: no bytes and no text make it throw. Nothing is verified here but structure;
 * signatures are checked by signed.ts with a verifier that is handed in.
 */
import { MAX_FRAME_BYTES } from '../contract/limits.ts';
import { readPretix } from './pretix.ts';
import { readStile } from './signed.ts';

/** Text is a guest's code: never logged, stored or published. */
export type Code = { readonly kind: 'code'; readonly text: string } | { readonly kind: 'unreadable' };

const UNREADABLE: Code = { kind: 'unreadable' };
const utf8 = new TextDecoder('utf-8', { fatal: true });
/** An ECI mark as scanners transmit it: a backslash and six digits. It names the character set and is not part of the code. */
const ECI_MARK = /^\\\d{6}/;

/**
 * The code in a frame of at most MAX_FRAME_BYTES: UTF-8, ECI mark and surrounding white space or control
 * characters taken off. Unreadable: too long, not UTF-8, empty, or with control characters inside.
 */
export function readCode(bytes: Uint8Array): Code {
  if (bytes.byteLength > MAX_FRAME_BYTES) return UNREADABLE;
  let raw: string;
  try {
    raw = utf8.decode(bytes);
  } catch {
    return UNREADABLE;
  }
  const text = trim(trim(raw).replace(ECI_MARK, ''));
  if (text === '') return UNREADABLE;
  for (let i = 0; i < text.length; i++) if (isControl(text.charCodeAt(i))) return UNREADABLE;
  return { kind: 'code', text };
}

/** C0, DEL and C1. */
const isControl = (code: number): boolean => code < 0x20 || (code >= 0x7f && code <= 0x9f);
const isBlank = (text: string, at: number): boolean => isControl(text.charCodeAt(at)) || text.charAt(at).trim() === '';

function trim(text: string): string {
  let start = 0;
  let end = text.length;
  while (start < end && isBlank(text, start)) start++;
  while (end > start && isBlank(text, end - 1)) end--;
  return text.slice(start, end);
}

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

/**
 * What kind of code a text is, by structure alone. A text that only looks like a signed code is opaque:
 * it may still be found by its hash, and else is unknown.
 */
export function recogniseCode(text: string): CodeForm {
  return readStile(text) ?? readPretix(text) ?? { form: 'opaque', text, lookupText: text };
}
