/** The twelve states of a ticket: which changes the database allows, and what it keeps of each. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TICKET_STATES, type TicketState } from '../../contract/manifest.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { businessErrorOf, connectOwner, sqlState } from '../db/database.ts';
import { reconcile } from '../reconcile/reconcile.ts';
import { applyAction } from './actions.ts';
import { lockEvent, writeTickets } from './write-tickets.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

const rowsOf = async <Row = Record<string, unknown>>(venue: Venue, sql: string, values: readonly unknown[] = []): Promise<Row[]> =>
  (await fresh.database.withTenant(venue.tenantId, (client) => client.query<Row>(sql, values))).rows;
const failureOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => null,
    (error: unknown) => error,
  );

test('every one of the 144 pairs is allowed or refused as the table says, and a refusal can be shown', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 1 });
  const refused: string[] = [];
  for (const from of TICKET_STATES) {
    const [next] = await rowsOf<{ next: TicketState[] }>(venue, 'SELECT next_ticket_statuses($1)::text[] AS next', [from]);
    for (const to of TICKET_STATES) {
      // Any state can be put into a new ticket; from there on the rules hold.
      await rowsOf(venue, 'DELETE FROM tickets');
      await rowsOf(
        venue,
        "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier, status) VALUES ($1, 'EV1', 'T-1', decode(repeat('00', 16), 'hex'), 'standard', $2)",
        [venue.tenantId, from],
      );
      const error = await failureOf(rowsOf(venue, 'UPDATE tickets SET status = $1', [to]));
      const allowed = from === to || next?.next.includes(to) === true;
      expect([from, to, error === null]).toEqual([from, to, allowed]);
      if (error !== null) {
        expect(businessErrorOf(error)).toEqual({ status: 409, code: 'NOT_ALLOWED', message: `ticket T-1 is ${from}: it cannot become ${to}` });
        refused.push(`${from} ${to}`);
      }
    }
  }
  // What nothing brings back, and an entry that no gate reported.
  for (const pair of [
    'refunded sold',
    'revoked active',
    'cancelled sold',
    'expired checked_in',
    'used sold',
    'checked_in sold',
    'sold available',
    'available checked_in',
    'reserved used',
  ])
    expect(refused).toContain(pair);
});

test('every change is kept with who, why and from where; nobody changes what is kept', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 3 });
  await fresh.database.withTenant(venue.tenantId, async (client) => {
    await client.query("SELECT set_status_change_context('staff-7', 'admin', 'double sale', 'console')");
    await client.query("UPDATE tickets SET status = 'revoked' WHERE ticket_id = 'T-1'");
    await client.query("UPDATE tickets SET note = 'no change of state' WHERE ticket_id = 'T-2'");
  });
  // The context went with the transaction.
  await rowsOf(venue, "UPDATE tickets SET status = 'refunded' WHERE ticket_id = 'T-1'");
  expect(
    await rowsOf(venue, "SELECT previous_status, new_status, changed_by, actor_type, reason, source, irregular FROM get_ticket_state_history('T-1', 10)"),
  ).toEqual([
    { previous_status: 'revoked', new_status: 'refunded', changed_by: null, actor_type: 'system', reason: null, source: 'database', irregular: false },
    { previous_status: 'sold', new_status: 'revoked', changed_by: 'staff-7', actor_type: 'admin', reason: 'double sale', source: 'console', irregular: false },
  ]);
  expect(await rowsOf(venue, "SELECT count(*) AS n FROM get_ticket_state_history('T-1', 1)")).toEqual([{ n: 1 }]);
  expect(await rowsOf(venue, "SELECT status_changed_by, status_reason FROM tickets WHERE ticket_id = 'T-1'")).toEqual([
    { status_changed_by: null, status_reason: null },
  ]);
  expect(await rowsOf(venue, "SELECT 1 FROM get_ticket_state_history('T-2')")).toEqual([]);

  await rowsOf(venue, "SELECT log_ticket_status_change_manual('T-2', 'sold', 'sold', 'staff-7', 'seen with a copy')");
  expect(await rowsOf(venue, "SELECT changed_by, actor_type, reason, source FROM get_ticket_state_history('T-2')")).toEqual([
    { changed_by: 'staff-7', actor_type: 'admin', reason: 'seen with a copy', source: 'manual' },
  ]);
  expect(businessErrorOf(await failureOf(rowsOf(venue, "SELECT log_ticket_status_change_manual('T-2', 'sold', 'sold', '', 'x')")))).toMatchObject({
    status: 400,
  });
  for (const sql of ["UPDATE ticket_state_history SET reason = 'x'", 'DELETE FROM ticket_state_history'])
    expect(sqlState(await failureOf(rowsOf(venue, sql)))).toBe('42501');
  expect(businessErrorOf(await failureOf(rowsOf(venue, "SELECT * FROM get_ticket_state_history('T-9')")))).toEqual({
    status: 404,
    code: 'NO_SUCH_TICKET',
    message: 'there is no ticket T-9',
  });
});

test('gates make their changes in sets: entered, given back, entered again, all in the history as the ledger’s', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 300 });
  const north = testLedger(venue, 0);
  const grants = venue.tickets.map((ticket, index) => north.grant(ticket, index));
  await fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()));
  expect(
    await rowsOf(venue, 'SELECT count(*) AS n, count(DISTINCT ticket_id) AS tickets, min(source) AS source, min(reason) AS reason FROM ticket_state_history'),
  ).toEqual([{ n: 300, tickets: 300, source: 'ledger', reason: 'first entry' }]);
  const first = grants[0];
  if (first === undefined) throw new Error('no grant');
  const back = north.passage(first, 400, 'returned');
  await fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, north.rows([back])));
  const again = north.grant(venue.tickets[0] as TestTicket, 60_000);
  // A setting of the transaction does not make it the ticketing side's.
  await fresh.database.withTenant(venue.tenantId, async (client) => {
    await client.query("SELECT set_config('app.status_change_source', 'ticketing', true)");
    await reconcile(client, north.rows([again]));
  });
  expect(await rowsOf(venue, "SELECT previous_status, new_status, reason, source, irregular FROM get_ticket_state_history('T-1')")).toEqual([
    { previous_status: 'sold', new_status: 'checked_in', reason: 'first entry', source: 'ledger', irregular: false },
    { previous_status: 'checked_in', new_status: 'sold', reason: 'the entry was given back', source: 'ledger', irregular: false },
    { previous_status: 'sold', new_status: 'checked_in', reason: 'first entry', source: 'ledger', irregular: false },
  ]);
  // What a gate says of a refunded ticket is a conflict of people, never an error of the account.
  await rowsOf(venue, "UPDATE tickets SET status = 'refunded' WHERE ticket_id = 'T-2'");
  const south = testLedger(venue, 1);
  south.grant(venue.tickets[1] as TestTicket, 90_000);
  expect(await fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, south.rows()))).toMatchObject({ stored: 1 });
  expect(await rowsOf(venue, "SELECT status FROM tickets WHERE ticket_id = 'T-2'")).toEqual([{ status: 'refunded' }]);
});

test('actions and writes of the ticketing side leave their mark; what only it may say is kept as irregular', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 2 });
  await fresh.database.withTenant(venue.tenantId, (client) =>
    applyAction(client, venue.tenantId, { ticketId: 'T-1', action: 'refund', actor: 'staff-3', reason: 'ill' }),
  );
  await fresh.database.withTenant(venue.tenantId, async (client) => {
    const event = await lockEvent(client, 'EV1');
    if (event === null) throw new Error('no event');
    await writeTickets(client, venue.tenantId, event, [
      { ticket_id: 'T-1', status: 'sold' },
      { ticket_id: 'T-2', status: 'active' },
    ]);
  });
  expect(
    await rowsOf(venue, 'SELECT ticket_id, previous_status, new_status, changed_by, reason, source, irregular FROM ticket_state_history ORDER BY id'),
  ).toEqual([
    { ticket_id: 'T-1', previous_status: 'sold', new_status: 'refunded', changed_by: 'staff-3', reason: 'ill', source: 'refund', irregular: false },
    { ticket_id: 'T-1', previous_status: 'refunded', new_status: 'sold', changed_by: null, reason: null, source: 'ticketing', irregular: true },
    { ticket_id: 'T-2', previous_status: 'sold', new_status: 'active', changed_by: null, reason: null, source: 'ticketing', irregular: false },
  ]);
});

test('may it check in? State, block, approval, payment and times, each with its reason', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 1 });
  const ask = async (set: string, args = "'T-1', now() - interval '1 hour', now() + interval '1 hour'") =>
    fresh.database
      .withTenant(venue.tenantId, async (client) => {
        await client.query("SELECT set_config('app.status_change_source', 'ticketing', true)");
        if (set !== '') await client.query(`UPDATE tickets SET ${set}`);
        return (await client.query<{ can_check_in: boolean; reason: string | null }>(`SELECT can_check_in, reason FROM can_check_in_ticket(${args})`)).rows[0];
      })
      .then(async (answer) => {
        await rowsOf(venue, 'DELETE FROM tickets');
        await rowsOf(
          venue,
          "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier) VALUES ($1, 'EV1', 'T-1', decode(repeat('00', 16), 'hex'), 'standard')",
          [venue.tenantId],
        );
        return answer === undefined ? null : [answer.can_check_in, answer.reason];
      });
  expect(await ask('')).toEqual([true, null]);
  expect(await ask('', "'T-1'")).toEqual([true, null]);
  expect(await ask("status = 'available'")).toEqual([false, 'invalid']);
  expect(await ask("status = 'reserved'")).toEqual([false, 'unpaid']);
  expect(await ask("status = 'revoked'")).toEqual([false, 'revoked']);
  expect(await ask("status = 'cancelled'")).toEqual([false, 'canceled']);
  expect(await ask("status = 'expired'")).toEqual([false, 'invalid_time']);
  expect(await ask("status = 'used'")).toEqual([false, 'already_redeemed']);
  expect(await ask('blocked = true')).toEqual([false, 'blocked']);
  expect(await ask('approved = false')).toEqual([false, 'unapproved']);
  expect(await ask("valid_from = now() + interval '1 minute'")).toEqual([false, 'invalid_time']);
  expect(await ask("valid_until = now() - interval '1 minute'")).toEqual([false, 'invalid_time']);
  expect(await ask('', "'T-1', now() + interval '1 minute', NULL")).toEqual([false, 'invalid_time']);
  expect(await ask('', "'T-1', NULL, now() - interval '1 minute'")).toEqual([false, 'invalid_time']);
});

test('prices, counts, dates and numbers that cannot be are refused by the database', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 2 });
  const set = async (what: string) => sqlState(await failureOf(rowsOf(venue, `UPDATE tickets SET ${what} WHERE ticket_id = 'T-1'`)));
  for (const wrong of [
    'price_cents = -1',
    'face_value_cents = -1',
    'resale_price_cents = -1',
    'max_transfers = 0',
    'transfer_count = -1',
    'scan_count = -1',
    "currency = 'euro'",
    "token_mint = 'm'",
    'price_cents = 100, max_resale_price_cents = 99',
    'max_resale_price_cents = 5, resale_price_cents = 6',
    'max_transfers = 1, transfer_count = 2',
    "valid_from = now(), valid_until = now() - interval '1 s'",
    'deleted_at = now()',
  ]) {
    expect([wrong, await set(wrong)]).toEqual([wrong, '23514']);
  }
  expect(
    await set(
      "price_cents = 100, max_resale_price_cents = 110, ticket_number = 'N-1', is_nft = true, token_mint = 'm', section = 'B', seat_row = '12', seat = '7'",
    ),
  ).toBeNull();
  for (const twice of ["ticket_number = 'N-1'", "is_nft = true, token_mint = 'm'"])
    expect(sqlState(await failureOf(rowsOf(venue, `UPDATE tickets SET ${twice} WHERE ticket_id = 'T-2'`)))).toBe('23505');
  expect(await rowsOf(venue, "SELECT ticket_id FROM search_tickets('n-1')")).toEqual([{ ticket_id: 'T-1' }]);
  expect(await rowsOf(venue, "SELECT ticket_id FROM search_tickets('T-2')")).toEqual([{ ticket_id: 'T-2' }]);
  expect(await rowsOf(venue, `SELECT price::text, is_validated, "row" FROM ticket_overview WHERE id = 'T-1'`)).toMatchObject([
    { is_validated: false, row: '12' },
  ]);
  // The text index is used where there is something to search.
  const owner = await connectOwner(fresh.url);
  try {
    await owner.query('BEGIN; SET LOCAL enable_seqscan = off');
    const { rows } = await owner.query<{ 'QUERY PLAN': string }>(
      "EXPLAIN SELECT 1 FROM tickets t WHERE (ticket_number IS NOT NULL OR seat IS NOT NULL OR note IS NOT NULL) AND ticket_text(ticket_id, ticket_number, section, seat_row, seat, note) @@ plainto_tsquery('simple'::regconfig, 'B 12')",
    );
    expect(rows.map((row) => row['QUERY PLAN']).join('\n')).toContain('tickets_text');
    await owner.query('ROLLBACK');
  } finally {
    await owner.close();
  }
});

test('an entry changes no index of tickets: a scan stays cheap', async () => {
  const owner = await connectOwner(fresh.url);
  try {
    const { rows } = await owner.query(`SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = 'tickets'::regclass
      AND pg_get_indexdef(i.indexrelid) ~ '(status|scan_count|first_scanned_at|last_scanned_at|updated_at)'`);
    expect(rows).toEqual([]);
  } finally {
    await owner.close();
  }
});
