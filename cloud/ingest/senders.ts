/** Who a topic's sender is: its tenant, from enrolment and never from a payload. Kept for a short time. */
import type { Database } from '../database.ts';

/** How long an answer holds: a revoked or new device is seen as such after at most this. */
const KEPT_MS = 5_000;
/** Names kept; beyond, the oldest is asked for again. */
const MAX_KEPT = 20_000;

export type Sender =
  | { readonly kind: 'device'; readonly tenantId: string }
  | { readonly kind: 'revoked'; readonly tenantId: string }
  | { readonly kind: 'unknown' };

export interface Senders {
  /** Fails only when the database does. */
  resolve(name: string): Promise<Sender>;
}

export function createSenders(database: Database, now: () => number = Date.now): Senders {
  const kept = new Map<string, { readonly sender: Sender; readonly until: number }>();
  return {
    async resolve(name) {
      const known = kept.get(name);
      if (known !== undefined && known.until > now()) return known.sender;
      const { rows } = await database.withoutTenant((client) =>
        client.query<{ tenant_id: string; revoked: boolean }>('SELECT tenant_id, revoked FROM resolve_device($1)', [name]),
      );
      const row = rows[0];
      const sender: Sender = row === undefined ? { kind: 'unknown' } : { kind: row.revoked ? 'revoked' : 'device', tenantId: row.tenant_id };
      kept.delete(name);
      kept.set(name, { sender, until: now() + KEPT_MS });
      if (kept.size > MAX_KEPT) kept.delete(kept.keys().next().value as string);
      return sender;
    },
  };
}
