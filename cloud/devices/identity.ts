/** Resolves a caller's identity: from a token, or the name in a certificate as a trusted proxy passes it on. */
import type { Database } from '../db/database.ts';
import type { Credentials, Identity } from '../http/server.ts';
import { DEVICE_TOKEN_PREFIX, OPERATOR_TOKEN_PREFIX, tokenHash } from './assignment.ts';

/** Returns null for invalid credentials (unknown, replaced, expired, revoked). The tenant always comes from here, never from a request. */
export function createIdentify(database: Database): (credentials: Credentials) => Promise<Identity | null> {
  return async ({ token, deviceName }) => {
    if (token?.startsWith(OPERATOR_TOKEN_PREFIX) === true) {
      const { rows } = await database.withoutTenant((client) =>
        client.query<{ tenant_id: string; name: string; actor: string | null }>('SELECT * FROM resolve_operator_token($1)', [tokenHash(token)]),
      );
      const row = rows[0];
      return row === undefined ? null : { kind: 'operator', tenantId: row.tenant_id, name: row.name, actor: row.actor };
    }
    if (token?.startsWith(DEVICE_TOKEN_PREFIX) === true) {
      const { rows } = await database.withoutTenant((client) =>
        client.query<{ tenant_id: string; device: string }>('SELECT * FROM resolve_device_token($1)', [tokenHash(token)]),
      );
      const row = rows[0];
      return row === undefined ? null : { kind: 'device', tenantId: row.tenant_id, device: row.device };
    }
    if (token !== null || deviceName === null) return null;
    const { rows } = await database.withoutTenant((client) =>
      client.query<{ tenant_id: string; revoked: boolean }>('SELECT * FROM resolve_device($1)', [deviceName]),
    );
    const row = rows[0];
    return row === undefined || row.revoked ? null : { kind: 'device', tenantId: row.tenant_id, device: deviceName };
  };
}
