/** Tickets between people: transfers, refunds, validations, and the audit of it. */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue } from '../../testkit/database.ts';
import { asTenant } from '../../testkit/tenant-session.ts';
import { applyAction } from './actions.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

async function scene() {
  const venue = await makeVenue(fresh.url, { tickets: 4 });
  const sql = asTenant(fresh.database, venue);
  await sql.rows("UPDATE tickets SET user_id = 'ann', price_cents = 5000");
  const offer = (ticket: string, to: string | null = 'bob', from = 'ann') =>
    sql.value<string>('SELECT transfer_id FROM create_ticket_transfer($1, $2, $3, $4)', [ticket, from, to, 'open-sesame']);
  const accept = (transfer: string, code = 'open-sesame', user = 'bob', ref: Buffer | null = null) =>
    sql.refusal('SELECT accept_ticket_transfer($1, $2, $3, $4)', [transfer, code, user, ref]);
  return { venue, sql, offer, accept };
}

test('a transfer gives the ticket, with a new code, to whoever has the code; gates are told; the old code is dead', async () => {
  const { venue, sql, offer, accept } = await scene();
  const transfer = await offer('T-1');
  expect(await accept(transfer, 'wrong')).toEqual([403, 'FORBIDDEN']);
  expect(await accept(transfer, 'open-sesame', 'eve')).toEqual([403, 'FORBIDDEN']);
  const before = await sql.value<number>('SELECT version FROM events');
  const ref = randomBytes(16);
  expect(await accept(transfer, 'open-sesame', 'bob', ref)).toBeNull();
  expect(await accept(transfer, 'open-sesame', 'bob')).toEqual([409, 'NOT_ALLOWED']);
  expect(
    await sql.rows(
      "SELECT user_id, status, transfer_count, encode(ticket_ref, 'hex') AS ref, changed_version > $1 AS told FROM tickets WHERE ticket_id = 'T-1'",
      [before],
    ),
  ).toEqual([{ user_id: 'bob', status: 'transferred', transfer_count: 1, ref: ref.toString('hex'), told: true }]);
  expect(await sql.rows("SELECT encode(ticket_ref, 'hex') AS ref, reason FROM ticket_tombstones")).toEqual([
    { ref: venue.tickets[0]?.ticketRef, reason: 'revoked' },
  ]);
  expect(await sql.value<number>('SELECT count(*) FROM outbox')).toBeGreaterThan(0);
  expect(await sql.rows('SELECT kind, user_id FROM ticket_notifications ORDER BY id')).toEqual([
    { kind: 'transfer_offered', user_id: 'bob' },
    { kind: 'transfer_completed', user_id: 'ann' },
  ]);
  expect(await sql.rows("SELECT changed_by, source FROM get_ticket_state_history('T-1')")).toEqual([{ changed_by: 'bob', source: 'transfer' }]);
  // The code stands nowhere.
  expect(await sql.value("SELECT count(*) FROM ticket_transfers x WHERE x::text LIKE '%sesame%'")).toBe(0);
  await fresh.database.withTenant(venue.tenantId, (client) =>
    applyAction(client, venue.tenantId, { ticketId: 'T-1', action: 'transfer', actor: 'staff-1', reason: 'by phone', toUserId: 'cat' }),
  );
  expect(await sql.rows("SELECT from_user_id, to_user_id, status FROM get_ticket_transfer_history('T-1')")).toEqual([
    { from_user_id: 'staff-1', to_user_id: 'cat', status: 'completed' },
    { from_user_id: 'ann', to_user_id: 'bob', status: 'completed' },
  ]);
  expect(await sql.refusal("SELECT * FROM get_ticket_transfer_history('T-99')")).toEqual([404, 'NO_SUCH_TICKET']);
});

test('a transfer is refused where it may not be, and given once to two who accept at once', async () => {
  const { sql, offer, accept } = await scene();
  const transfer = await offer('T-1');
  expect(await sql.refusal("SELECT create_ticket_transfer('T-1', 'ann', 'cat', 'x')")).toEqual([409, 'NOT_ALLOWED']);
  const both = await Promise.all([accept(transfer), accept(transfer)]);
  expect(both.filter((answer) => answer === null)).toHaveLength(1);
  expect(await sql.value("SELECT transfer_count FROM tickets WHERE ticket_id = 'T-1'")).toBe(1);
  expect(await sql.refusal("SELECT create_ticket_transfer('T-1', 'ann', 'cat', 'x')")).toEqual([403, 'FORBIDDEN']);
  await sql.rows("UPDATE tickets SET max_transfers = 1 WHERE ticket_id = 'T-1'");
  expect(await sql.refusal("SELECT create_ticket_transfer('T-1', 'bob', 'cat', 'x')")).toEqual([409, 'TOO_MANY']);
  await sql.rows("UPDATE tickets SET is_transferable = false WHERE ticket_id = 'T-2'");
  await sql.rows("UPDATE tickets SET status = 'used' WHERE ticket_id = 'T-3'");
  for (const ticket of ['T-2', 'T-3'])
    expect([ticket, await sql.refusal("SELECT create_ticket_transfer($1, 'ann', 'cat', 'x')", [ticket])]).toEqual([ticket, [409, 'NOT_ALLOWED']]);
  // Offers that ran out, and offers that somebody took back.
  const late = await offer('T-4');
  await sql.rows("UPDATE ticket_transfers SET expires_at = now() - interval '1 second' WHERE transfer_id = $1", [late]);
  expect(await accept(late)).toEqual([409, 'EXPIRED']);
  const again = await offer('T-4');
  await sql.rows("UPDATE ticket_transfers SET status = 'cancelled' WHERE transfer_id = $1", [again]);
  expect(await accept(again)).toEqual([409, 'NOT_ALLOWED']);
  expect(await sql.refusal("UPDATE ticket_transfers SET status = 'pending'")).toEqual([409, 'NOT_ALLOWED']);
  expect(await accept('00000000-0000-4000-8000-000000000000')).toEqual([404, 'NO_SUCH_TRANSFER']);
  // Used at a gate meanwhile.
  const used = await offer('T-4');
  await sql.rows("SELECT * FROM scan_ticket_atomic('T-4')");
  expect(await accept(used)).toEqual([409, 'NOT_ALLOWED']);
});

test('a refund that is completed takes the ticket away, once, and never more than was paid', async () => {
  const { venue, sql } = await scene();
  const ask = (ticket: string, cents: number) =>
    sql.refusal("INSERT INTO refunds (tenant_id, event_id, ticket_id, amount_cents, reason, requested_by) VALUES ($1, 'EV1', $2, $3, 'ill', 'ann')", [
      venue.tenantId,
      ticket,
      cents,
    ]);
  expect([await ask('T-1', 5001), await ask('T-1', 5000), await ask('T-1', 1)]).toEqual([[409, 'TOO_MUCH'], null, '23505']);
  const set = (status: string) => sql.refusal(`UPDATE refunds SET status = '${status}', decided_by = 'staff-2'`);
  expect([await set('completed'), await set('approved'), await set('completed'), await set('failed')]).toEqual([
    [409, 'NOT_ALLOWED'],
    null,
    null,
    [409, 'NOT_ALLOWED'],
  ]);
  expect(await sql.rows("SELECT new_status, changed_by, reason, source FROM get_ticket_state_history('T-1')")).toEqual([
    { new_status: 'refunded', changed_by: 'staff-2', reason: 'ill', source: 'refund' },
  ]);
  expect(await sql.value<number>('SELECT count(*) FROM outbox')).toBeGreaterThan(0);
  expect(await sql.rows("SELECT allowed, reason FROM scan_ticket_atomic('T-1')")).toEqual([{ allowed: false, reason: 'canceled' }]);
});

test('a validation marks the ticket; every change of rights is audited, no entry is', async () => {
  const { venue, sql } = await scene();
  await sql.rows(
    "INSERT INTO ticket_validations (tenant_id, event_id, ticket_id, result, validated_by) VALUES ($1, 'EV1', 'T-1', 'invalid', 'Anna'), ($1, 'EV1', 'T-2', 'valid', '8c5f3a52-5d8e-4b8e-9f5a-0a4d8b1c2d3e')",
    [venue.tenantId],
  );
  expect(await sql.rows('SELECT id, is_validated FROM ticket_overview ORDER BY id LIMIT 2')).toEqual([
    { id: 'T-1', is_validated: false },
    { id: 'T-2', is_validated: true },
  ]);
  expect(await sql.rows('SELECT validated_by, validated_by_id FROM ticket_validations ORDER BY ticket_id')).toEqual([
    { validated_by: 'Anna', validated_by_id: null },
    { validated_by: '8c5f3a52-5d8e-4b8e-9f5a-0a4d8b1c2d3e', validated_by_id: '8c5f3a52-5d8e-4b8e-9f5a-0a4d8b1c2d3e' },
  ]);
  // T11: the scene gave the tickets to their holder by a statement of its own, which is audited as well.
  const before = await sql.value<number>("SELECT count(*) FROM ticket_audit_log WHERE new_values ->> 'user_id' = 'ann'");
  expect(before).toBeGreaterThan(0);
  await sql.rows("SELECT * FROM scan_ticket_atomic('T-3')");
  expect(await sql.value('SELECT count(*) FROM ticket_audit_log')).toBe(before);
  await fresh.database.withTenant(venue.tenantId, (client) =>
    applyAction(client, venue.tenantId, { ticketId: 'T-1', action: 'block', actor: 'staff-1', reason: 'chargeback' }),
  );
  await sql.rows("DELETE FROM tickets WHERE ticket_id = 'T-4'");
  expect(await sql.rows('SELECT ticket_id, action, actor, source, old_values, new_values FROM ticket_audit_log ORDER BY id OFFSET $1', [before])).toMatchObject(
    [
      {
        ticket_id: 'T-1',
        action: 'update',
        actor: 'staff-1',
        source: 'block',
        old_values: { blocked: false, note: null },
        new_values: { blocked: true, note: 'chargeback' },
      },
      { ticket_id: 'T-4', action: 'delete', actor: null, old_values: { status: 'sold', user_id: 'ann' }, new_values: {} },
    ],
  );
  expect(await sql.value("SELECT count(*) FROM ticket_audit_log a WHERE a::text LIKE '%ticket_ref%'")).toBe(0);
  expect(await sql.refusal("UPDATE ticket_audit_log SET actor = 'x'")).toBe('42501');
});
