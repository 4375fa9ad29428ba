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
 * Matches a mark that a scanner puts before a code: the AIM identifier (ISO/IEC 15424: a bracket, the symbology's letter, a modifier) or an ECI
 * mark (a backslash and six digits: the character set). Neither is part of the code.
 */
const MARK = /^(?:\][A-Za-z][0-9A-Za-z]|\\\d{6})/;
/**
 * Marks removed from one text, at most; further ones stay part of the code. A reader adds one of each kind, and a list read by such a reader holds
 * as many again.
 */
const MAX_MARKS = 4;

/**
 * Reads the code in a frame of at most MAX_FRAME_BYTES: UTF-8, without surrounding white space and control characters, with its marks. Returns
 * `unreadable` for a frame that is too long, not UTF-8, empty apart from marks, or holds control characters.
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

/**
 * Returns the possible codes of a text, the most literal first: a ticket's code may itself begin like a mark, so the text as read comes first, then
 * one mark less at a time.
 */
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

/** Returns a code without the scanner's marks, as lists keep it; always the last of a frame's readings. */
export const withoutMarks = (text: string): string => readings(text).at(-1) as string;

/** Matches C0, DEL and C1. */
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
 * Returns the form of a code by its structure alone. A text that only looks like a signed code is opaque: its hash may still be in a list,
 * otherwise it is unknown.
 */
export function recogniseCode(text: string): CodeForm {
  return readStile(text) ?? readPretix(text) ?? { form: 'opaque', text, lookupText: text };
}

/** Returns the forms that a text may have, in the order of lookup: the first one that is known decides. Never empty. */
export function recogniseReadings(text: string): readonly CodeForm[] {
  return readings(text)
    .filter((reading) => reading !== '')
    .map(recogniseCode);
}
