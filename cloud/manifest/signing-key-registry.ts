/** Remembers in the database which keys this installation signs with, so that no second machine makes a key of its own. */
import { existsSync } from 'node:fs';
import type { PublicKey } from '../../contract/manifest.ts';
import type { Database } from '../db/database.ts';
import { openSigner, type Signer, SigningKeyError } from './signing-key.ts';

export interface RegisteredSigner {
  readonly signer: Signer;
  /** Every key in use: manifests carry them all, so that gates follow from an old key to a new one. */
  readonly keys: readonly PublicKey[];
  /** Just made: the operator must keep a copy. */
  readonly created: boolean;
  /** The file holds another key than the database: gates that pinned the old one need it once more, or enrolment. */
  readonly unknownBefore: boolean;
}

/**
 * Opens the key, makes it where this installation never had one, and records its public half. Throws SigningKeyError where the installation has a
 * key and its file is not here.
 */
export async function openRegisteredSigner(database: Database, file: string): Promise<RegisteredSigner> {
  const known = await database.withoutTenant((client) =>
    client.query<{ key_id: string }>('SELECT key_id FROM signing_keys WHERE retired_at IS NULL ORDER BY created_at'),
  );
  if (!existsSync(file) && known.rows.length > 0) {
    throw new SigningKeyError(
      `${file}: this installation signs with the key ${known.rows.map(({ key_id }) => key_id).join(', ')}, whose file is not here: copy it from the machine that has it (the path is in STILE_SIGNING_KEY_FILE), or gates would refuse every manifest`,
    );
  }
  const { signer, created } = openSigner(file, { create: true });
  const unknownBefore = known.rows.length > 0 && !known.rows.some(({ key_id }) => key_id === signer.keyId);
  await database.withoutTenant((client) =>
    client.query('INSERT INTO signing_keys (key_id, spki) VALUES ($1, $2) ON CONFLICT DO NOTHING', [signer.keyId, signer.publicKey.spki]),
  );
  const all = await database.withoutTenant((client) =>
    client.query<{ key_id: string; spki: string }>('SELECT key_id, spki FROM signing_keys WHERE retired_at IS NULL ORDER BY created_at'),
  );
  return { signer, created, unknownBefore, keys: all.rows.map(({ key_id, spki }) => ({ key_id, use: 'manifest', alg: 'Ed25519', spki, not_after: null })) };
}
