/** Parses bytes from the wire into a checked value, or an error. Bounds the bytes before it parses them. */
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
/** Deepest nesting that is parsed; a deeper payload is malformed. Our messages have at most 6 levels; JSON.parse alone accepts a million. */
export const MAX_DEPTH = 32;

/**
 * Parses bytes by a schema. Total: never throws. The message has the place and the cause, and repeats no value of the payload: it may be logged and
 * stored in quarantine. `unjudged`: a field of the payload whose texts are not checked, because the caller reads its parts one by one.
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
 * Returns the first value that neither PostgreSQL's jsonb nor RFC 8785 can hold, with its field (`tickets.3.note`; for an unfit name, the field
 * that contains it): U+0000, half a surrogate pair, a number beyond a double (parsed as Infinity). Checked anywhere in the payload, so that no
 * later step fails with such a row in its batch. Returns null where everything can be stored.
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

/**
 * Returns true for text nested deeper than MAX_DEPTH. Call it before JSON.parse on every text from elsewhere: a few megabytes of brackets block the
 * loop for a second.
 */
export function tooDeep(text: string): boolean {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x22) {
      // Most of a message is texts: the scan jumps from quote to quote and skips escaped ones.
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

/** Returns whether an odd number of backslashes precedes it. */
function isEscaped(text: string, at: number): boolean {
  let from = at;
  while (text.charCodeAt(from - 1) === 0x5c) from--;
  return (at - from) % 2 === 1;
}

const fail = (error: ParseFailure['error'], message: string): ParseFailure => ({ ok: false, error, message: cutText(message, 300) });
