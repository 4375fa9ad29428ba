/** T11: locks and versions do what their names promise, whoever writes; what has run out is ended by a job, not by the next caller. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue } from '../../testkit/database.ts';
import { asTenant } from '../../testkit/tenant-session.ts';
import { SILENT } from '../log.ts';
import { createHousekeeping } from './housekeeping.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

async function scene() {
  const venue = await makeVenue(fresh.url, { tickets: 4 });
  const sql = asTenant(fresh.database, venue);
  const housekeeping = createHousekeeping({ database: fresh.database, log: SILENT });
  return { venue, sql, run: () => housekeeping.run() };
}

test('T11: a lock is let go and completed by its holder alone', async () => {
  const { sql } = await scene();
  const acquire = (key: string, by: string | null, seconds = 60) =>
    sql.value("SELECT state FROM acquire_idempotency_key($1, 'pay', sha256('x'), $2, $3)", [key, by, seconds]);
  expect(await acquire('k-1', 'ann')).toBe('acquired');
  for (const stranger of ['bob', null]) {
    expect(await sql.value("SELECT release_idempotency_lock('k-1', false, 'pay', $1)", [stranger])).toBe(0);
    expect(await sql.value("SELECT release_idempotency_lock('k-1', true, 'pay', $1)", [stranger])).toBe(0);
    expect(await sql.value("SELECT complete_idempotency_key('k-1', 'pay', 200, '{}', $1)", [stranger])).toBe(false);
  }
  expect(await acquire('k-1', 'bob')).toBe('locked');
  // Taken over after it ran out: the first holder has it no more.
  expect(await acquire('k-2', 'ann', 0)).toBe('acquired');
  expect(await acquire('k-2', 'bob')).toBe('acquired');
  expect(await sql.value("SELECT release_idempotency_lock('k-2', false, 'pay', 'ann')")).toBe(0);
  expect(await sql.value("SELECT release_idempotency_lock('k-1', false, 'pay', 'ann')")).toBe(1);
});

test('T11: of five writers with one version one succeeds, and a statement of anybody’s own reaches the gates', async () => {
  const { sql, venue } = await scene();
  const version = await sql.value<number>("SELECT row_version FROM tickets WHERE ticket_id = 'T-1'");
  const written = await Promise.all(
    [1, 2, 3, 4, 5].map((n) =>
      sql.rows("UPDATE tickets SET note = $2 WHERE ticket_id = 'T-1' AND row_version = $1 RETURNING ticket_id", [version, `writer ${n}`]),
    ),
  );
  expect(written.filter((rows) => rows.length === 1)).toHaveLength(1);

  const before = await sql.value<number>('SELECT version FROM events WHERE event_id = $1', [venue.eventId]);
  await sql.rows('DELETE FROM outbox');
  await sql.rows("UPDATE tickets SET status = 'revoked' WHERE ticket_id IN ('T-2', 'T-3')");
  expect(
    await sql.rows(
      "SELECT t.row_version, t.changed_version = e.version AS told, e.version > $1 AS risen, (SELECT count(*)::integer FROM ticket_state_history h WHERE h.ticket_id = t.ticket_id AND h.new_status = 'revoked') AS history FROM tickets t JOIN events e USING (event_id) WHERE t.status = 'revoked'",
      [before],
    ),
  ).toEqual([
    { row_version: 2, told: true, risen: true, history: 1 },
    { row_version: 2, told: true, risen: true, history: 1 },
  ]);
  // Once for the statement, not once a ticket.
  expect(await sql.value("SELECT count(*)::integer FROM outbox WHERE kind = 'event'")).toBe(1);
});

test.each([
  'blocked = true',
  'max_scans = 7',
  "valid_until = now() + interval '1 day'",
  "zone = 'Z'",
  'units = 2',
  'vip = true',
  'approved = false',
  "user_id = 'u-1'",
])('T11: UPDATE tickets SET %s raises both versions', async (change) => {
  const { sql } = await scene();
  const [before] = await sql.rows<{ row_version: number; changed_version: number }>("SELECT row_version, changed_version FROM tickets WHERE ticket_id = 'T-1'");
  await sql.rows(`UPDATE tickets SET ${change} WHERE ticket_id = 'T-1'`);
  const [after] = await sql.rows<{ row_version: number; changed_version: number }>("SELECT row_version, changed_version FROM tickets WHERE ticket_id = 'T-1'");
  expect(after?.row_version).toBe((before?.row_version ?? 0) + 1);
  expect(after?.changed_version).toBeGreaterThan(before?.changed_version ?? 0);
});

test('T11: an entry raises no version of the ticket’s rights', async () => {
  const { sql, venue } = await scene();
  const [before] = await sql.rows('SELECT row_version, changed_version FROM tickets WHERE ticket_id = $1', ['T-1']);
  expect(await sql.value("SELECT allowed FROM scan_ticket_atomic('T-1', device => $1)", [venue.gates[0]])).toBe(true);
  expect(await sql.rows('SELECT row_version, changed_version, status FROM tickets WHERE ticket_id = $1', ['T-1'])).toEqual([
    { ...(before as object), status: 'checked_in' },
  ]);
});

test('T11: the job ends transactions, requests, offers, transfers and tickets that ran out, of no use to anybody, and no others', async () => {
  const { sql, venue, run } = await scene();
  await sql.rows("INSERT INTO ticket_types (tenant_id, event_id, tier) SELECT current_tenant_id(), $1, 'vip'", [venue.eventId]);
  const transaction = (ticket: string, signature: string, height: number | null) =>
    sql.rows("SELECT create_pending_transaction($1, $2, 'mint', NULL, NULL, $3)", [ticket, signature, height]);
  await transaction('T-1', 'old', null);
  await transaction('T-2', 'young', null);
  await transaction('T-3', 'passed by', 1_000);
  await transaction('T-4', 'done', 5_000);
  await sql.rows("SELECT confirm_transaction('done', 7)");
  await sql.rows("UPDATE pending_transactions SET submitted_at = now() - interval '30 days' WHERE tx_signature = 'old'");
  await sql.rows(
    "INSERT INTO multisig_approval_requests (tenant_id, operation, requested_by, required_approvals, expires_at) SELECT current_tenant_id(), o, 'ann', 2, e FROM (VALUES ('over', now() - interval '1 minute'), ('open', now() + interval '1 hour')) AS v (o, e)",
  );
  await sql.rows(
    "INSERT INTO waitlist (tenant_id, event_id, tier, user_id, status, offered_at) SELECT current_tenant_id(), $1, 'vip', u, s, o FROM (VALUES ('ann', 'offered', now() - interval '2 days'), ('bob', 'offered', now()), ('cid', 'waiting', NULL)) AS v (u, s, o)",
    [venue.eventId],
  );
  await sql.rows(
    "INSERT INTO ticket_transfers (tenant_id, event_id, ticket_id, to_user_id, expires_at) SELECT current_tenant_id(), $1, t, 'zoe', e FROM (VALUES ('T-1', now() - interval '1 second'), ('T-2', now() + interval '1 day')) AS v (t, e)",
    [venue.eventId],
  );
  await run();
  expect(await sql.rows('SELECT tx_signature, status FROM pending_transactions ORDER BY tx_signature')).toEqual([
    { tx_signature: 'done', status: 'confirmed' },
    { tx_signature: 'old', status: 'expired' },
    { tx_signature: 'passed by', status: 'expired' },
    { tx_signature: 'young', status: 'pending' },
  ]);
  expect(await sql.rows('SELECT operation, status FROM multisig_approval_requests ORDER BY operation')).toEqual([
    { operation: 'open', status: 'pending' },
    { operation: 'over', status: 'expired' },
  ]);
  expect(await sql.rows('SELECT user_id, status FROM waitlist ORDER BY user_id')).toEqual([
    { user_id: 'ann', status: 'expired' },
    { user_id: 'bob', status: 'offered' },
    { user_id: 'cid', status: 'offered' },
  ]);
  expect(await sql.rows('SELECT ticket_id, status FROM ticket_transfers ORDER BY ticket_id')).toEqual([
    { ticket_id: 'T-1', status: 'expired' },
    { ticket_id: 'T-2', status: 'pending' },
  ]);
  expect(await sql.value("SELECT count(*)::integer FROM tickets WHERE status = 'expired'")).toBe(0);
  await sql.rows("UPDATE tickets SET status = 'revoked' WHERE ticket_id = 'T-2'");
  await sql.rows("SELECT scan_ticket_atomic('T-3', device => $1)", [venue.gates[0]]);
  await sql.rows("UPDATE tickets SET valid_until = now() + interval '1 year' WHERE ticket_id = 'T-4'");
  await sql.rows("UPDATE events SET starts_at = now() - interval '5 days', ends_at = now() - interval '3 days' WHERE event_id = $1", [venue.eventId]);
  await run();
  expect(
    await sql.rows('SELECT t.ticket_id, t.status, t.changed_version = e.version AS told FROM tickets t JOIN events e USING (event_id) ORDER BY t.ticket_id'),
  ).toMatchObject([
    { ticket_id: 'T-1', status: 'expired', told: true },
    { ticket_id: 'T-2', status: 'revoked' },
    { ticket_id: 'T-3', status: 'checked_in' },
    { ticket_id: 'T-4', status: 'minted' },
  ]);
  expect(await sql.rows("SELECT previous_status, reason, source FROM ticket_state_history WHERE new_status = 'expired'")).toEqual([
    { previous_status: 'sold', reason: 'its event is over', source: 'housekeeping' },
  ]);
});

test('T11: an open transaction that the chain cannot take any more is replaced by the next one of its ticket', async () => {
  const { sql } = await scene();
  await sql.rows("SELECT create_pending_transaction('T-1', 'old', 'mint')");
  expect(await sql.refusal("SELECT create_pending_transaction('T-1', 'new', 'mint')")).toEqual([409, 'NOT_ALLOWED']);
  await sql.rows("UPDATE pending_transactions SET submitted_at = now() - interval '30 days'");
  await sql.rows("SELECT create_pending_transaction('T-1', 'new', 'mint')");
  expect(await sql.rows('SELECT tx_signature, status FROM pending_transactions ORDER BY tx_signature')).toEqual([
    { tx_signature: 'new', status: 'pending' },
    { tx_signature: 'old', status: 'replaced' },
  ]);
  expect(await sql.value('SELECT expire_transactions(100)')).toBe(0);
  await sql.rows("UPDATE pending_transactions SET last_valid_block_height = 99 WHERE tx_signature = 'new'");
  expect(await sql.value('SELECT expire_transactions(100)')).toBe(1);
});
