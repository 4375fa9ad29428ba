/**
 * Whom this gate believes: Ed25519 signatures over payloads and codes, with keys pinned at enrolment or carried by a manifest
 * that a pinned key has signed.
 *
 * node:crypto accepts public keys of small order, under which any message verifies: they are rejected when a key is read.
 */
import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { signedText } from '../contract/hash-chain.ts';
import type { PublicKey } from '../contract/manifest.ts';
import { readPublicKey } from '../rules/keys.ts';

/** Keys read once and kept; the oldest goes when there are more. */
const MAX_CACHED_KEYS = 256;

/** Throws an Error that says what is wrong with the key. */
function keyObject(spki: string): KeyObject {
  const read = readPublicKey(spki);
  if (!read.ok)
    throw new Error(
      read.why === 'small_order' ? 'a public key of small order, under which any message verifies' : 'not an Ed25519 public key in DER SubjectPublicKeyInfo',
    );
  return createPublicKey({ key: Buffer.from(spki, 'base64'), format: 'der', type: 'spki' });
}

export type PayloadVerdict = 'ok' | 'signature' | 'unknown_key';

export interface Keyring {
  /** Is a payload (with `key_id` and `signature`, or `keyId`) signed by a manifest key that is pinned or in `carried`? `nowMs` null: a key's end is not judged. */
  verifyPayload(payload: Readonly<Record<string, unknown>>, carried: readonly PublicKey[], nowMs: number | null): PayloadVerdict;
  /** Ed25519 over bytes; false on any input that is not right. */
  verifyBytes(spki: string, bytes: Uint8Array, signature: Uint8Array): boolean;
}

/** Throws where a pinned key cannot be used: a mistake in the gate's own files must be seen at start. */
export function createKeyring(pinned: readonly PublicKey[]): Keyring {
  const cache = new Map<string, KeyObject | null>();
  for (const key of pinned) {
    try {
      cache.set(key.spki, keyObject(key.spki));
    } catch (error) {
      throw new Error(`pinned key ${key.key_id}: ${(error as Error).message}`);
    }
  }
  const keyOf = (spki: string): KeyObject | null => {
    const known = cache.get(spki);
    if (known !== undefined) return known;
    let key: KeyObject | null = null;
    try {
      key = keyObject(spki);
    } catch {
      /* kept as null: no signature of this key is ever right */
    }
    if (cache.size >= MAX_CACHED_KEYS) cache.delete(cache.keys().next().value as string);
    cache.set(spki, key);
    return key;
  };
  const verifyBytes = (spki: string, bytes: Uint8Array, signature: Uint8Array): boolean => {
    const key = keyOf(spki);
    if (key === null) return false;
    try {
      return verify(null, bytes, key, signature);
    } catch {
      return false;
    }
  };
  return {
    verifyBytes,
    verifyPayload(payload, carried, nowMs) {
      const id = payload['key_id'] ?? payload['keyId'];
      const signature = payload['signature'];
      if (typeof id !== 'string' || typeof signature !== 'string') return 'signature';
      const keys = [...pinned, ...carried].filter(
        (key) => key.use === 'manifest' && key.key_id === id && (nowMs === null || key.not_after === null || nowMs <= Date.parse(key.not_after)),
      );
      if (keys.length === 0) return 'unknown_key';
      const bytes = Buffer.from(signedText(payload), 'utf8');
      return keys.some((key) => verifyBytes(key.spki, bytes, Buffer.from(signature, 'base64'))) ? 'ok' : 'signature';
    },
  };
}
