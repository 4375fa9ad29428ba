/** Transactions of a blockchain beside the ledger of rights. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue } from '../../testkit/database.ts';
import { asTenant } from '../../testkit/tenant-session.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

async function scene() {
  const venue = await makeVenue(fresh.url, { tickets: 3 });
  const sql = asTenant(fresh.database, venue);
  const create = (ticket: string | null, signature: string, type = 'mint', payload = '{}') =>
    sql.refusal('SELECT create_pending_transaction($1, $2, $3, NULL, NULL, NULL, $4)', [ticket, signature, type, payload]);
  return { venue, sql, create };
}

test('a mint is sent, known, and confirmed once; the ticket is minted', async () => {
  const { sql, create } = await scene();
  expect(await sql.value("SELECT has_pending_transaction('T-1')")).toBe(false);
  expect(await create('T-1', 'sig-1', 'mint', '{"token_mint": "mint-1"}')).toBeNull();
  expect(await create('T-1', 'sig-1', 'mint')).toBeNull();
  expect(await sql.value('SELECT count(*) FROM pending_transactions')).toBe(1);
  expect(await sql.value("SELECT has_pending_transaction('T-1')")).toBe(true);
  expect(await create('T-1', 'sig-2', 'transfer')).toEqual([409, 'NOT_ALLOWED']);
  expect(await create('T-2', 'sig-1', 'mint')).toEqual([409, 'CONFLICT']);
  const both = await Promise.all([1, 2].map(() => sql.value("SELECT confirm_transaction('sig-1', 77, '2026-05-01T12:00:00Z')")));
  expect(both.toSorted()).toEqual([false, true]);
  expect(await sql.value("SELECT has_pending_transaction('T-1')")).toBe(false);
  expect(await sql.rows("SELECT status, slot, confirmed_at IS NOT NULL AS confirmed FROM get_pending_transaction_status('sig-1')")).toEqual([
    { status: 'confirmed', slot: 77, confirmed: true },
  ]);
  expect(await sql.rows("SELECT status, is_nft, token_mint FROM tickets WHERE ticket_id = 'T-1'")).toEqual([
    { status: 'minted', is_nft: true, token_mint: 'mint-1' },
  ]);
  expect(await sql.rows("SELECT source, actor_type FROM get_ticket_state_history('T-1')")).toEqual([{ source: 'chain', actor_type: 'service' }]);
  expect(await sql.rows('SELECT what FROM blockchain_sync_log ORDER BY id')).toEqual([{ what: 'submitted' }, { what: 'confirmed' }]);
  expect(await sql.refusal("SELECT fail_transaction('sig-1', 'x', 'late')")).toEqual([409, 'NOT_ALLOWED']);
});

test('a failure is tried again until it has been often enough', async () => {
  const { sql } = await scene();
  await sql.rows("SELECT create_pending_transaction('T-1', 'sig-1', 'burn', max_retries => 2)");
  const fail = () => sql.value("SELECT fail_transaction('sig-1', 'BLOCKHASH', 'blockhash not found')");
  expect([await fail(), await fail(), await fail(), await fail()]).toEqual([true, true, false, false]);
  expect(await sql.rows("SELECT status, retry_count, error_code FROM get_pending_transaction_status('sig-1')")).toEqual([
    { status: 'failed', retry_count: 2, error_code: 'BLOCKHASH' },
  ]);
  expect(await sql.refusal("SELECT confirm_transaction('sig-1', 1)")).toEqual([409, 'NOT_ALLOWED']);
  expect(await sql.rows('SELECT what, count(*) AS n FROM blockchain_sync_log GROUP BY 1 ORDER BY 1')).toEqual([
    { what: 'failed', n: 1 },
    { what: 'retried', n: 2 },
    { what: 'submitted', n: 1 },
  ]);
  // Settled for good: another may be sent.
  expect(await sql.value("SELECT has_pending_transaction('T-1')")).toBe(false);
  await sql.rows("SELECT create_pending_transaction('T-1', 'sig-2', 'burn')");
  expect(await sql.value("SELECT fail_transaction('sig-2', 'X', 'y', true)")).toBe(false);
});

test('many at once for one ticket: one is open', async () => {
  const { sql, create } = await scene();
  const said = await Promise.all(Array.from({ length: 6 }, (_, n) => create('T-1', `sig-${n}`)));
  expect(said.filter((answer) => answer === null)).toHaveLength(1);
  expect(said.filter((answer) => answer !== null)).toEqual(Array.from({ length: 5 }, () => [409, 'NOT_ALLOWED']));
  expect(await sql.value('SELECT count(*) FROM pending_transactions')).toBe(1);
});

test('a transfer that the chain confirms is marked; what is not there, or no transaction, is said', async () => {
  const { sql, create } = await scene();
  await sql.rows("UPDATE tickets SET user_id = 'ann'");
  const transfer = await sql.value<string>("SELECT transfer_id FROM create_ticket_transfer('T-1', 'ann', 'bob', 'code')");
  await sql.rows("SELECT accept_ticket_transfer($1, 'code', 'bob')", [transfer]);
  await create('T-1', 'sig-9', 'transfer', JSON.stringify({ transfer_id: transfer }));
  await sql.rows("SELECT confirm_transaction('sig-9', 5)");
  expect(await sql.rows('SELECT tx_signature, blockchain_confirmed FROM ticket_transfers')).toEqual([{ tx_signature: 'sig-9', blockchain_confirmed: true }]);
  expect(await sql.rows("SELECT * FROM get_pending_transaction_status('nobody')")).toEqual([]);
  expect(await sql.refusal("SELECT confirm_transaction('nobody', 5)")).toEqual([404, 'NO_SUCH_TRANSACTION']);
  expect(await sql.refusal("SELECT fail_transaction('nobody', 'x', 'y')")).toEqual([404, 'NO_SUCH_TRANSACTION']);
  expect(await sql.refusal("SELECT has_pending_transaction('T-99')")).toEqual([404, 'NO_SUCH_TICKET']);
  expect(await create('T-2', 'sig-10', 'stake')).toEqual([400, 'BAD_REQUEST']);
  expect(await sql.refusal("UPDATE pending_transactions SET status = 'pending'")).toEqual([409, 'NOT_ALLOWED']);
});
