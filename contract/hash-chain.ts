/**
 * Computes the hash chain of a ledger, and the bytes that signatures cover.
 *
 * `hash` = SHA-256, in hex, of the previous row's hash followed by the row in RFC 8785 canonical JSON without `hash`; the first row's predecessor
 * is SHA-256 of `<site>/<gate>/<epoch>`. The caller passes SHA-256 in, so that this file runs anywhere.
 */
import canonicalize from 'canonicalize';

/** SHA-256 of UTF-8 text, in lowercase hex. */
export type Sha256Text = (text: string) => string;

/** Returns RFC 8785 canonical JSON. Throws on values that JSON cannot hold (NaN, bigint, functions). */
export function canonicalJson(value: unknown): string {
  return plainText(value, null) ?? anyText(value);
}

/** Uses the library, which knows every case and takes three times as long. */
function anyText(value: unknown): string {
  const text = (canonicalize as unknown as (value: unknown) => string | undefined)(value);
  if (text === undefined) throw new TypeError('not representable in JSON');
  return text;
}

/** Deepest nesting of the fast way; deeper values, circles too, use the library. */
const MAX_PLAIN_DEPTH = 16;
const UNFIT = Symbol('not plain');
/** Matches JSON.stringify's form of half a surrogate pair; a text with the same letters merely takes the slow way. */
const HALF_PAIR = '\\ud';

/**
 * Returns the canonical text of plain data, such as rows: JSON.stringify writes RFC 8785's numbers and texts, so only the order of keys is left to
 * do. Returns null where that may not be enough. `without`: a key of the value itself to leave out.
 */
function plainText(value: unknown, without: string | null): string | null {
  const ordered = inOrder(value, without, 0);
  if (ordered === UNFIT) return null;
  const text = JSON.stringify(ordered) as string | undefined;
  return text === undefined || text.includes(HALF_PAIR) ? null : text;
}

function inOrder(value: unknown, without: string | null, depth: number): unknown {
  if (typeof value === 'string' || typeof value === 'boolean' || value === null) return value;
  if (typeof value === 'number') return Number.isFinite(value) ? value : UNFIT;
  if (typeof value !== 'object' || depth === MAX_PLAIN_DEPTH) return UNFIT;
  if (Array.isArray(value)) {
    const list: unknown[] = [];
    for (let index = 0; index < value.length; index++) {
      const part = inOrder(value[index], null, depth + 1);
      if (part === UNFIT) return UNFIT;
      list.push(part);
    }
    return list;
  }
  if (Object.getPrototypeOf(value) !== Object.prototype) return UNFIT;
  const ordered: Record<string, unknown> = {};
  const keys = Object.keys(value);
  // Gates write rows in order, except for the hash, which is left out.
  if (!isAscending(keys, without)) keys.sort();
  for (const key of keys) {
    if (key === without) continue;
    const first = key.charCodeAt(0);
    // Numeric keys come first in every object, whatever their order of insertion; __proto__ is no ordinary key.
    if ((first >= 0x30 && first <= 0x39) || key === '__proto__') return UNFIT;
    const part = inOrder((value as Record<string, unknown>)[key], null, depth + 1);
    if (part === UNFIT) return UNFIT;
    ordered[key] = part;
  }
  return ordered;
}

/** Compares by UTF-16 code units, as RFC 8785 requires and as strings compare. */
function isAscending(keys: readonly string[], without: string | null): boolean {
  let before = '';
  for (const key of keys) {
    if (key === without) continue;
    if (key < before) return false;
    before = key;
  }
  return true;
}

/** Returns the predecessor's hash of an epoch's first row. */
export function firstPredecessor(sha256: Sha256Text, ledger: string, epoch: number): string {
  return sha256(`${ledger}/${epoch}`);
}

/** Returns the text of a row that its hash covers: canonical JSON without `hash`. Throws as canonicalJson does. */
export function entryText(entry: Readonly<Record<string, unknown>>): string {
  const plain = plainText(entry, 'hash');
  if (plain !== null) return plain;
  const { hash: _own, ...row } = entry;
  return anyText(row);
}

/** Returns the hash of a row, given its predecessor's. Ignores a `hash` on the row itself. */
export function entryHash(sha256: Sha256Text, previous: string, entry: Readonly<Record<string, unknown>>): string {
  return sha256(previous + entryText(entry));
}

/** Returns the text whose UTF-8 bytes an Ed25519 signature covers: the payload without `signature`. */
export function signedText(payload: Readonly<Record<string, unknown>>): string {
  const { signature: _own, ...rest } = payload;
  return canonicalJson(rest);
}

/** Returns the text whose UTF-8 bytes the `sig` of a ledger message covers: the message without `sig`. */
export function sealedText(message: Readonly<Record<string, unknown>>): string {
  const { sig: _own, ...rest } = message;
  return canonicalJson(rest);
}
