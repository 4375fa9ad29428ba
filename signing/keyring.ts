/**
 * Checks whom a gate believes: Ed25519 signatures over payloads, by keys pinned at enrolment or carried by a manifest that a pinned
 * key has signed. Keys of small order, under which any message verifies, are rejected when they are read.
 */
import { signedText } from '../contract/hash-chain.ts';
import type { PublicKey } from '../contract/manifest.ts';
import { createVerify, publicKeyOf } from './verify.ts';

export type PayloadVerdict = 'ok' | 'signature' | 'unknown_key';

export interface Keyring {
  /**
   * Tells whether a payload (with `key_id` and `signature`, or `keyId`) is signed by a manifest key that is pinned or in `carried`. `nowMs` null: a key's end
   * is not judged.
   */
  verifyPayload(payload: Readonly<Record<string, unknown>>, carried: readonly PublicKey[], nowMs: number | null): PayloadVerdict;
  /** Checks an Ed25519 signature of bytes; false on any input that is not right. */
  verifyBytes(spki: string, bytes: Uint8Array, signature: Uint8Array): boolean;
}

/** Throws where a pinned key cannot be used: a mistake in the gate's own files must be seen at start. */
export function createKeyring(pinned: readonly PublicKey[]): Keyring {
  for (const key of pinned) {
    try {
      publicKeyOf(key.spki);
    } catch (error) {
      throw new Error(`pinned key ${key.key_id}: ${(error as Error).message}`);
    }
  }
  const verifyBytes = createVerify();
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
