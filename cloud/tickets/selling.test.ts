/** Selling: nothing is sold twice, nothing is lost, and every refusal says why. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue } from '../../testkit/database.ts';
import { asTenant } from '../../testkit/tenant-session.ts';
import { createDatabase, type Database } from '../db/database.ts';

let fresh: FreshDatabase;
let wide: Database;
beforeAll(async () => {
  fresh = await freshDatabase();
  wide = createDatabase({ url: fresh.servingUrl, maxConnections: 12 });
});
afterAll(async () => {
  await wide.close();
  await fresh.drop();
});

async function shop(quantity: number | null, more = '') {
  const venue = await makeVenue(fresh.url, { tickets: 2 });
  const sql = asTenant(wide, venue);
  await sql.rows(`UPDATE ticket_types SET quantity = $1 ${more}`, [quantity]);
  const reserve = (count: number, user = 'u-1') =>
    sql.refusal("INSERT INTO reservations (tenant_id, event_id, tier, quantity, user_id) VALUES ($1, 'EV1', 'standard', $2, $3)", [
      venue.tenantId,
      count,
      user,
    ]);
  const stock = async () =>
    (
      await sql.rows('SELECT reserved_quantity AS reserved, sold_quantity AS sold, held_quantity AS held, available_quantity AS available FROM ticket_types')
    )[0];
  return { venue, sql, reserve, stock };
}

test('a reservation takes, confirming sells, expiring and cancelling give back; each with its line', async () => {
  const { sql, reserve, stock } = await shop(5);
  expect([await reserve(2), await reserve(2), await reserve(2)]).toEqual([null, null, [409, 'SOLD_OUT']]);
  expect(await stock()).toEqual({ reserved: 4, sold: 0, held: 0, available: 1 });
  const ids = (await sql.rows<{ id: string }>('SELECT reservation_id AS id FROM reservations ORDER BY created_at')).map(({ id }) => id);
  await sql.rows("UPDATE reservations SET status = 'confirmed' WHERE reservation_id = $1", [ids[0]]);
  await sql.rows("UPDATE reservations SET status = 'cancelled' WHERE reservation_id = $1", [ids[1]]);
  expect(await stock()).toEqual({ reserved: 0, sold: 2, held: 0, available: 3 });
  expect(await sql.refusal("UPDATE reservations SET status = 'active' WHERE reservation_id = $1", [ids[0]])).toEqual([409, 'NOT_ALLOWED']);
  expect(await sql.refusal("UPDATE reservations SET status = 'confirmed' WHERE reservation_id = $1", [ids[1]])).toEqual([409, 'NOT_ALLOWED']);
  expect(await sql.refusal('UPDATE reservations SET quantity = 1 WHERE reservation_id = $1', [ids[0]])).toEqual([409, 'NOT_ALLOWED']);
  // Sold ones may be cancelled too.
  await sql.rows("UPDATE reservations SET status = 'cancelled' WHERE reservation_id = $1", [ids[0]]);
  expect(await stock()).toEqual({ reserved: 0, sold: 0, held: 0, available: 5 });
  // Overdue ones are given back when somebody else asks, without any clockwork.
  await reserve(5);
  await sql.rows("UPDATE reservations SET expires_at = now() - interval '1 second' WHERE status = 'active'");
  expect(await sql.refusal("UPDATE reservations SET status = 'confirmed' WHERE status = 'active'")).toEqual([409, 'EXPIRED']);
  expect(await reserve(5, 'u-2')).toBeNull();
  expect(await stock()).toEqual({ reserved: 5, sold: 0, held: 0, available: 0 });
  await sql.rows("UPDATE reservations SET expires_at = now() - interval '1 second' WHERE status = 'active'");
  expect([await sql.value('SELECT expire_reservations()'), await sql.value('SELECT expire_reservations()')]).toEqual([1, 0]);
  expect(await sql.rows('SELECT previous_status, new_status, count(*) AS n FROM reservation_history GROUP BY 1, 2 ORDER BY 1 NULLS FIRST, 2')).toEqual([
    { previous_status: null, new_status: 'active', n: 4 },
    { previous_status: 'active', new_status: 'cancelled', n: 1 },
    { previous_status: 'active', new_status: 'confirmed', n: 1 },
    { previous_status: 'active', new_status: 'expired', n: 2 },
    { previous_status: 'confirmed', new_status: 'cancelled', n: 1 },
  ]);
  expect(await sql.refusal('DELETE FROM reservations')).toBe('42501');
  expect(await sql.refusal('UPDATE ticket_types SET quantity = 0, sold_quantity = 1')).toBe('23514');
});

test('sixty buyers at once for fifty places: exactly fifty get one', async () => {
  const { reserve, stock } = await shop(50);
  const said = await Promise.all(Array.from({ length: 60 }, (_, n) => reserve(1, `u-${n}`)));
  expect(said.filter((answer) => answer === null)).toHaveLength(50);
  expect(said.filter((answer) => answer !== null)).toEqual(Array.from({ length: 10 }, () => [409, 'SOLD_OUT']));
  expect(await stock()).toEqual({ reserved: 50, sold: 0, held: 0, available: 0 });
});

test('times of sale, how many at once, and types that are not there', async () => {
  const { venue, sql, reserve } = await shop(null, ', max_per_order = 4');
  expect([await reserve(4), await reserve(5)]).toEqual([null, [409, 'TOO_MANY']]);
  await sql.rows("UPDATE ticket_types SET sale_starts_at = now() + interval '1 hour'");
  expect(await reserve(1)).toEqual([409, 'NOT_ON_SALE']);
  expect(await sql.refusal("INSERT INTO reservations (tenant_id, event_id, tier, quantity) VALUES ($1, 'EV1', 'golden', 1)", [venue.tenantId])).toEqual([
    404,
    'NO_SUCH_TICKET_TYPE',
  ]);
  for (const wrong of ["sale_ends_at = now() - interval '1 day'", 'price_cents = -1', 'price_cents = 10, max_resale_price_cents = 9', "currency = 'x'"])
    expect([wrong, await sql.refusal(`UPDATE ticket_types SET ${wrong}`)]).toEqual([wrong, '23514']);
});

test('holds keep places back, and whoever waits longest is told when some come free', async () => {
  const { venue, sql, reserve, stock } = await shop(4);
  const hold = () =>
    sql.refusal("INSERT INTO ticket_holds (tenant_id, event_id, tier, quantity, reason) VALUES ($1, 'EV1', 'standard', 3, 'sponsor')", [venue.tenantId]);
  expect([await hold(), await hold(), await reserve(2), await reserve(1)]).toEqual([null, [409, 'SOLD_OUT'], [409, 'SOLD_OUT'], null]);
  const wait = (user: string, count: number) =>
    sql.refusal("INSERT INTO waitlist (tenant_id, event_id, tier, user_id, quantity) VALUES ($1, 'EV1', 'standard', $2, $3)", [venue.tenantId, user, count]);
  expect([await wait('u-a', 2), await wait('u-b', 2), await wait('u-c', 1), await wait('u-a', 1)]).toEqual([null, null, null, '23505']);
  await sql.rows('UPDATE ticket_holds SET released_at = now()');
  expect(await sql.refusal('UPDATE ticket_holds SET released_at = NULL')).toEqual([409, 'NOT_ALLOWED']);
  expect(await stock()).toEqual({ reserved: 1, sold: 0, held: 0, available: 3 });
  // In order, as far as it reaches: the second wants more than is left, and nobody passes them.
  expect(await sql.rows('SELECT user_id, status FROM waitlist ORDER BY waitlist_id')).toEqual([
    { user_id: 'u-a', status: 'offered' },
    { user_id: 'u-b', status: 'waiting' },
    { user_id: 'u-c', status: 'waiting' },
  ]);
  const taken = await Promise.all([1, 2].map(() => sql.rows('SELECT kind, user_id FROM take_ticket_notifications()')));
  expect(taken.flat()).toEqual([{ kind: 'waitlist_offer', user_id: 'u-a' }]);
});

test('a price that changes is kept, with who and why', async () => {
  const { venue, sql } = await shop(10, ', price_cents = 1000');
  await wide.withTenant(venue.tenantId, async (client) => {
    await client.query("SELECT set_status_change_context('staff-1', 'admin', 'early bird ends')");
    await client.query('UPDATE ticket_types SET price_cents = 1500');
    await client.query("UPDATE ticket_types SET name = 'Standard'");
  });
  expect(await sql.rows('SELECT old_price_cents, new_price_cents, changed_by, reason FROM ticket_price_history ORDER BY id')).toEqual([
    { old_price_cents: null, new_price_cents: 1000, changed_by: null, reason: null },
    { old_price_cents: 1000, new_price_cents: 1500, changed_by: 'staff-1', reason: 'early bird ends' },
  ]);
  expect(await sql.refusal('DELETE FROM ticket_price_history')).toBe('42501');
  const version = await sql.value<number>('SELECT row_version FROM ticket_types');
  expect(await sql.rows('UPDATE ticket_types SET price_cents = 1 WHERE row_version = $1 RETURNING 1', [version - 1])).toEqual([]);
});

test('a discount is used as often as it may be, by many at once too', async () => {
  const { venue, sql } = await shop(10);
  const [discount] = await sql.rows<{ discount_id: string }>(
    "INSERT INTO discounts (tenant_id, code, percent, max_uses, min_order_cents) VALUES ($1, 'SUMMER', 12.5, 3, 500) RETURNING discount_id",
    [venue.tenantId],
  );
  for (let n = 0; n < 8; n++)
    await sql.rows("INSERT INTO orders (tenant_id, order_id, user_id, status, total_cents, currency) VALUES ($1, $2, 'u-1', 'paid', $3, 'EUR')", [
      venue.tenantId,
      `o-${n}`,
      n === 7 ? 400 : 1001,
    ]);
  const use = (order: string) =>
    sql.refusal('INSERT INTO order_discounts (tenant_id, order_id, discount_id) VALUES ($1, $2, $3)', [venue.tenantId, order, discount?.discount_id]);
  expect(await use('o-7')).toEqual([409, 'NOT_ALLOWED']);
  const said = await Promise.all(Array.from({ length: 7 }, (_, n) => use(`o-${n}`)));
  expect(said.filter((answer) => answer === null)).toHaveLength(3);
  expect(said.filter((answer) => answer !== null)).toEqual(Array.from({ length: 4 }, () => [409, 'USED_UP']));
  expect(await sql.rows('SELECT DISTINCT amount_cents FROM order_discounts')).toEqual([{ amount_cents: 125 }]);
  for (const wrong of ["'x', NULL, 5", "'X', 5, 5", "'X', NULL, NULL", "'X', 101, NULL"])
    expect([wrong, await sql.refusal(`INSERT INTO discounts (tenant_id, code, percent, amount_cents) VALUES ('${venue.tenantId}', ${wrong})`)]).toEqual([
      wrong,
      '23514',
    ]);
});

test('a user’s counts follow what is, however often they are counted', async () => {
  const { venue, sql } = await shop(10);
  await sql.rows("INSERT INTO orders (tenant_id, order_id, user_id, status, total_cents) VALUES ($1, 'o-1', 'ann', 'paid', 4200)", [venue.tenantId]);
  await sql.rows("UPDATE tickets SET user_id = 'ann', order_id = 'o-1'");
  expect(await sql.rows('SELECT user_id, tickets_owned, events_attended FROM users')).toEqual([{ user_id: 'ann', tickets_owned: 2, events_attended: 0 }]);
  await sql.rows("UPDATE tickets SET user_id = 'bob' WHERE ticket_id = 'T-1'");
  expect(await sql.rows('SELECT user_id, tickets_owned FROM users ORDER BY 1')).toEqual([
    { user_id: 'ann', tickets_owned: 1 },
    { user_id: 'bob', tickets_owned: 1 },
  ]);
  await sql.rows("SELECT * FROM scan_ticket_atomic('T-1')");
  expect(await sql.rows("SELECT tickets_owned, events_attended FROM user_ticket_stats WHERE user_id = 'bob'")).toEqual([
    { tickets_owned: 1, events_attended: 1 },
  ]);
  expect(await Promise.all(Array.from({ length: 4 }, () => sql.value("SELECT update_user_events_attended('bob')")))).toEqual([1, 1, 1, 1]);
  const [ann] = await Promise.all([
    sql.rows("SELECT tickets_owned, tickets_bought, spent_cents FROM update_user_ticket_stats('ann')"),
    sql.rows("SELECT update_user_ticket_stats('ann')"),
  ]);
  expect(ann).toEqual([{ tickets_owned: 1, tickets_bought: 2, spent_cents: 4200 }]);
  expect(await sql.rows("SELECT tickets_owned FROM update_user_ticket_stats('nobody')")).toEqual([{ tickets_owned: 0 }]);
  // A ticket that is imported with its holder counts at once.
  await sql.rows(
    "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier, user_id) VALUES ($1, 'EV1', 'T-9', decode(repeat('09', 16), 'hex'), 'standard', 'bob')",
    [venue.tenantId],
  );
  expect(await sql.value("SELECT tickets_owned FROM users WHERE user_id = 'bob'")).toBe(2);
});

test('bundles hold what exists, for what is not less than nothing', async () => {
  const { venue, sql } = await shop(10);
  const id = await sql.value("INSERT INTO ticket_bundles (tenant_id, event_id, name, price_cents) VALUES ($1, 'EV1', 'Family', 5000) RETURNING bundle_id", [
    venue.tenantId,
  ]);
  const item = (tier: string, count: number) =>
    sql.refusal("INSERT INTO ticket_bundle_items (tenant_id, event_id, bundle_id, tier, quantity) VALUES ($1, 'EV1', $2, $3, $4)", [
      venue.tenantId,
      id,
      tier,
      count,
    ]);
  expect([await item('standard', 4), await item('golden', 1), await item('standard', 0)]).toEqual([null, '23503', '23514']);
});
