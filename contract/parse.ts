/** From bytes on the wire to a checked value, or why not. Bytes are capped before they are parsed. */
import type { z } from 'zod';
import { MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from './limits.ts';
import { describeIssue } from './schema-errors.ts';
import { cutText } from './text.ts';

export type ParseFailure = {
  readonly ok: false;
  readonly error: 'oversized' | 'not_utf8' | 'not_json' | 'wrong_version' | 'malformed';
  readonly message: string;
};
export type Parsed<T> = { readonly ok: true; readonly value: T } | ParseFailure;

const utf8 = new TextDecoder('utf-8', { fatal: true });
/** Depth of nesting that is still parsed: no message of ours has more than 6. JSON.parse alone accepts a million. */
export const MAX_DEPTH = 32;

/**
 * Bytes → a value that the schema knows. Total: never throws. The message says where and why, and repeats no value of the
 * payload: it may be logged and quarantined beside it. `unjudged`: a field of the payload whose texts may say anything, because the
 * caller reads its parts one by one.
 */
export function parsePayload<S extends z.ZodType>(schema: S, bytes: Uint8Array, maxBytes = MAX_PAYLOAD_BYTES, unjudged?: string): Parsed<z.infer<S>> {
  if (bytes.byteLength > maxBytes) return fail('oversized', `${bytes.byteLength} bytes, at most ${maxBytes}`);
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch {
    return fail('not_utf8', 'the payload is not UTF-8');
  }
  if (tooDeep(text)) return fail('malformed', `nested deeper than ${MAX_DEPTH}`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return fail('not_json', 'the payload is not JSON');
  }
  const unfit = unstorable(unjudged === undefined || typeof value !== 'object' || value === null ? value : { ...value, [unjudged]: null });
  if (unfit !== null) return fail('malformed', unfit.why);
  const version = (value as { schema?: unknown } | null)?.schema;
  if (typeof version === 'number' && version !== SCHEMA_VERSION) return fail('wrong_version', `schema ${version}, this side speaks ${SCHEMA_VERSION}`);
  const result = schema.safeParse(value);
  if (result.success) return { ok: true, value: result.data };
  const first = result.error.issues[0];
  return fail('malformed', first === undefined ? 'malformed' : `${first.path.map(String).join('.') || '(whole)'}: ${describeIssue(first)}`);
}

/**
 * JSON can say what neither PostgreSQL's jsonb nor RFC 8785 can hold: U+0000, half a surrogate pair, a number beyond a
 * double (parsed as Infinity). Found here, wherever it stands, so that nothing fails later with such a row in its batch. Answers the first
 * with its field (`tickets.3.note`; of a name that is unfit itself, the field that it stands in). Null: all of it can be stored.
 */
export function unstorable(value: unknown): { readonly field: string; readonly why: string } | null {
  if (typeof value === 'string') return isUnfit(value) ? { field: '', why: 'a text holds U+0000 or half a surrogate pair' } : null;
  if (typeof value === 'number') return Number.isFinite(value) ? null : { field: '', why: 'a number is too large' };
  if (typeof value !== 'object' || value === null) return null;
  for (const [key, part] of Object.entries(value)) {
    if (isUnfit(key)) return { field: '', why: 'a name holds U+0000 or half a surrogate pair' };
    const found = unstorable(part);
    if (found !== null) return { field: found.field === '' ? key : `${key}.${found.field}`, why: found.why };
  }
  return null;
}

const isUnfit = (text: string): boolean => text.includes('\0') || !text.isWellFormed();

/** True: nested deeper than MAX_DEPTH. To be asked before JSON.parse, of every text from elsewhere: a few megabytes of brackets hold the loop for a second. */
export function tooDeep(text: string): boolean {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x22) {
      // Texts are most of a message: from quote to quote, those that a backslash makes part of it left out.
      do {
        i = text.indexOf('"', i + 1);
        if (i < 0) return false;
      } while (isEscaped(text, i));
    } else if (c === 0x7b || c === 0x5b) {
      if (++depth > MAX_DEPTH) return true;
    } else if (c === 0x7d || c === 0x5d) depth--;
  }
  return false;
}

/** Behind an odd number of backslashes. */
function isEscaped(text: string, at: number): boolean {
  let from = at;
  while (text.charCodeAt(from - 1) === 0x5c) from--;
  return (at - from) % 2 === 1;
}

const fail = (error: ParseFailure['error'], message: string): ParseFailure => ({ ok: false, error, message: cutText(message, 300) });
