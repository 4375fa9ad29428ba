/**
 * Reads a code from the bytes of a reader and recognises its form.
 *
 * Every function here is total: no bytes and no text make it throw. This file checks structure only;
 * signature-check.ts checks signatures with a verifier that the caller passes in.
 */
import { MAX_FRAME_BYTES } from '../contract/limits.ts';
import type { CodeForm } from './code-forms.ts';
import { readPretix } from './pretix.ts';
import { readStile } from './stile-code.ts';

/** Text is a guest's code: never logged, stored or published. */
export type Code = { readonly kind: 'code'; readonly text: string } | { readonly kind: 'unreadable' };

const UNREADABLE: Code = { kind: 'unreadable' };
const utf8 = new TextDecoder('utf-8', { fatal: true });
/**
 * A mark that a scanner puts before what it read: the AIM identifier (ISO/IEC 15424: a bracket, the symbology's letter, a modifier), or an
 * ECI mark (a backslash and six digits: the character set). Neither is part of the code.
 */
const MARK = /^(?:\][A-Za-z][0-9A-Za-z]|\\\d{6})/;
/** Marks taken off one text: a reader sets one of each kind, a list that was read in by such a reader holds as many again. */
const MAX_MARKS = 4;

/**
 * The code in a frame of at most MAX_FRAME_BYTES, as it was read: UTF-8, surrounding white space or control characters taken off, marks
 * still on it. Unreadable: too long, not UTF-8, empty but for marks, or with control characters inside.
 */
export function readCode(bytes: Uint8Array): Code {
  if (bytes.byteLength > MAX_FRAME_BYTES) return UNREADABLE;
  let raw: string;
  try {
    raw = utf8.decode(bytes);
  } catch {
    return UNREADABLE;
  }
  const text = trim(raw);
  const bare = withoutMarks(text);
  if (bare === '') return UNREADABLE;
  for (let i = 0; i < bare.length; i++) if (isControl(bare.charCodeAt(i))) return UNREADABLE;
  return { kind: 'code', text };
}

/** What a text may mean, most literal first: as it was read, for a ticket's code may itself begin like a mark; then with one mark less at a time. */
function readings(text: string): readonly string[] {
  const found = [text];
  for (let marks = 0; marks < MAX_MARKS; marks++) {
    const last = found[found.length - 1] as string;
    const rest = trim(last.replace(MARK, ''));
    if (rest === last) break;
    found.push(rest);
  }
  return found;
}

/** A code without the marks of the scanner that read it: what a list keeps. The last of a frame's readings is always this. */
export const withoutMarks = (text: string): string => readings(text).at(-1) as string;

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

/**
 * What kind of code a text is, by structure alone. A text that only looks like a signed code is opaque:
 * it may still be found by its hash, and else is unknown.
 */
export function recogniseCode(text: string): CodeForm {
  return readStile(text) ?? readPretix(text) ?? { form: 'opaque', text, lookupText: text };
}

/** The kinds of code that a read text may be, in the order in which they are to be looked up: the first that is known decides. At least one. */
export function recogniseReadings(text: string): readonly CodeForm[] {
  return readings(text)
    .filter((reading) => reading !== '')
    .map(recogniseCode);
}
