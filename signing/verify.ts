/** Ed25519 for the rules: is a signed code signed by this key? Keys of small order, under which any message verifies, are no keys. */
import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { readPublicKey } from '../rules/keys.ts';
import type { VerifySignature } from '../rules/stile-code.ts';

/** Keys read once and kept; the oldest goes when there are more. */
const MAX_CACHED_KEYS = 1_024;

/** Answers false on any input that is not right; never throws. */
export function createVerify(): VerifySignature {
  const cache = new Map<string, KeyObject | null>();
  return (spki, signedBytes, signature) => {
    let key = cache.get(spki);
    if (key === undefined) {
      key = readPublicKey(spki).ok ? keyObject(spki) : null;
      if (cache.size >= MAX_CACHED_KEYS) cache.delete(cache.keys().next().value as string);
      cache.set(spki, key);
    }
    try {
      return key !== null && verify(null, signedBytes, key, signature);
    } catch {
      return false;
    }
  };
}

function keyObject(spki: string): KeyObject | null {
  try {
    return createPublicKey({ key: Buffer.from(spki, 'base64'), format: 'der', type: 'spki' });
  } catch {
    return null;
  }
}
