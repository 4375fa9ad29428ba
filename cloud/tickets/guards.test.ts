/** Guards: tenants, keys of writes that happen once, nonces, limits, lockouts, acts of several people. */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue } from '../../testkit/database.ts';
import { asTenant } from '../../testkit/tenant-session.ts';
import { businessErrorOf, createDatabase, type Database } from '../db/database.ts';
import { once } from './idempotency.ts';

let fresh: FreshDatabase;
let wide: Database;
beforeAll(async () => {
  fresh = await freshDatabase();
  wide = createDatabase({ url: fresh.servingUrl, maxConnections: 10 });
});
afterAll(async () => {
  await wide.close();
  await fresh.drop();
});
const scene = async () => {
  const venue = await makeVenue(fresh.url, { tickets: 2 });
  return { venue, sql: asTenant(wide, venue) };
};

test('a tenant is verified, and reaching for another is kept where its own people see it', async () => {
  const { venue, sql } = await scene();
  const other = await scene();
  expect(await sql.value('SELECT verify_tenant_context()')).toBe(venue.tenantId);
  const stranger = asTenant(wide, { tenantId: '00000000-0000-4000-8000-000000000000' });
  expect(await stranger.refusal('SELECT verify_tenant_context()')).toEqual([403, 'NO_TENANT']);
  const without = (text: string) =>
    wide
      .withoutTenant((client) => client.query(text))
      .then(
        () => null,
        (error: unknown) => businessErrorOf(error)?.code ?? error,
      );
  expect(await without('SELECT verify_tenant_context()')).toBe('NO_TENANT');
  expect(await without("SELECT set_config('app.current_tenant_id', 'x', true)")).toBeNull();
  expect(await without("SELECT set_config('app.current_tenant_id', 'x', true); SELECT verify_tenant_context()")).toBe('NO_TENANT');
  // Set, then cleared, within one transaction.
  await wide.withoutTenant(async (client) => {
    await client.query('SELECT set_tenant_context($1)', [venue.tenantId]);
    expect((await client.query('SELECT count(*) AS n FROM tickets')).rows).toEqual([{ n: 2 }]);
    await client.query('SELECT clear_tenant_context()');
    expect((await client.query('SELECT count(*) AS n FROM tickets')).rows).toEqual([{ n: 0 }]);
  });
  await sql.rows("SELECT log_tenant_violation($1, 'tickets of another tenant', 'staff-1', '{\"path\": \"/tickets\"}')", [other.venue.tenantId]);
  await wide.withoutTenant((client) => client.query("SELECT log_tenant_violation($1, 'no tenant at all')", [other.venue.tenantId]));
  expect(await sql.rows('SELECT attempted_tenant_id, what, actor, database_role FROM tenant_access_violations')).toEqual([
    { attempted_tenant_id: other.venue.tenantId, what: 'tickets of another tenant', actor: 'staff-1', database_role: 'stile_service' },
  ]);
  expect(await other.sql.rows('SELECT 1 FROM tenant_access_violations')).toEqual([]);
  expect((await wide.withoutTenant((client) => client.query('SELECT what FROM tenant_access_violations'))).rows).toEqual([{ what: 'no tenant at all' }]);
  expect(await sql.refusal('DELETE FROM tenant_access_violations')).toBe('42501');
});

test('a holder sees their own tickets, the owner of a venue those of its events', async () => {
  const { venue, sql } = await scene();
  await sql.rows("UPDATE tickets SET user_id = 'ann' WHERE ticket_id = 'T-1'");
  await sql.rows("INSERT INTO venues (tenant_id, venue_id, site_id, name, owner_user_id) VALUES ($1, 'v-1', $2, 'Arena', 'olga')", [
    venue.tenantId,
    venue.site,
  ]);
  const seenBy = (user: string, view: string) =>
    wide.withTenant(venue.tenantId, async (client) => {
      await client.query('SELECT set_status_change_context($1)', [user]);
      return (await client.query<{ id: string }>(`SELECT id FROM ${view} ORDER BY id`)).rows.map(({ id }) => id);
    });
  expect([await seenBy('ann', 'my_tickets'), await seenBy('olga', 'my_tickets'), await seenBy('', 'my_tickets')]).toEqual([['T-1'], [], []]);
  expect([await seenBy('ann', 'my_venues_tickets'), await seenBy('olga', 'my_venues_tickets')]).toEqual([[], ['T-1', 'T-2']]);
});

const hash = (text: string) => createHash('sha256').update(text).digest();

test('a key is acquired by one of many, answered to the rest, and let go when its work failed', async () => {
  const { venue, sql } = await scene();
  const acquire = async (key: string, body = 'a', by = 'w', seconds = 60) =>
    (
      await sql.rows<{ acquired: boolean; state: string; response_status: number | null }>("SELECT * FROM acquire_idempotency_key($1, 'pay', $2, $3, $4)", [
        key,
        hash(body),
        by,
        seconds,
      ])
    )[0];
  const all = await Promise.all(Array.from({ length: 8 }, (_, n) => acquire('k-1', 'a', `w-${n}`)));
  expect(all.map((answer) => answer?.state).toSorted()).toEqual(['acquired', ...Array.from({ length: 7 }, () => 'locked')]);
  const holder = `w-${all.findIndex((answer) => answer?.acquired)}`;
  expect(await acquire('k-1', 'b')).toMatchObject({ acquired: false, state: 'other_request' });
  expect(await sql.value("SELECT complete_idempotency_key('k-1', 'pay', 201, '{}', 'somebody')")).toBe(false);
  expect(await sql.value("SELECT complete_idempotency_key('k-1', 'pay', 201, '{\"id\": 5}', $1)", [holder])).toBe(true);
  expect(await acquire('k-1')).toEqual({ acquired: false, state: 'completed', response_status: 201, response_body: { id: 5 } });
  expect(await sql.value("SELECT complete_idempotency_key('k-1', 'pay', 500, '{}')")).toBe(false);
  expect(await sql.value("SELECT release_idempotency_lock('k-1')")).toBe(0);
  // Let go: as if never asked, or remembered as failed; a lock that ran out is taken over.
  await acquire('k-2');
  expect([await sql.value("SELECT release_idempotency_lock('k-2', false, NULL, 'w')"), (await acquire('k-2', 'b'))?.state]).toEqual([1, 'acquired']);
  expect(await sql.value("SELECT release_idempotency_lock('k-2', true, NULL, 'w')")).toBe(1);
  expect(await sql.rows("SELECT failed_at IS NOT NULL AS failed FROM idempotency_keys WHERE idempotency_key = 'k-2'")).toEqual([{ failed: true }]);
  expect((await acquire('k-2', 'b'))?.state).toBe('acquired');
  await acquire('k-3', 'a', 'dead', 0);
  expect((await acquire('k-3', 'a', 'next'))?.state).toBe('acquired');
  expect(await sql.value("SELECT complete_idempotency_key('k-3', 'pay', 200, '{}', 'dead')")).toBe(false);
  // The HTTP layer's own way knows these keys.
  expect(
    await wide.withTenant(venue.tenantId, (client) =>
      once(client, venue.tenantId, { key: 'k-1', operation: 'pay', body: 'x' }, () => Promise.reject(new Error('not again'))),
    ),
  ).toEqual({ kind: 'other_body' });
  await sql.rows("UPDATE idempotency_keys SET expires_at = now() - interval '1 second' WHERE idempotency_key IN ('k-1', 'k-3')");
  // k-3 is still locked: whoever works on it is not forgotten.
  expect([await sql.value('SELECT cleanup_expired_idempotency_keys()'), await sql.value('SELECT cleanup_expired_idempotency_keys()')]).toEqual([1, 0]);
  expect((await acquire('k-1', 'another'))?.state).toBe('acquired');
});

test('a nonce is good once', async () => {
  const { sql } = await scene();
  const said = await Promise.all(Array.from({ length: 6 }, () => sql.value("SELECT use_webhook_nonce('payments', 'n-1')")));
  expect(said.filter(Boolean)).toHaveLength(1);
  expect(await sql.value("SELECT use_webhook_nonce('mail', 'n-1')")).toBe(true);
  await sql.rows("UPDATE webhook_nonces SET expires_at = now() - interval '1 s'");
  expect(await sql.value("SELECT use_webhook_nonce('payments', 'n-1')")).toBe(true);
});

test('spending stays within its limits, which are in order, whoever spends at once', async () => {
  const { venue, sql } = await scene();
  const limit = (values: string) =>
    sql.refusal(
      `INSERT INTO spending_limits (tenant_id, user_id, currency, per_transaction_cents, per_day_cents, per_week_cents, per_month_cents) VALUES ('${venue.tenantId}', 'x', 'EUR', ${values})`,
    );
  for (const wrong of ['10, 9, 20, 30', '1, 10, 9, 30', '1, 2, 30, 29', '10, NULL, 9, NULL', '10, NULL, NULL, 9', 'NULL, 10, NULL, 9', '-1, 2, 3, 4'])
    expect([wrong, await limit(wrong)]).toEqual([wrong, '23514']);
  await sql.rows(
    "INSERT INTO spending_limits (tenant_id, user_id, currency, per_transaction_cents, per_day_cents, per_week_cents, per_month_cents) VALUES ($1, 'ann', 'EUR', 100, 250, 300, 320)",
    [venue.tenantId],
  );
  const spend = (cents: number, user = 'ann') => sql.refusal("SELECT spend_within_limits($1, $2, 'EUR')", [user, cents]);
  expect([await spend(101), await spend(10_000, 'bob'), await spend(0)]).toEqual([[409, 'LIMIT'], null, '23514']);
  const said = await Promise.all(Array.from({ length: 5 }, () => spend(100)));
  expect(said.filter((answer) => answer === null)).toHaveLength(2);
  // The days go by.
  const older = (days: number) =>
    fresh.database.asOwner((client) =>
      client.query("UPDATE spending_transactions SET at = at - make_interval(days => $2) WHERE tenant_id = $1 AND user_id = 'ann'", [venue.tenantId, days]),
    );
  await older(2);
  expect([await spend(100), await spend(1)]).toEqual([null, [409, 'LIMIT']]);
  await older(7);
  expect([await spend(20), await spend(1)]).toEqual([null, [409, 'LIMIT']]);
  await older(30);
  expect(await spend(100)).toBeNull();
  expect(await sql.refusal('DELETE FROM spending_transactions')).toBe('42501');
});

test('an account is locked after so many failures, counted rightly when they come at once', async () => {
  const { sql } = await scene();
  const fail = () => sql.value<Date | null>("SELECT record_failed_attempt('ann', 5, 15)");
  const said = await Promise.all(Array.from({ length: 7 }, fail));
  expect(said.filter((until) => until === null)).toHaveLength(4);
  expect(await sql.value("SELECT account_locked_until('ann')")).toBeInstanceOf(Date);
  expect(await sql.rows('SELECT kind, max(failed_count) AS failed, count(*) AS n FROM account_lockout_events GROUP BY 1 ORDER BY 1')).toEqual([
    { kind: 'failed_attempt', failed: 5, n: 5 },
    { kind: 'locked', failed: 5, n: 1 },
  ]);
  expect([
    await sql.value("SELECT unlock_account('ann', 'staff-1')"),
    await sql.value("SELECT unlock_account('ann')"),
    await sql.value("SELECT account_locked_until('ann')"),
  ]).toEqual([true, false, null]);
  expect([await fail(), await sql.value("SELECT account_locked_until('bob')")]).toEqual([null, null]);
  expect(await sql.refusal('UPDATE account_lockout_events SET failed_count = 0')).toBe('42501');
});

test('several must agree, nobody to their own, one may stop it; two who agree at once both count', async () => {
  const { venue, sql } = await scene();
  const ask = (required: number) =>
    sql.value<string>(
      "INSERT INTO multisig_approval_requests (tenant_id, operation, requested_by, required_approvals) VALUES ($1, 'refund_event', 'ann', $2) RETURNING request_id",
      [venue.tenantId, required],
    );
  const agree = (request: string, who: string) =>
    sql.refusal('INSERT INTO multisig_approvals (tenant_id, request_id, approver) VALUES ($1, $2, $3)', [venue.tenantId, request, who]);
  const stop = (request: string, who: string) =>
    sql.refusal("INSERT INTO multisig_rejections (tenant_id, request_id, approver, reason) VALUES ($1, $2, $3, 'too much')", [venue.tenantId, request, who]);
  const set = (request: string, what: string) => sql.refusal(`UPDATE multisig_approval_requests SET ${what} WHERE request_id = $1`, [request]);
  const status = (request: string) => sql.value('SELECT status FROM multisig_approval_requests WHERE request_id = $1', [request]);
  const first = await ask(2);
  expect([await agree(first, 'ann'), await set(first, "status = 'approved'"), await set(first, 'required_approvals = 1')]).toEqual([
    [403, 'FORBIDDEN'],
    [409, 'NOT_ALLOWED'],
    [409, 'NOT_ALLOWED'],
  ]);
  expect(await Promise.all([agree(first, 'bob'), agree(first, 'cat')])).toEqual([null, null]);
  expect(await status(first)).toBe('approved');
  expect([
    await agree(first, 'dan'),
    await stop(first, 'dan'),
    await set(first, "status = 'executed'"),
    await set(first, "status = 'executed', operation = 'x'"),
  ]).toEqual([[409, 'NOT_ALLOWED'], [409, 'NOT_ALLOWED'], null, [409, 'NOT_ALLOWED']]);
  const second = await ask(2);
  expect([await agree(second, 'bob'), await agree(second, 'bob'), await stop(second, 'cat'), await agree(second, 'dan'), await status(second)]).toEqual([
    null,
    '23505',
    null,
    [409, 'NOT_ALLOWED'],
    'rejected',
  ]);
  const third = await ask(1);
  await set(third, "expires_at = now() - interval '1 s'");
  expect([await agree(third, 'bob'), await set(third, "status = 'expired'"), await set(third, "status = 'pending'")]).toEqual([
    [409, 'EXPIRED'],
    null,
    [409, 'NOT_ALLOWED'],
  ]);
  expect(await agree('00000000-0000-4000-8000-000000000000', 'bob')).toEqual([404, 'NO_SUCH_REQUEST']);
  expect(await sql.refusal('DELETE FROM multisig_approvals')).toBe('42501');
});
