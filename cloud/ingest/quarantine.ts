/** What could not be taken in, kept with its reason; never dropped without a trace, and never more than it is worth. */
import { createHash } from 'node:crypto';
import type { Database } from '../database.ts';

/** Bytes of a payload that are kept; of more, the first. Only of enrolled devices: of others only hash and size. */
const MAX_KEPT_BYTES = 64 * 1024;
/** Messages of unknown senders that are noted in a minute; of more, only the count (in `stats`). */
const MAX_UNKNOWN_PER_MINUTE = 120;

export type QuarantineReason = 'unreadable' | 'mismatch' | 'unknown_device' | 'revoked_device' | 'oversized' | 'wrong_version' | 'failed';
export interface Quarantined {
  readonly topic: string;
  readonly reason: QuarantineReason;
  readonly detail: string;
  readonly payload: Uint8Array;
}

export interface Quarantine {
  /** tenantId null: the sender is unknown. The same again only counts. Fails only when the database does. */
  put(tenantId: string | null, message: Quarantined): Promise<void>;
}

export function createQuarantine(database: Database, now: () => number = Date.now): Quarantine {
  let minute = 0;
  let unknown = 0;
  return {
    async put(tenantId, { topic, reason, detail, payload }) {
      if (tenantId === null) {
        const current = Math.floor(now() / 60_000);
        unknown = current === minute ? unknown + 1 : 1;
        minute = current;
        if (unknown > MAX_UNKNOWN_PER_MINUTE) return;
      }
      const values = [
        plain(topic, 256),
        reason,
        plain(detail, 512),
        createHash('sha256').update(payload).digest(),
        payload.byteLength,
        tenantId === null ? null : Buffer.from(payload.subarray(0, MAX_KEPT_BYTES)),
      ];
      const sql = `INSERT INTO quarantine AS q (tenant_id, topic, reason, detail, payload_sha256, payload_bytes, payload) VALUES (current_tenant_id(), $1, $2, $3, $4, $5, $6)
        ON CONFLICT (tenant_id, topic, reason, payload_sha256) DO UPDATE SET times = q.times + 1, last_at = now()`;
      if (tenantId === null) await database.withoutTenant((client) => client.query(sql, values));
      else await database.withTenant(tenantId, (client) => client.query(sql, values));
    },
  };
}

/** Text that PostgreSQL takes. */
const plain = (text: string, max: number) => text.toWellFormed().replaceAll('\u0000', '').slice(0, max);
