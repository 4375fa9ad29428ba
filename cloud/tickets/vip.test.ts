/** VIP: first entry and re-entry by one door, gates' entries in the same log, linked tickets, reservations and their states. */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { businessErrorOf, connectOwner, createDatabase, type Database, sqlState } from '../db/database.ts';
import { reconcile } from '../reconcile/reconcile.ts';
import { scanVip } from '../scan/testing/sql-doors.ts';
import { ticketRef } from './codes/code-hash.ts';

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

const rowsOf = async <Row = Record<string, unknown>>(venue: Venue, sql: string, values: readonly unknown[] = []): Promise<Row[]> =>
  (await wide.withTenant(venue.tenantId, (client) => client.query<Row>(sql, values))).rows;
const failureOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => null,
    (error: unknown) => error,
  );
const refOf = (venue: Venue, token: string) => ticketRef(Buffer.from(venue.salt, 'hex'), token);

interface VipScan {
  readonly allowed: boolean;
  readonly scan_type: string;
  readonly reason: string | null;
  readonly message: string | null;
  readonly last_entry_at: Date | null;
  readonly entries: number;
  readonly checked_in_guests: number;
  readonly reservation_status: string;
}
const vipScan = async (venue: Venue, token: string, by = 'Host desk'): Promise<VipScan> =>
  (await rowsOf<VipScan>(venue, 'SELECT * FROM process_vip_scan_with_reentry($1, $2, $3)', [venue.eventId, refOf(venue, token), by]))[0] as VipScan;

interface Party {
  readonly reservation: string;
  readonly tokens: readonly string[];
  /** The pass tickets, as gates know them. */
  readonly tickets: readonly TestTicket[];
}
async function party(venue: Venue, guests: number, status = 'confirmed'): Promise<Party> {
  const [made] = await rowsOf<{ reservation_id: string }>(
    venue,
    "INSERT INTO vip_reservations (tenant_id, event_id, label, guest_count) VALUES ($1, $2, 'Table 4', $3) RETURNING reservation_id",
    [venue.tenantId, venue.eventId, guests],
  );
  const reservation = made?.reservation_id ?? '';
  const tokens = Array.from({ length: guests }, (_, index) => `VIP-TEST-GUEST-${String(index + 1).padStart(2, '0')}-${randomBytes(4).toString('hex')}`);
  const tickets: TestTicket[] = [];
  for (const code of tokens) {
    const [pass] = await rowsOf<{ ticket_id: string }>(venue, 'SELECT ticket_id FROM issue_vip_pass($1, $2)', [reservation, refOf(venue, code)]);
    tickets.push({ ticketId: pass?.ticket_id ?? '', code, ticketRef: refOf(venue, code).toString('hex') });
  }
  if (status !== 'pending') await rowsOf(venue, 'SELECT set_vip_reservation_status($1, $2)', [reservation, status]);
  return { reservation, tokens, tickets };
}
const reservationOf = async (venue: Venue, reservation: string) =>
  (await rowsOf(venue, 'SELECT status, checked_in_guests FROM vip_reservations WHERE reservation_id = $1', [reservation]))[0];

test('five first entries at once, then five re-entries at once: counts and log lines exact, three runs in a row', { timeout: 120_000 }, async () => {
  const venue = await makeVenue(fresh.url);
  const { reservation, tokens } = await party(venue, 5);
  for (let run = 1; run <= 3; run++) {
    const first = await Promise.all(tokens.map((token) => vipScan(venue, token)));
    expect(first.map(({ allowed, scan_type, last_entry_at }) => [allowed, scan_type, last_entry_at])).toEqual(tokens.map(() => [true, 'first_entry', null]));
    expect(await reservationOf(venue, reservation)).toEqual({ status: 'checked_in', checked_in_guests: 5 });
    const again = await Promise.all(tokens.map((token) => vipScan(venue, token)));
    expect(again.map(({ allowed, scan_type, entries, checked_in_guests }) => [allowed, scan_type, entries, checked_in_guests])).toEqual(
      tokens.map(() => [true, 'reentry', 2, 5]),
    );
    expect(again.every(({ last_entry_at }) => last_entry_at instanceof Date)).toBe(true);
    expect(await reservationOf(venue, reservation)).toEqual({ status: 'checked_in', checked_in_guests: 5 });
    expect(
      await rowsOf(
        venue,
        "SELECT count(*) AS lines, count(DISTINCT (gate, epoch, seq)) AS once, count(*) FILTER (WHERE scan_type = 'reentry') AS reentries, count(DISTINCT pass_id) FILTER (WHERE scan_type = 'reentry') AS guests_again, count(*) FILTER (WHERE scanned_by = 'Host desk') AS signed, count(*) FILTER (WHERE given_back) AS back FROM vip_scan_logs",
      ),
    ).toEqual([{ lines: 10, once: 10, reentries: 5, guests_again: 5, signed: 10, back: 0 }]);
    // Back to the start, for tests only.
    expect(businessErrorOf(await failureOf(rowsOf(venue, 'SELECT reset_vip_test_state($1)', [reservation])))).toMatchObject({ status: 403 });
    await wide.withTenant(venue.tenantId, async (client) => {
      await client.query("SELECT set_config('stile.test_mode', 'on', true)");
      expect((await client.query('SELECT reset_vip_test_state($1) AS settled', [reservation])).rows).toEqual([{ settled: 10 }]);
    });
    expect(await reservationOf(venue, reservation)).toEqual({ status: 'confirmed', checked_in_guests: 0 });
    expect(await rowsOf(venue, "SELECT count(*) AS issued FROM vip_guest_passes WHERE status = 'issued' AND entries = 0")).toEqual([{ issued: 5 }]);
  }
  // Grants = winners + re-entries + … held through it all.
  expect(
    await rowsOf(
      venue,
      'SELECT sum(grants - winners - reentries - exits - excess - annulled)::integer AS off, sum(annulled)::integer AS annulled FROM gate_counts',
    ),
  ).toEqual([{ off: 0, annulled: 30 }]);
});

test('resetting is refused in a database that is not a test’s, whatever is set', async () => {
  const owner = await connectOwner(fresh.url);
  const name = `venue_${randomBytes(4).toString('hex')}`;
  try {
    // The function looks at the database's name: the same database under a real one's.
    const [{ source } = { source: '' }] = (await owner.query<{ source: string }>("SELECT prosrc AS source FROM pg_proc WHERE proname = 'is_test_database'"))
      .rows;
    expect(
      source === '' ? (await owner.query<{ def: string }>("SELECT pg_get_functiondef('is_test_database'::regproc) AS def")).rows[0]?.def : source,
    ).toContain('current_database()');
    await owner.query("SET stile.test_mode = 'on'");
    expect((await owner.query('SELECT is_test_database() AS yes')).rows).toEqual([{ yes: true }]);
  } finally {
    await owner.close();
  }
  const other = await freshDatabase();
  await other.database.close();
  const admin = await connectOwner(fresh.adminUrl);
  try {
    await admin.query(`ALTER DATABASE ${new URL(other.url).pathname.slice(1)} RENAME TO ${name}`);
    const renamed = await connectOwner(Object.assign(new URL(other.url), { pathname: `/${name}` }).href);
    await renamed.query("SET stile.test_mode = 'on'");
    expect((await renamed.query('SELECT is_test_database() AS yes')).rows).toEqual([{ yes: false }]);
    expect(businessErrorOf(await failureOf(renamed.query('SELECT reset_vip_test_state(gen_random_uuid())')))).toMatchObject({ status: 403 });
    await renamed.close();
  } finally {
    await admin.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
    await admin.close();
  }
});

test('what gates let in is in the same log and the same counts; what is given back is taken off', async () => {
  const venue = await makeVenue(fresh.url);
  const { reservation, tokens, tickets } = await party(venue, 3);
  const [north, south] = [testLedger(venue, 0), testLedger(venue, 1)];
  const grant = north.grant(tickets[0] as TestTicket, 0);
  const later = south.grant(tickets[0] as TestTicket, 60_000);
  north.grant(tickets[1] as TestTicket, 5_000);
  // The later one arrives first: its line is corrected when the earlier one is known.
  await wide.withTenant(venue.tenantId, (client) => reconcile(client, south.rows()));
  expect(await rowsOf(venue, 'SELECT scan_type FROM vip_scan_logs')).toEqual([{ scan_type: 'first_entry' }]);
  await wide.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()));
  expect(await rowsOf(venue, 'SELECT gate, seq, scan_type, previous_entry_at IS NOT NULL AS had_before FROM vip_scan_logs ORDER BY scanned_at')).toEqual([
    { gate: north.gate, seq: grant.seq, scan_type: 'first_entry', had_before: false },
    { gate: north.gate, seq: 2, scan_type: 'first_entry', had_before: false },
    { gate: south.gate, seq: later.seq, scan_type: 'reentry', had_before: true },
  ]);
  expect(await reservationOf(venue, reservation)).toEqual({ status: 'checked_in', checked_in_guests: 2 });
  // At a counter, the guest who is in already comes again.
  expect(await vipScan(venue, tokens[0] as string)).toMatchObject({
    allowed: true,
    scan_type: 'reentry',
    entries: 3,
    checked_in_guests: 2,
    last_entry_at: new Date(Date.UTC(2026, 4, 1, 12, 1)),
  });
  // The second guest never went through.
  north.passage(north.entries[1] as (typeof north.entries)[number], 9_000, 'returned');
  await wide.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()));
  expect(await reservationOf(venue, reservation)).toEqual({ status: 'checked_in', checked_in_guests: 1 });
  expect(await rowsOf(venue, 'SELECT count(*) AS back FROM vip_scan_logs WHERE given_back')).toEqual([{ back: 1 }]);
  expect(await rowsOf(venue, 'SELECT count(*) AS conflicts FROM conflicts')).toEqual([{ conflicts: 0 }]);
});

test('a pass is worth what its reservation is; a token of nobody opens nothing', async () => {
  const venue = await makeVenue(fresh.url);
  const pending = await party(venue, 2, 'pending');
  expect(await vipScan(venue, pending.tokens[0] as string)).toMatchObject({ allowed: false, scan_type: 'refused', reason: 'unpaid', checked_in_guests: 0 });
  await rowsOf(venue, "SELECT set_vip_reservation_status($1, 'confirmed')", [pending.reservation]);
  expect(await vipScan(venue, pending.tokens[0] as string, '8c5f3a52-5d8e-4b8e-9f5a-0a4d8b1c2d3e')).toMatchObject({
    allowed: true,
    scan_type: 'first_entry',
    checked_in_guests: 1,
  });
  await rowsOf(venue, "SELECT set_vip_reservation_status($1, 'cancelled')", [pending.reservation]);
  expect(await vipScan(venue, pending.tokens[1] as string)).toMatchObject({ allowed: false, reason: 'canceled' });
  expect(await rowsOf(venue, 'SELECT scan_type, reason, scanned_by, scanned_by_id FROM vip_scan_logs ORDER BY id')).toEqual([
    { scan_type: 'refused', reason: 'unpaid', scanned_by: 'Host desk', scanned_by_id: null },
    { scan_type: 'first_entry', reason: null, scanned_by: '8c5f3a52-5d8e-4b8e-9f5a-0a4d8b1c2d3e', scanned_by_id: '8c5f3a52-5d8e-4b8e-9f5a-0a4d8b1c2d3e' },
    { scan_type: 'refused', reason: 'canceled', scanned_by: 'Host desk', scanned_by_id: null },
  ]);
  expect(await wide.withTenant(venue.tenantId, (client) => scanVip(client, { eventId: venue.eventId, token: pending.tokens[1] as string }))).toMatchObject({
    allowed: false,
    scanType: 'refused',
    guestCount: 2,
    reservationId: pending.reservation,
  });
  // What is no pass is refused too, and recorded.
  expect(await vipScan(venue, 'VIP-TEST-GUEST-99')).toMatchObject({ allowed: false, scan_type: 'refused', reason: 'invalid', reservation_id: null });
  expect(
    await rowsOf(venue, 'SELECT allowed, reason FROM process_vip_scan_with_reentry($1, $2)', [
      venue.eventId,
      Buffer.from(venue.tickets[0]?.ticketRef ?? '', 'hex'),
    ]),
  ).toEqual([{ allowed: false, reason: 'product' }]);
  // The token is stored nowhere.
  const owner = await connectOwner(fresh.url);
  const found = await owner.query(
    "SELECT 1 FROM vip_guest_passes p JOIN tickets t USING (tenant_id, ticket_id) WHERE p::text || t::text LIKE '%VIP-TEST-GUEST%'",
  );
  expect(found.rowCount).toBe(0);
  await owner.close();
});

test('reservations change only as allowed, and hold no more passes than guests', async () => {
  const venue = await makeVenue(fresh.url);
  const states = ['pending', 'confirmed', 'checked_in', 'completed', 'cancelled', 'no_show'];
  const allowed = new Set([
    'pending confirmed',
    'pending cancelled',
    'confirmed checked_in',
    'confirmed cancelled',
    'confirmed no_show',
    'checked_in completed',
    'checked_in cancelled',
    'no_show checked_in',
  ]);
  for (const from of states) {
    for (const to of states.filter((state) => state !== from)) {
      const [made] = await rowsOf<{ id: string }>(
        venue,
        'INSERT INTO vip_reservations (tenant_id, event_id, guest_count, status) VALUES ($1, $2, 1, $3) RETURNING reservation_id AS id',
        [venue.tenantId, venue.eventId, from],
      );
      const error = await failureOf(rowsOf(venue, 'UPDATE vip_reservations SET status = $2 WHERE reservation_id = $1', [made?.id, to]));
      expect([from, to, error === null]).toEqual([from, to, allowed.has(`${from} ${to}`)]);
      if (error !== null) expect(businessErrorOf(error)).toMatchObject({ status: 409, message: `the reservation is ${from}: it cannot become ${to}` });
    }
  }
  const { reservation } = await party(venue, 2);
  expect(businessErrorOf(await failureOf(rowsOf(venue, 'SELECT issue_vip_pass($1, $2)', [reservation, randomBytes(16)])))).toMatchObject({ status: 409 });
  // Two clerks at once for the last place.
  const [made] = await rowsOf<{ id: string }>(
    venue,
    'INSERT INTO vip_reservations (tenant_id, event_id, guest_count) VALUES ($1, $2, 1) RETURNING reservation_id AS id',
    [venue.tenantId, venue.eventId],
  );
  const both = await Promise.all([0, 1].map(() => failureOf(rowsOf(venue, 'SELECT issue_vip_pass($1, $2)', [made?.id, randomBytes(16)]))));
  expect(both.map((error) => businessErrorOf(error)?.status ?? null).sort()).toEqual([409, null]);
  expect(businessErrorOf(await failureOf(rowsOf(venue, 'SELECT issue_vip_pass(gen_random_uuid(), $1)', [randomBytes(16)])))).toMatchObject({ status: 404 });
  expect(businessErrorOf(await failureOf(rowsOf(venue, "SELECT set_vip_reservation_status(gen_random_uuid(), 'confirmed')")))).toMatchObject({ status: 404 });
});

test('a general ticket that is linked comes in again, at gates too; unlinked, it is what it was', async () => {
  const venue = await makeVenue(fresh.url);
  const { reservation } = await party(venue, 1);
  const ask = async () => (await rowsOf(venue, "SELECT * FROM check_vip_linked_ticket_reentry('T-1')"))[0];
  expect(await ask()).toMatchObject({ is_linked: false, reentry_allowed: false, reservation_id: null });
  const north = testLedger(venue, 0);
  north.grant(venue.tickets[0] as TestTicket, 0);
  north.grant(venue.tickets[0] as TestTicket, 3_600_000);
  await wide.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()));
  expect(await rowsOf(venue, 'SELECT verdict FROM admissions ORDER BY at')).toEqual([{ verdict: 'winner' }, { verdict: 'excess' }]);
  const [before] = await rowsOf<{ version: number; marks: number }>(venue, 'SELECT version, (SELECT count(*) FROM outbox) AS marks FROM events');
  await rowsOf(venue, "INSERT INTO vip_linked_tickets (tenant_id, event_id, ticket_id, reservation_id) VALUES ($1, 'EV1', 'T-1', $2)", [
    venue.tenantId,
    reservation,
  ]);
  // Gates hear of it, and what was too much is right now.
  const [after] = await rowsOf<{ version: number; marks: number; vip: boolean; changed: boolean }>(
    venue,
    "SELECT e.version, (SELECT count(*) FROM outbox) AS marks, t.vip, t.changed_version = e.version AS changed FROM events e JOIN tickets t ON t.ticket_id = 'T-1'",
  );
  expect([after?.vip, after?.changed, (after?.version ?? 0) > (before?.version ?? 0), (after?.marks ?? 0) > (before?.marks ?? 0)]).toEqual([
    true,
    true,
    true,
    true,
  ]);
  expect(await rowsOf(venue, 'SELECT verdict FROM admissions ORDER BY at')).toEqual([{ verdict: 'winner' }, { verdict: 'reentry' }]);
  expect(await ask()).toMatchObject({ is_linked: true, reentry_allowed: true, reservation_id: reservation, entries: 2 });
  expect(await vipScan(venue, venue.tickets[0]?.code ?? '')).toMatchObject({ allowed: true, scan_type: 'reentry', entries: 3, checked_in_guests: 0 });
  expect(await rowsOf(venue, 'SELECT allowed, entry_type FROM scan_ticket_atomic($1)', ['T-1'])).toEqual([{ allowed: true, entry_type: 'reentry' }]);
  expect(sqlState(await failureOf(rowsOf(venue, "UPDATE vip_linked_tickets SET ticket_id = 'T-2'")))).toBe('42501');
  await rowsOf(venue, "DELETE FROM vip_linked_tickets WHERE ticket_id = 'T-1'");
  expect(await ask()).toMatchObject({ is_linked: false, reentry_allowed: false });
  expect(await rowsOf(venue, 'SELECT allowed, reason FROM scan_ticket_atomic($1)', ['T-1'])).toEqual([{ allowed: false, reason: 'already_redeemed' }]);
  expect(businessErrorOf(await failureOf(rowsOf(venue, "SELECT * FROM check_vip_linked_ticket_reentry('T-99')")))).toMatchObject({ status: 404 });
  expect(
    businessErrorOf(
      await failureOf(
        rowsOf(venue, "INSERT INTO vip_linked_tickets (tenant_id, event_id, ticket_id, reservation_id) VALUES ($1, 'EV1', 'T-99', $2)", [
          venue.tenantId,
          reservation,
        ]),
      ),
    ),
  ).toMatchObject({ status: 404 });
});

test('a linked ticket whose reservation is over comes in no more by any door of the cloud; what was right stays right', async () => {
  const venue = await makeVenue(fresh.url);
  const { reservation } = await party(venue, 1);
  const link = (ticketId: string, to: string) =>
    rowsOf(venue, "INSERT INTO vip_linked_tickets (tenant_id, event_id, ticket_id, reservation_id) VALUES ($1, 'EV1', $2, $3)", [venue.tenantId, ticketId, to]);
  const ended = async (which: string) => {
    for (const status of ['checked_in', 'completed']) await rowsOf(venue, 'SELECT set_vip_reservation_status($1, $2)', [which, status]);
  };
  const scan = async (ticketId: string) => (await rowsOf(venue, 'SELECT allowed, reason, entry_type FROM scan_ticket_atomic($1)', [ticketId]))[0];
  const [first, again] = ['first_entry', 'reentry'].map((entry_type) => ({ allowed: true, reason: null, entry_type }));
  const used = { allowed: false, reason: 'already_redeemed', entry_type: null };
  await rowsOf(venue, "UPDATE tickets SET vip = true WHERE ticket_id = 'T-2'");
  for (const ticketId of ['T-1', 'T-2', 'T-3']) await link(ticketId, reservation);
  for (const ticketId of ['T-1', 'T-2']) expect([await scan(ticketId), await scan(ticketId)]).toEqual([first, again]);
  await ended(reservation);
  expect(await scan('T-1')).toEqual(used);
  expect(await vipScan(venue, venue.tickets[0]?.code ?? '')).toMatchObject({ allowed: false, reason: 'unapproved' });
  // One that was a VIP's by itself still is; one that never came in is a ticket like any other.
  expect(await scan('T-2')).toEqual(again);
  expect([await scan('T-3'), await scan('T-3')]).toEqual([first, used]);
  // The account takes back nothing, also when it judges anew.
  await rowsOf(venue, "SELECT judge_tickets('{EV1}', '{T-1}')");
  expect(await rowsOf(venue, "SELECT verdict FROM admissions WHERE ticket_id = 'T-1' ORDER BY at")).toEqual([{ verdict: 'winner' }, { verdict: 'reentry' }]);
  expect(await rowsOf(venue, 'SELECT count(*)::int AS n FROM conflicts')).toEqual([{ n: 0 }]);
  // Linked to another party it has that one's right; to the one that is over, none.
  await rowsOf(venue, "DELETE FROM vip_linked_tickets WHERE ticket_id IN ('T-1', 'T-3')");
  await link('T-1', (await party(venue, 1)).reservation);
  expect(await scan('T-1')).toEqual(again);
  await link('T-3', reservation);
  expect(await scan('T-3')).toEqual(used);
});

test('desk, gates, links and cancellations at once: no deadlock, and everything agrees in the end', { timeout: 120_000 }, async () => {
  const venue = await makeVenue(fresh.url, { tickets: 20 });
  const parties = await Promise.all(Array.from({ length: 4 }, () => party(venue, 4)));
  const [north, south] = [testLedger(venue, 0), testLedger(venue, 1)];
  for (let n = 0; n < 40; n++) {
    const guests = parties[n % 4]?.tickets ?? [];
    north.grant(guests[n % 3] as TestTicket, n * 1_000);
    south.grant(guests[(n + 1) % 4] as TestTicket, n * 1_000 + 500);
    north.grant(venue.tickets[n % 20] as TestTicket, n * 1_000 + 700);
  }
  const ingest = async (ledger: typeof north) => {
    const rows = ledger.rows();
    for (let at = 0; at < rows.length; at += 15) await wide.withTenant(venue.tenantId, (client) => reconcile(client, rows.slice(at, at + 15)));
  };
  const counter = async () => {
    for (let n = 0; n < 16; n++) await vipScan(venue, parties[n % 4]?.tokens[Math.floor(n / 4)] ?? '');
  };
  const office = async () => {
    for (let n = 1; n <= 10; n++)
      await rowsOf(venue, 'INSERT INTO vip_linked_tickets (tenant_id, event_id, ticket_id, reservation_id) VALUES ($1, $2, $3, $4)', [
        venue.tenantId,
        'EV1',
        `T-${n}`,
        parties[n % 3]?.reservation,
      ]);
    await rowsOf(venue, "SELECT set_vip_reservation_status($1, 'cancelled')", [parties[0]?.reservation]);
  };
  await Promise.all([ingest(north), ingest(south), counter(), counter(), office()]);
  expect(
    await rowsOf(
      venue,
      `SELECT count(*) AS wrong FROM vip_reservations r WHERE r.checked_in_guests <> (SELECT count(*) FROM vip_guest_passes p JOIN tickets t ON t.ticket_id = p.ticket_id WHERE p.reservation_id = r.reservation_id AND t.scan_count > 0)`,
    ),
  ).toEqual([{ wrong: 0 }]);
  expect(
    await rowsOf(
      venue,
      `SELECT count(*) AS missing FROM admissions a JOIN tickets t USING (tenant_id, event_id, ticket_id) WHERE t.vip AND a.verdict IN ('winner', 'reentry') AND NOT EXISTS (SELECT FROM vip_scan_logs g WHERE (g.gate, g.epoch, g.seq) = (a.gate, a.epoch, a.seq) AND g.scan_type = CASE a.verdict WHEN 'winner' THEN 'first_entry' ELSE 'reentry' END)`,
    ),
  ).toEqual([{ missing: 0 }]);
  expect(await rowsOf(venue, 'SELECT sum(grants - winners - reentries - exits - excess - annulled)::integer AS off FROM gate_counts')).toEqual([{ off: 0 }]);
});
