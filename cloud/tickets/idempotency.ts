/** Answers a repeated write with the first answer and changes nothing. */
import { createHash } from 'node:crypto';
import { canonicalJson } from '../../contract/hash-chain.ts';
import type { DatabaseClient } from '../db/database.ts';

export interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}
export type Idempotent = { readonly kind: 'done' | 'replayed'; readonly answer: Answer } | { readonly kind: 'other_body' };

/** Expired answers removed at once; the rest waits for the next call. */
const CLEAN_AT_ONCE = 100;

/**
 * Does the work once for each key, in the caller's transaction: the key is stored with the answer, or not at all if the work throws. A second
 * caller with the same key waits for the first. Without a key the work is done without this.
 */
export async function once(
  client: DatabaseClient,
  tenantId: string,
  request: { readonly key: string | undefined; readonly operation: string; readonly body: unknown },
  work: () => Promise<Answer>,
): Promise<Idempotent> {
  const { key, operation } = request;
  if (key === undefined) return { kind: 'done', answer: await work() };
  const sha256 = createHash('sha256')
    .update(canonicalJson(request.body ?? null))
    .digest();
  await client.query(
    'DELETE FROM idempotency_keys WHERE ctid IN (SELECT ctid FROM idempotency_keys WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)',
    [CLEAN_AT_ONCE],
  );
  const taken = await client.query(
    'INSERT INTO idempotency_keys (tenant_id, idempotency_key, operation, request_sha256, locked_at) VALUES ($1, $2, $3, $4, now()) ON CONFLICT DO NOTHING',
    [tenantId, key, operation, sha256],
  );
  if (taken.rowCount === 0) {
    const { rows } = await client.query<{ request_sha256: Buffer; response_status: number; response_body: Record<string, unknown> }>(
      'SELECT request_sha256, response_status, response_body FROM idempotency_keys WHERE tenant_id = $1 AND idempotency_key = $2 AND operation = $3',
      [tenantId, key, operation],
    );
    const before = rows[0];
    if (before === undefined || !before.request_sha256.equals(sha256)) return { kind: 'other_body' };
    return { kind: 'replayed', answer: { status: before.response_status, body: inOrder(before.response_body) } };
  }
  const answer = await work();
  await client.query(
    'UPDATE idempotency_keys SET response_status = $4, response_body = $5, locked_at = NULL WHERE tenant_id = $1 AND idempotency_key = $2 AND operation = $3',
    [tenantId, key, operation, answer.status, JSON.stringify(answer.body)],
  );
  return { kind: 'done', answer: { status: answer.status, body: inOrder(answer.body) } };
}

/** jsonb loses the order of keys: both answers are written in one order, so that they are the same bytes. */
const inOrder = (body: Record<string, unknown>) => JSON.parse(canonicalJson(body)) as Record<string, unknown>;
