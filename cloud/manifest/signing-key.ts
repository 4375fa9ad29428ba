/**
 * Reads and makes the key that signs manifests, wants and overlays. Gates pin its public half at enrolment; whoever holds this file can sign rights
 * for gates, so its owner alone may read it.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { mkdirSync, readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { signedText } from '../../contract/hash-chain.ts';
import type { PublicKey } from '../../contract/manifest.ts';
import { makeDurableFile } from '../../runtime/durable-file.ts';

export interface Signer {
  readonly keyId: string;
  /** As manifests, enrolment and `stile-cloud keys` carry it. */
  readonly publicKey: PublicKey;
  /** Returns the payload with `signature` (base64) over its RFC 8785 bytes; any signature that it had is replaced. */
  sign<T extends Readonly<Record<string, unknown>>>(payload: T): T & { readonly signature: string };
}

/** The file is no usable key; the message has the repair. */
export class SigningKeyError extends Error {
  override name = 'SigningKeyError';
}

export function signerOf(privateKey: KeyObject): Signer {
  if (privateKey.asymmetricKeyType !== 'ed25519')
    throw new SigningKeyError(`the key is ${privateKey.asymmetricKeyType}, not Ed25519; make one with: openssl genpkey -algorithm ed25519`);
  const spki = createPublicKey(privateKey).export({ type: 'spki', format: 'der' });
  const keyId = createHash('sha256').update(spki).digest('hex').slice(0, 16);
  return {
    keyId,
    publicKey: { key_id: keyId, use: 'manifest', alg: 'Ed25519', spki: spki.toString('base64'), not_after: null },
    sign: (payload) => ({ ...payload, signature: sign(null, Buffer.from(signedText(payload)), privateKey).toString('base64') }),
  };
}

/**
 * Reads the key, or makes it (mode 600, its folder too) where there is none and `create` allows it. `created` tells that it was made: the operator
 * must keep a copy. Throws SigningKeyError for a file that is no Ed25519 key, that others can read, or that is missing.
 */
export function openSigner(file: string, options: { readonly create: boolean }): { readonly signer: Signer; readonly created: boolean } {
  let pem: string;
  let created = false;
  try {
    const mode = statSync(file).mode & 0o777;
    if ((mode & 0o077) !== 0) throw new SigningKeyError(`${file}: mode ${mode.toString(8)} lets others read the signing key: run chmod 600 ${file}`);
    pem = readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof SigningKeyError) throw error;
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw new SigningKeyError(`${file}: ${(error as Error).message}`);
    if (!options.create) throw new SigningKeyError(`${file}: there is no signing key; start stile-cloud serve once, or set STILE_SIGNING_KEY_FILE`);
    pem = create(file);
    created = true;
  }
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    throw new SigningKeyError(`${file}: not a private key in PEM (PKCS8)`);
  }
  return { signer: signerOf(key), created };
}

/** Two processes that start at once make one key; the other reads it. */
function create(file: string): string {
  const pem = generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
  try {
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    // Synced to disk before it is used: gates pin its public half.
    makeDurableFile(file, pem, 0o600);
    return pem;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return readFileSync(file, 'utf8');
    throw new SigningKeyError(
      `${file}: the signing key cannot be made here (${(error as Error).message}); set STILE_SIGNING_KEY_FILE to a file in a folder that this user may write`,
    );
  }
}
