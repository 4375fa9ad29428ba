/** Manages the public keys of an event's signed codes: adds, lists, revokes; selects those that manifests carry. Private halves never come here. */
import { createPublicKey } from 'node:crypto';
import { KeyId } from '../../contract/ids.ts';
import type { PublicKey } from '../../contract/manifest.ts';
import { readPublicKey } from '../../rules/keys.ts';
import type { DatabaseClient } from '../db/database.ts';

/** Live keys of an event: the old one and the new one, of several issuers. More are refused; a manifest has room for 32 in all. */
const MAX_LIVE_KEYS = 16;
/** Revoked keys that a manifest names, the newest; older ones are left out. */
const MAX_REVOKED_KEYS = 8;

export interface CodeKey {
  readonly keyId: string;
  readonly use: 'code' | 'pretix';
  readonly spki: string;
  readonly notAfter: Date | null;
  readonly createdAt: Date;
  readonly revokedAt: Date | null;
}

export type CodeKeyResult =
  | { readonly ok: true; readonly changed: boolean }
  | { readonly ok: false; readonly code: 'NO_SUCH_EVENT' | 'NO_SUCH_KEY' | 'BAD_KEY' | 'KEY_TAKEN' | 'TOO_MANY_KEYS'; readonly message: string };

/** Returns every key of the event, oldest first. */
export async function listCodeKeys(client: DatabaseClient, eventId: string): Promise<CodeKey[]> {
  const { rows } = await client.query<{
    key_id: string;
    use: 'code' | 'pretix';
    spki: string;
    not_after: Date | null;
    created_at: Date;
    revoked_at: Date | null;
  }>('SELECT key_id, use, spki, not_after, created_at, revoked_at FROM code_keys WHERE event_id = $1 ORDER BY created_at, key_id', [eventId]);
  return rows.map((row) => ({
    keyId: row.key_id,
    use: row.use,
    spki: row.spki,
    notAfter: row.not_after,
    createdAt: row.created_at,
    revokedAt: row.revoked_at,
  }));
}

/** Returns the keys for the event's manifest: every live one, and the newest of the revoked ones, marked. */
export async function codeKeys(client: DatabaseClient, eventId: string): Promise<PublicKey[]> {
  const all = await listCodeKeys(client, eventId);
  const revoked = all.filter(({ revokedAt }) => revokedAt !== null).sort((a, b) => (b.revokedAt as Date).getTime() - (a.revokedAt as Date).getTime());
  return [...all.filter(({ revokedAt }) => revokedAt === null), ...revoked.slice(0, MAX_REVOKED_KEYS)].map(
    ({ keyId, use, spki, notAfter, revokedAt }): PublicKey => ({
      key_id: keyId,
      use,
      alg: 'Ed25519',
      spki,
      not_after: (revokedAt ?? notAfter)?.toISOString() ?? null,
      ...(revokedAt === null ? {} : { revoked: true }),
    }),
  );
}

/** Adds a public key, in the caller's transaction, and has the event's manifest built anew. A repeat changes nothing. */
export async function addCodeKey(
  client: DatabaseClient,
  tenantId: string,
  eventId: string,
  key: { readonly keyId: string; readonly use: 'code' | 'pretix'; readonly spki: string; readonly notAfter: Date | null },
): Promise<CodeKeyResult> {
  if (!KeyId.safeParse(key.keyId).success)
    return { ok: false, code: 'BAD_KEY', message: `key id ${JSON.stringify(key.keyId)}: use 1 to 32 letters, digits, _ or -` };
  const read = readPublicKey(key.spki);
  if (!read.ok)
    return {
      ok: false,
      code: 'BAD_KEY',
      message: read.why === 'small_order' ? 'this key is of small order: any text would verify under it' : 'this is no Ed25519 public key',
    };
  if (!(await holdEvent(client, eventId))) return { ok: false, code: 'NO_SUCH_EVENT', message: `there is no event ${eventId}` };
  const known = await listCodeKeys(client, eventId);
  const same = known.find(({ keyId }) => keyId === key.keyId);
  if (same !== undefined) {
    if (same.revokedAt === null && same.spki === key.spki && same.use === key.use) return { ok: true, changed: false };
    return {
      ok: false,
      code: 'KEY_TAKEN',
      message: same.revokedAt === null ? `${eventId} has another key ${key.keyId}: choose another id` : `the key ${key.keyId} was revoked: choose another id`,
    };
  }
  if (known.some(({ spki, revokedAt }) => revokedAt !== null && spki === key.spki))
    return { ok: false, code: 'KEY_TAKEN', message: 'this key was revoked under another id: make a new one' };
  if (known.filter(({ revokedAt }) => revokedAt === null).length >= MAX_LIVE_KEYS)
    return { ok: false, code: 'TOO_MANY_KEYS', message: `${eventId} has ${MAX_LIVE_KEYS} live keys: revoke one that is not used any more` };
  await client.query('INSERT INTO code_keys (tenant_id, event_id, key_id, use, spki, not_after) VALUES ($1, $2, $3, $4, $5, $6)', [
    tenantId,
    eventId,
    key.keyId,
    key.use,
    key.spki,
    key.notAfter,
  ]);
  await rebuild(client, tenantId, eventId);
  return { ok: true, changed: true };
}

/** Revokes a key: its codes are refused as soon as gates have the new manifest. A repeat changes nothing. */
export async function revokeCodeKey(
  client: DatabaseClient,
  tenantId: string,
  eventId: string,
  keyId: string,
  by: { readonly actor: string; readonly reason: string },
): Promise<CodeKeyResult> {
  if (!(await holdEvent(client, eventId))) return { ok: false, code: 'NO_SUCH_EVENT', message: `there is no event ${eventId}` };
  const found = (await listCodeKeys(client, eventId)).find((key) => key.keyId === keyId);
  if (found === undefined) return { ok: false, code: 'NO_SUCH_KEY', message: `${eventId} has no key ${keyId}: stile-cloud codes keys list ${eventId}` };
  if (found.revokedAt !== null) return { ok: true, changed: false };
  await client.query('UPDATE code_keys SET revoked_at = now(), revoked_by = $3, revoked_reason = $4 WHERE event_id = $1 AND key_id = $2', [
    eventId,
    keyId,
    by.actor,
    by.reason,
  ]);
  await rebuild(client, tenantId, eventId);
  return { ok: true, changed: true };
}

/** Locks the event until the transaction ends; false: there is none. */
async function holdEvent(client: DatabaseClient, eventId: string): Promise<boolean> {
  return (await client.query('SELECT 1 FROM events WHERE event_id = $1 FOR UPDATE', [eventId])).rowCount > 0;
}

/** Keys are in the head of a file: they change with a new version, so that the list never goes back. */
async function rebuild(client: DatabaseClient, tenantId: string, eventId: string): Promise<void> {
  await client.query('UPDATE events SET version = next_event_version(version), updated_at = now() WHERE event_id = $1', [eventId]);
  await client.query("INSERT INTO outbox (tenant_id, kind, key, build) VALUES ($1, 'event', $2, true)", [tenantId, eventId]);
}

/**
 * Reads an Ed25519 public key in the usual forms, as base64 of its DER SubjectPublicKeyInfo: PEM, base64 of a PEM (as pretix's settings show it),
 * or base64 of the DER. Returns null for any other text.
 */
export function spkiOf(text: string): string | null {
  const trimmed = text.trim();
  const pem = trimmed.startsWith('-----BEGIN') ? trimmed : Buffer.from(trimmed, 'base64').toString('latin1').trim();
  try {
    // A private key in the file would give a public one as well: refused, so that nobody passes it on by mistake.
    if (pem.includes('PRIVATE KEY')) return null;
    const key = pem.startsWith('-----BEGIN') ? createPublicKey(pem) : createPublicKey({ key: Buffer.from(trimmed, 'base64'), format: 'der', type: 'spki' });
    return key.asymmetricKeyType === 'ed25519' ? key.export({ type: 'spki', format: 'der' }).toString('base64') : null;
  } catch {
    return null;
  }
}
