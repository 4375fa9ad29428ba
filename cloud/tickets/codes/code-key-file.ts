/**
 * Reads and makes the private half of a key that signs codes: a file of the issuer, readable by its owner alone. It never reaches the database or a
 * gate.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { mkdirSync, readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { makeDurableFile } from '../../../runtime/durable-file.ts';

export interface CodeKeyFile {
  /** Base64 of the public half's DER SubjectPublicKeyInfo. */
  readonly spki: string;
  /** Signs the bytes with Ed25519: 64 bytes. */
  sign(bytes: Uint8Array): Uint8Array;
}

/** The file is no usable key; the message has the repair. */
export class CodeKeyError extends Error {
  override name = 'CodeKeyError';
}

/** Reads the key, or makes it (mode 600) where there is none and `create` allows it. Throws CodeKeyError. */
export function openCodeKey(file: string, options: { readonly create: boolean }): CodeKeyFile & { readonly created: boolean } {
  let pem: string;
  let created = false;
  try {
    const mode = statSync(file).mode & 0o777;
    if ((mode & 0o077) !== 0) throw new CodeKeyError(`${file}: mode ${mode.toString(8)} lets others read the key: chmod 600 ${file}`);
    pem = readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof CodeKeyError) throw error;
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw new CodeKeyError(`${file}: ${(error as Error).message}`);
    if (!options.create) throw new CodeKeyError(`${file}: there is no such key file: make it with stile-cloud codes keys add, or name it with --key-file`);
    pem = generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
    try {
      mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
      makeDurableFile(file, pem, 0o600);
    } catch (failure) {
      throw new CodeKeyError(`${file}: the key cannot be kept here: ${(failure as Error).message}`);
    }
    created = true;
  }
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    throw new CodeKeyError(`${file}: not a private key in PEM (PKCS8)`);
  }
  if (key.asymmetricKeyType !== 'ed25519') throw new CodeKeyError(`${file}: the key is ${key.asymmetricKeyType}, not Ed25519`);
  return { created, spki: createPublicKey(key).export({ type: 'spki', format: 'der' }).toString('base64'), sign: (bytes) => sign(null, bytes, key) };
}
