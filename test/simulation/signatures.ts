/**
 * What is signed is said many times in a simulated world, in the same bytes, to many gates and their many lives. Whether a signature fits is a
 * matter of key, bytes and signature alone, and takes as long as two decisions: node:crypto is asked once for each, and its answer is kept.
 */
import crypto, { type KeyObject } from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';

/** Answers that are kept of one key, and keys; then all of them are forgotten. */
const MAX_KEPT = 5_000;

let remembering = false;

/** From now on, once a process. Keys in DER and answers of Ed25519 alone; everything else goes to node:crypto as it is. */
export function rememberSignatures(): void {
  if (remembering) return;
  remembering = true;
  const { verify, createPublicKey } = crypto;
  const keys = new Map<string, KeyObject>();
  const answers = new WeakMap<KeyObject, Map<string, boolean>>();
  const keep = <T>(map: Map<string, T>, name: string, value: T): T => {
    if (map.size >= MAX_KEPT) map.clear();
    map.set(name, value);
    return value;
  };
  crypto.createPublicKey = (input) => {
    const given = input as { readonly key?: unknown; readonly format?: string };
    if (given.format !== 'der' || !Buffer.isBuffer(given.key)) return createPublicKey(input);
    const name = given.key.toString('latin1');
    return keys.get(name) ?? keep(keys, name, createPublicKey(input));
  };
  const remembered = (algorithm: unknown, bytes: unknown, key: unknown, signature: unknown, ...rest: unknown[]): unknown => {
    if (algorithm !== null || rest.length > 0 || !Buffer.isBuffer(bytes) || !Buffer.isBuffer(signature) || !(key instanceof crypto.KeyObject))
      return Reflect.apply(verify, crypto, [algorithm, bytes, key, signature, ...rest]);
    const known = answers.get(key) ?? new Map<string, boolean>();
    answers.set(key, known);
    const name = `${signature.toString('latin1')} ${bytes.toString('latin1')}`;
    return known.get(name) ?? keep(known, name, verify(null, bytes, key, signature));
  };
  crypto.verify = remembered as typeof verify;
  syncBuiltinESMExports();
}
