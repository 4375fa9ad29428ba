/** Records which certificates gates were given, and which of them are revoked: the broker's list is made from it. */
import type { Database, DatabaseClient } from '../db/database.ts';
import type { SignedCertificate } from './certificates.ts';

export interface RevokedRecord {
  readonly tenantId: string;
  readonly serial: string;
  readonly gate: string;
  readonly revokedAt: Date;
  /** The connection that it had at the broker was ended after the broker knew. */
  readonly sessionEnded: boolean;
}

/** Records the gate's new certificate as the one that it has. */
export async function recordCertificate(client: DatabaseClient, tenantId: string, gate: string, signed: SignedCertificate): Promise<void> {
  await client.query('INSERT INTO gate_certificates (tenant_id, serial, device, certificate_sha256, not_after) VALUES ($1, $2, $3, $4, $5)', [
    tenantId,
    signed.serial,
    gate,
    signed.sha256,
    signed.notAfter,
  ]);
  await client.query('UPDATE devices SET certificate_sha256 = $2, enrolled_at = now() WHERE name = $1', [gate, signed.sha256]);
}

/** Puts all certificates of the gate on the list of revoked ones; those that are on it stay as they are. */
export async function revokeCertificates(client: DatabaseClient, gate: string, reason: 'revoked' | 'replaced' | 'removed'): Promise<void> {
  await client.query('UPDATE gate_certificates SET revoked_at = now(), revoked_for = $2 WHERE device = $1 AND revoked_at IS NULL', [gate, reason]);
}

/** Returns the revoked certificates of all tenants that have not ended long ago. */
export async function listRevoked(database: Database): Promise<readonly RevokedRecord[]> {
  const { rows } = await database.withoutTenant((client) =>
    client.query<{ tenant_id: string; serial: string; device: string; revoked_at: Date; session_ended: boolean }>('SELECT * FROM revoked_certificates()'),
  );
  return rows.map((row) => ({
    tenantId: row.tenant_id,
    serial: row.serial,
    gate: row.device,
    revokedAt: row.revoked_at,
    sessionEnded: row.session_ended,
  }));
}

/** Records that nobody is connected by these certificates any more. */
export async function markSessionsEnded(database: Database, records: readonly RevokedRecord[]): Promise<void> {
  for (const tenantId of new Set(records.map((record) => record.tenantId)))
    await database.withTenant(tenantId, (client) =>
      client.query('UPDATE gate_certificates SET session_ended_at = now() WHERE serial = ANY($1) AND session_ended_at IS NULL', [
        records.filter((record) => record.tenantId === tenantId).map(({ serial }) => serial),
      ]),
    );
}
