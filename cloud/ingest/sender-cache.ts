/** Resolves a topic's sender to its tenant, from enrolment and never from a payload. Caches the answer for a short time. */
import type { Database } from '../db/database.ts';

/** Life of an answer, in milliseconds: a revoked or new device takes effect after at most this. */
const KEPT_MS = 5_000;
/** Names in the cache; beyond it the oldest is evicted. */
const MAX_KEPT = 20_000;

export type Sender =
  | { readonly kind: 'device'; readonly tenantId: string }
  | { readonly kind: 'revoked'; readonly tenantId: string }
  | { readonly kind: 'unknown' };

export interface Senders {
  /** Resolves one sender. Fails only when the database does. */
  resolve(name: string): Promise<Sender>;
  /** Resolves many with one query for all unknown ones: one query each would hold a batch of 200 gates for seconds. */
  resolveAll(names: Iterable<string>): Promise<Map<string, Sender>>;
}

export function createSenders(database: Database, now: () => number = Date.now): Senders {
  const kept = new Map<string, { readonly sender: Sender; readonly until: number }>();

  async function resolveAll(names: Iterable<string>): Promise<Map<string, Sender>> {
    const found = new Map<string, Sender>();
    const unknown: string[] = [];
    for (const name of new Set(names)) {
      const known = kept.get(name);
      if (known !== undefined && known.until > now()) found.set(name, known.sender);
      else unknown.push(name);
    }
    if (unknown.length === 0) return found;
    const { rows } = await database.withoutTenant((client) =>
      client.query<{ name: string; tenant_id: string | null; revoked: boolean | null }>(
        'SELECT n.name, r.tenant_id, r.revoked FROM unnest($1::text[]) AS n (name) LEFT JOIN LATERAL resolve_device(n.name) AS r ON true',
        [unknown],
      ),
    );
    for (const { name, tenant_id, revoked } of rows) {
      const sender: Sender = tenant_id === null ? { kind: 'unknown' } : { kind: revoked === true ? 'revoked' : 'device', tenantId: tenant_id };
      found.set(name, sender);
      kept.delete(name);
      kept.set(name, { sender, until: now() + KEPT_MS });
      if (kept.size > MAX_KEPT) kept.delete(kept.keys().next().value as string);
    }
    return found;
  }

  return {
    resolve: async (name) => (await resolveAll([name])).get(name) as Sender,
    resolveAll,
  };
}
