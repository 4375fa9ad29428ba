/** Hashes a code on arrival and estimates whether it can be guessed. The code itself is not stored. */
import { createHash } from 'node:crypto';
import { recogniseCode, withoutMarks } from '../../../rules/code.ts';

/** Fewest random bits of a code; a weaker one could be found from its hash, or guessed at a gate, and is refused. */
export const MIN_CODE_BITS = 96;
/** Longest code, in characters; a longer one is refused (a reader's frame holds no more). */
export const MAX_CODE_CHARS = 1024;
/** Fewest different characters of a code; with fewer it is a pattern, whatever its length. */
const MIN_DIFFERENT_CHARS = 8;

/**
 * Returns the first 16 bytes of SHA-256(salt of the event ‖ UTF-8 code); Stile's signed code is replaced by its ticket id. A scanner's marks before
 * it are removed: gates and scanners look the code up without them too.
 */
export function ticketRef(salt: Buffer, code: string): Buffer {
  return createHash('sha256')
    .update(salt)
    .update(recogniseCode(withoutMarks(code)).lookupText, 'utf8')
    .digest()
    .subarray(0, 16);
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-([0-9a-f])[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
/** Random bits of each version of UUID; the others are made of times and names. */
const UUID_BITS: Readonly<Record<string, number>> = { 4: 122, 7: 74 };

/**
 * Returns the most random bits that a code can hold, by its length and alphabet: an upper bound, for a code does not show how it was made.
 * `sharedChars`: leading characters that all codes have in common.
 */
export function codeBits(written: string, sharedChars = 0): number {
  const code = withoutMarks(written);
  const uuid = UUID.exec(code);
  if (uuid !== null) return UUID_BITS[uuid[1] as string] ?? 0;
  const varying = code.slice(sharedChars);
  const different = new Set(varying).size;
  if (different < MIN_DIFFERENT_CHARS) return varying.length * Math.log2(Math.max(different, 1));
  return varying.length * Math.log2(alphabetOf(varying));
}

function alphabetOf(text: string): number {
  if (/^[0-9]+$/.test(text)) return 10;
  if (/^[0-9a-f]+$/.test(text) || /^[0-9A-F]+$/.test(text)) return 16;
  if (/^[0-9A-Z $%*+\-./:]+$/.test(text)) return /^[A-Z2-7]+$/.test(text) ? 32 : /^[0-9A-Z]+$/.test(text) ? 36 : 45;
  if (/^[0-9a-z]+$/.test(text)) return 36;
  if (/^[0-9A-Za-z+/=_-]+$/.test(text)) return 64;
  return 94;
}

/** Returns the number of leading characters that all of these codes have in common; 0 for fewer than `least` codes (chance, not a pattern). */
export function sharedPrefixChars(written: readonly string[], least = 20): number {
  if (written.length < least) return 0;
  const codes = written.map(withoutMarks);
  let shared = (codes[0] as string).length;
  for (const code of codes) {
    let same = 0;
    while (same < shared && code[same] === (codes[0] as string)[same]) same++;
    shared = same;
  }
  return shared;
}
