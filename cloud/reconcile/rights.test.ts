/** What changes of a ticket mean for entries that were made with it. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket } from '../../testkit/database.ts';
import { BOOT_MS, testLedger } from '../../testkit/ledgers.ts';
import { reconcile } from './reconcile.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

async function stage(policies: Readonly<Record<string, unknown>> = {}) {
  const venue = await makeVenue(fresh.url, { policies });
  const ask = async (sql: string) => (await fresh.database.withTenant(venue.tenantId, (client) => client.query(sql))).rows;
  return {
    venue,
    ask,
    ticket: venue.tickets[0] as TestTicket,
    north: testLedger(venue, 0),
    take: (rows: Parameters<typeof reconcile>[1]) => fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, rows)),
    judge: async () => (await ask('SELECT re_evaluate_due_tickets() AS n'))[0],
    conflicts: () => ask('SELECT ticket_id, cause, loser_seq, winner_gate FROM conflicts ORDER BY loser_seq'),
  };
}
const NOW_MS = Date.now() - BOOT_MS;

test('a refunded ticket entered: it counts as an entry, and is a conflict that nobody won; one that entered before its refund is none', async () => {
  const s = await stage();
  s.north.passage(s.north.grant(s.ticket, 1_000), 1_500, 'passed');
  await s.take(s.north.rows());
  const other = s.venue.tickets[1] as TestTicket;
  await s.ask("UPDATE tickets SET status = 'refunded' WHERE ticket_id IN ('T-1', 'T-2')");
  expect(await s.judge()).toEqual({ n: 2 });
  expect(await s.conflicts()).toEqual([]);
  s.north.passage(s.north.grant(other, NOW_MS + 60_000), NOW_MS + 61_000, 'passed');
  await s.take(s.north.rows());
  expect(await s.conflicts()).toEqual([{ ticket_id: 'T-2', cause: 'canceled', loser_seq: 3, winner_gate: null }]);
  expect(await s.ask('SELECT ticket_id, verdict FROM admissions ORDER BY seq')).toEqual([
    { ticket_id: 'T-1', verdict: 'winner' },
    { ticket_id: 'T-2', verdict: 'winner' },
  ]);
  // The same rows again, and judged again: the same.
  await s.take(s.north.rows());
  await s.ask("INSERT INTO judgements_due (tenant_id, event_id, ticket_id) VALUES (current_tenant_id(), 'EV1', 'T-2')");
  expect(await s.judge()).toEqual({ n: 1 });
  expect(await s.conflicts()).toHaveLength(1);
});

test('the refund that is told after the entry it should have prevented makes the same conflict', async () => {
  const s = await stage();
  s.north.grant(s.ticket, NOW_MS + 60_000);
  await s.take(s.north.rows());
  expect(await s.conflicts()).toEqual([]);
  await s.ask("UPDATE tickets SET status = 'revoked' WHERE ticket_id = 'T-1'");
  await s.judge();
  expect(await s.conflicts()).toEqual([{ ticket_id: 'T-1', cause: 'revoked', loser_seq: 1, winner_gate: null }]);
});

test('a larger allowance, another tier or more guests: what was too much is judged again', async () => {
  const s = await stage({ event: { reentry: { rule: 'always' }, duplicate_window_s: 0, entries: { total: 1 } } });
  s.north.grant(s.ticket, 1_000);
  s.north.grant(s.ticket, 60_000);
  await s.take(s.north.rows());
  expect((await s.conflicts()).map(({ cause }) => cause)).toEqual(['already_redeemed']);
  expect(await s.judge()).toEqual({ n: 0 });
  await s.ask("UPDATE tickets SET max_scans = 2 WHERE ticket_id = 'T-1'");
  expect(await s.judge()).toEqual({ n: 1 });
  expect(await s.conflicts()).toEqual([]);
  expect(await s.ask("SELECT scan_count FROM tickets WHERE ticket_id = 'T-1'")).toEqual([{ scan_count: 2 }]);
  expect(await s.ask('SELECT winners, reentries, excess FROM gate_counts')).toEqual([{ winners: 1, reentries: 1, excess: 0 }]);
  await s.ask("UPDATE tickets SET max_scans = 1 WHERE ticket_id = 'T-1'");
  await s.judge();
  expect((await s.conflicts()).map(({ loser_seq }) => loser_seq)).toEqual([2]);
});
