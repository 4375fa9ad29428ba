/**
 * Checks public keys. Ed25519 accepts points of small order, under which any message verifies: they are refused when keys are read, before any
 * signature is verified.
 */
import { KEY_ID } from '../contract/ids.ts';
import type { PublicKey } from '../contract/manifest.ts';

/** DER of a SubjectPublicKeyInfo up to an Ed25519 key's 32 bytes (RFC 8410). */
const SPKI_PREFIX = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const KEY_BYTES = 32;

/** The eight points of small order and their other spellings (y not reduced), little endian, without the sign bit. */
const SMALL_ORDER_Y: readonly string[] = [
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
];

const KEY_USES: readonly unknown[] = ['manifest', 'code', 'pretix'] satisfies readonly PublicKey['use'][];
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
const MAX_SPKI_CHARS = 256;

/** Reads a value as the schema PublicKey does, or returns null: a gate reads its pinned keys at every start, before it builds any schema. Total. */
export function readKeyEntry(value: unknown): PublicKey | null {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
  const { key_id, use, alg, spki, not_after = null, revoked } = value as Readonly<Record<string, unknown>>;
  const right =
    typeof key_id === 'string' &&
    KEY_ID.test(key_id) &&
    KEY_USES.includes(use) &&
    alg === 'Ed25519' &&
    typeof spki === 'string' &&
    spki.length <= MAX_SPKI_CHARS &&
    BASE64.test(spki) &&
    (not_after === null || isTimestamp(not_after)) &&
    (revoked === undefined || typeof revoked === 'boolean');
  return right ? ({ ...value, not_after } as PublicKey) : null;
}

function isTimestamp(value: unknown): boolean {
  const date = typeof value === 'string' ? new Date(value) : null;
  return date !== null && !Number.isNaN(date.valueOf()) && date.toISOString() === value;
}

/** Returns the 32 bytes of an Ed25519 key (base64 of its DER SubjectPublicKeyInfo), or the cause of its refusal. Total. */
export function readPublicKey(
  spki: string,
): { readonly ok: true; readonly bytes: Uint8Array } | { readonly ok: false; readonly why: 'malformed' | 'small_order' } {
  let der: Uint8Array;
  try {
    der = Uint8Array.from(atob(spki), (character) => character.charCodeAt(0));
  } catch {
    return { ok: false, why: 'malformed' };
  }
  if (der.length !== SPKI_PREFIX.length + KEY_BYTES || SPKI_PREFIX.some((byte, i) => der[i] !== byte)) return { ok: false, why: 'malformed' };
  const bytes = der.subarray(SPKI_PREFIX.length);
  const y = Array.from(bytes, (byte, i) => (i === KEY_BYTES - 1 ? byte & 0x7f : byte).toString(16).padStart(2, '0')).join('');
  return SMALL_ORDER_Y.includes(y) ? { ok: false, why: 'small_order' } : { ok: true, bytes };
}
