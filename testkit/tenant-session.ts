/** Short ways to speak SQL as one tenant, for tests. */
import { businessErrorOf, type Database } from '../cloud/db/database.ts';
import type { Venue } from './database.ts';

export interface TenantSession {
  /** One statement in a transaction of its own. */
  rows<Row = Record<string, unknown>>(sql: string, values?: readonly unknown[]): Promise<Row[]>;
  /** The first row's first column. */
  value<T = unknown>(sql: string, values?: readonly unknown[]): Promise<T>;
  /** Returns the refusal as [HTTP status, code], or the SQLSTATE of another failure; null when it succeeded. */
  refusal(sql: string, values?: readonly unknown[]): Promise<readonly [number, string] | string | null>;
}

export function asTenant(database: Database, venue: Pick<Venue, 'tenantId'>): TenantSession {
  const rows = async <Row>(sql: string, values: readonly unknown[] = []) =>
    (await database.withTenant(venue.tenantId, (client) => client.query<Row>(sql, values))).rows;
  return {
    rows,
    async value<T>(sql: string, values?: readonly unknown[]) {
      const [row] = await rows<Record<string, unknown>>(sql, values);
      return (row === undefined ? undefined : Object.values(row)[0]) as T;
    },
    async refusal(sql, values) {
      try {
        await rows(sql, values);
        return null;
      } catch (error) {
        const refused = businessErrorOf(error);
        if (refused !== null) return [refused.status, refused.code];
        const { code } = error as { code?: unknown };
        if (typeof code !== 'string') throw error;
        return code;
      }
    },
  };
}
