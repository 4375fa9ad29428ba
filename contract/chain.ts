/**
 * The hash chain of a ledger, and the bytes that signatures cover.
 *
 * `hash` = SHA-256, in hex, of the previous row's hash followed by the row in RFC 8785 canonical
 * JSON without `hash`; the first row's predecessor is SHA-256 of `<site>/<gate>/<epoch>`.
 * SHA-256 is handed in, so that this file runs anywhere.
 */
import canonicalize from 'canonicalize';

/** SHA-256 of UTF-8 text, in lowercase hex. */
export type Sha256Text = (text: string) => string;

/** RFC 8785 canonical JSON. Throws on what JSON cannot hold (NaN, bigint, functions). */
export function canonicalJson(value: unknown): string {
  const text = (canonicalize as unknown as (value: unknown) => string | undefined)(value);
  if (text === undefined) throw new TypeError('not representable in JSON');
  return text;
}

/** What the first row of an epoch takes as its predecessor's hash. */
export function firstPredecessor(sha256: Sha256Text, ledger: string, epoch: number): string {
  return sha256(`${ledger}/${epoch}`);
}

/** The hash of a row, given its predecessor's. A `hash` on the row itself is left out. */
export function entryHash(sha256: Sha256Text, previous: string, entry: Readonly<Record<string, unknown>>): string {
  const { hash: _own, ...row } = entry;
  return sha256(previous + canonicalJson(row));
}

/** The text whose UTF-8 bytes an Ed25519 signature covers: the payload without `signature`. */
export function signedText(payload: Readonly<Record<string, unknown>>): string {
  const { signature: _own, ...rest } = payload;
  return canonicalJson(rest);
}
