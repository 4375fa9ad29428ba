/** Stores messages that could not be ingested, with the reason; never drops one without a trace, and bounds what it stores. */
import { createHash } from 'node:crypto';
import { cutText } from '../../contract/text.ts';
import type { Database } from '../db/database.ts';

/** Bytes of a payload that are stored for enrolled devices; of more, the first. For others only hash and size. */
const MAX_KEPT_BYTES = 64 * 1024;
/** The same for payloads that nobody can read: enough to see their beginning. */
const MAX_KEPT_UNREADABLE_BYTES = 8 * 1024;
/** Messages of unknown senders that are stored in a minute; further ones are only counted (in `stats`). */
const MAX_UNKNOWN_PER_MINUTE = 120;
/** Messages of one transaction: in a flood, one transaction for each message would be too slow. */
const MAX_BATCH = 200;
const MAX_BATCH_BYTES = 1024 * 1024;
/** Bounds of waiting messages: beyond these bytes of payloads only hash and size are stored; beyond this count `put` fails. */
const MAX_WAITING_BYTES = 4 * 1024 * 1024;
const MAX_WAITING = 5_000;

export type QuarantineReason = 'unreadable' | 'mismatch' | 'unknown_device' | 'revoked_device' | 'oversized' | 'wrong_version' | 'failed';
export interface Quarantined {
  readonly topic: string;
  readonly reason: QuarantineReason;
  readonly detail: string;
  readonly payload: Uint8Array;
}

export interface Quarantine {
  /**
   * Stores a message. tenantId null: the sender is unknown. A repeat only counts. Resolves when it is committed; rejects when the database fails,
   * and where too much waits.
   */
  put(tenantId: string | null, message: Quarantined): Promise<void>;
}

/** A message in its stored form, without the whole payload. */
interface Kept {
  readonly tenantId: string | null;
  readonly topic: string;
  readonly reason: QuarantineReason;
  readonly detail: string;
  readonly sha256: Buffer;
  readonly bytes: number;
  readonly payload: Buffer | null;
  readonly done: (error?: Error) => void;
}

const SQL = `INSERT INTO quarantine AS q (tenant_id, topic, reason, detail, payload_sha256, payload_bytes, payload, times)
  SELECT current_tenant_id(), m.topic, m.reason, m.detail, m.hash, m.bytes, substring($8::bytea FROM m.kept_from FOR m.kept_bytes), m.times
  FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::integer[], $6::integer[], $7::integer[], $9::bigint[])
    AS m (topic, reason, detail, hash, bytes, kept_from, kept_bytes, times)
  ON CONFLICT (tenant_id, topic, reason, payload_sha256) DO UPDATE SET times = q.times + excluded.times, last_at = now()`;

export function createQuarantine(database: Database, now: () => number = Date.now): Quarantine {
  let minute = 0;
  let unknown = 0;
  const waiting: Kept[] = [];
  let waitingBytes = 0;
  let working = false;

  /** Takes the next messages of one tenant. */
  function take(): Kept[] {
    const tenantId = waiting[0]?.tenantId;
    const batch: Kept[] = [];
    let bytes = 0;
    while (waiting[0] !== undefined && waiting[0].tenantId === tenantId && batch.length < MAX_BATCH && bytes < MAX_BATCH_BYTES) {
      const next = waiting.shift() as Kept;
      bytes += next.payload?.byteLength ?? 0;
      batch.push(next);
    }
    waitingBytes -= bytes;
    return batch;
  }

  async function work(): Promise<void> {
    working = true;
    for (let batch = take(); batch.length > 0; batch = take()) {
      const tenantId = (batch[0] as Kept).tenantId;
      try {
        const values = columns(batch);
        if (tenantId === null) await database.withoutTenant((client) => client.query(SQL, values));
        else await database.withTenant(tenantId, (client) => client.query(SQL, values));
        for (const { done } of batch) done();
      } catch (error) {
        for (const { done } of batch) done(error as Error);
      }
    }
    working = false;
  }

  return {
    put(tenantId, { topic, reason, detail, payload }) {
      if (tenantId === null) {
        const current = Math.floor(now() / 60_000);
        unknown = current === minute ? unknown + 1 : 1;
        minute = current;
        if (unknown > MAX_UNKNOWN_PER_MINUTE) return Promise.resolve();
      }
      if (waiting.length >= MAX_WAITING) return Promise.reject(new Error(`${MAX_WAITING} messages wait for quarantine already`));
      const worth = reason === 'unreadable' || reason === 'oversized' ? MAX_KEPT_UNREADABLE_BYTES : MAX_KEPT_BYTES;
      const kept = tenantId === null || waitingBytes >= MAX_WAITING_BYTES ? null : Buffer.from(payload.subarray(0, worth));
      waitingBytes += kept?.byteLength ?? 0;
      const sha256 = createHash('sha256').update(payload).digest();
      return new Promise<void>((resolve, reject) => {
        const done = (error?: Error) => (error === undefined ? resolve() : reject(error));
        waiting.push({ tenantId, topic: cutText(topic, 256), reason, detail: cutText(detail, 512), sha256, bytes: payload.byteLength, payload: kept, done });
        if (!working) void work();
      });
    },
  };
}

/** Merges messages of the same key: an INSERT must not conflict with its own rows. Sorted, as every writer of several rows does. */
function columns(batch: readonly Kept[]): readonly unknown[] {
  const rows = new Map<string, { readonly row: Kept; times: number }>();
  for (const row of batch) {
    const key = `${row.topic} ${row.reason} ${row.sha256.toString('hex')}`;
    const same = rows.get(key);
    if (same === undefined) rows.set(key, { row, times: 1 });
    else same.times += 1;
  }
  const sorted = [...rows].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
  const column = <T>(of: (row: Kept) => T) => sorted.map(({ row }) => of(row));
  // Payloads are sent as one value: an array would be encoded as text, several times as large.
  let from = 1;
  const places = column(({ payload }) => {
    if (payload === null) return null;
    const place = from;
    from += payload.byteLength;
    return place;
  });
  return [
    column(({ topic }) => topic),
    column(({ reason }) => reason),
    column(({ detail }) => detail),
    column(({ sha256 }) => sha256),
    column(({ bytes }) => bytes),
    places,
    column(({ payload }) => payload?.byteLength ?? null),
    Buffer.concat(column(({ payload }) => payload).filter((payload) => payload !== null)),
    sorted.map(({ times }) => times),
  ];
}
