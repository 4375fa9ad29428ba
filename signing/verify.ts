/** Ed25519 by public keys as text: the one place where a signature is checked, for payloads and codes, at the gate and in the cloud. */
import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { readPublicKey } from '../rules/keys.ts';
import type { VerifySignature } from '../rules/signature-check.ts';

/** Keys that are read once and kept. At the bound the oldest is evicted, and read again when it is needed. */
const MAX_CACHED_KEYS = 1_024;

/** Returns the key of a DER SubjectPublicKeyInfo in base64. Throws an Error that says what is wrong: no Ed25519 key, or one of small order. */
export function publicKeyOf(spki: string): KeyObject {
  const read = readPublicKey(spki);
  if (!read.ok)
    throw new Error(
      read.why === 'small_order' ? 'a public key of small order, under which any message verifies' : 'not an Ed25519 public key in DER SubjectPublicKeyInfo',
    );
  return createPublicKey({ key: Buffer.from(spki, 'base64'), format: 'der', type: 'spki' });
}

/** Returns a check with a cache of its own. It answers false on any input that is not right, and never throws. */
export function createVerify(): VerifySignature {
  const cache = new Map<string, KeyObject | null>();
  const keyOf = (spki: string): KeyObject | null => {
    const known = cache.get(spki);
    if (known !== undefined) return known;
    let key: KeyObject | null = null;
    try {
      key = publicKeyOf(spki);
    } catch {
      // Kept as null: no signature of this key is ever right.
    }
    if (cache.size >= MAX_CACHED_KEYS) cache.delete(cache.keys().next().value as string);
    cache.set(spki, key);
    return key;
  };
  return (spki, signedBytes, signature) => {
    const key = keyOf(spki);
    try {
      return key !== null && verify(null, signedBytes, key, signature);
    } catch {
      return false;
    }
  };
}
