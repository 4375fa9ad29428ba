/** T10: an operator finds what waits for him, and overrules no sensor without saying so. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { HistoryResponse, UnsettledResponse } from '../../contract/http.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { type TestLedger, testLedger } from '../../testkit/ledgers.ts';
import { newToken, OPERATOR_TOKEN_PREFIX } from '../devices/assignment.ts';
import type { App } from '../http/server.ts';
import { reconcile } from './reconcile.ts';
import { registerReconcileRoutes } from './routes.ts';

let fresh: FreshDatabase;
let venue: Venue;
let north: TestLedger;
let app: App;
let operator: string;
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url, { tickets: 6 });
  north = testLedger(venue, 0);
  const made = newToken(OPERATOR_TOKEN_PREFIX);
  operator = made.token;
  await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query("INSERT INTO operator_tokens (tenant_id, token_sha256, name, actor) VALUES ($1, $2, 'anna', 's-17')", [venue.tenantId, made.sha256]),
  );
  app = await createTestHttp(fresh.database, { ratePerMinute: 1_000 });
  registerReconcileRoutes(app, { database: fresh.database });
});
afterAll(async () => {
  await app.close();
  await fresh.drop();
});
const ticket = (n: number) => venue.tickets[n - 1] as TestTicket;
const get = async (url: string) => (await app.inject({ url, headers: { authorization: `Bearer ${operator}` } })).json() as Record<string, unknown>;
async function settle(seq: number, outcome: 'passed' | 'returned', force?: boolean) {
  const response = await app.inject({
    method: 'POST',
    url: `/grants/${north.gate}/1/${seq}/settle`,
    headers: { authorization: `Bearer ${operator}` },
    payload: { outcome, actor: 's-17', reason: 'test', ...(force === undefined ? {} : { force }) },
  });
  return { status: response.statusCode, body: response.json() as Record<string, unknown> };
}
const occupancy = async () => (await get(`/events/${venue.eventId}/occupancy`))['inside'];

test('T10: what waits is listed with its place, and settled from there; what a sensor measured is overruled with force alone', async () => {
  const [passed, unknown, open, returned] = [1, 2, 3, 4].map((n) => north.grant(ticket(n), n * 1_000));
  const party = north.grant(ticket(5), 5_000, { units: 2 });
  north.passage(passed as never, 6_000, 'passed');
  north.passage(unknown as never, 7_000, 'unknown');
  north.passage(returned as never, 8_000, 'returned');
  north.passage(party, 9_000, 'passed', { unit: 1 });
  north.passage(party, 9_500, 'stuck', { unit: 2 });
  await fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()));
  const seqOf = (entry: unknown) => (entry as { seq: number }).seq;

  const waiting = UnsettledResponse.parse(await get('/unsettled'));
  expect(waiting.more).toBe(false);
  expect(waiting.unsettled.map(({ seq, outcome, ticket_id, units_uncertain }) => [seq, ticket_id, outcome, units_uncertain]).sort()).toEqual([
    [seqOf(unknown), 'T-2', 'unknown', 1],
    [seqOf(open), 'T-3', 'open', 1],
    [seqOf(party), 'T-5', 'stuck', 1],
  ]);
  const before = await occupancy();
  expect(await settle(seqOf(passed), 'returned')).toMatchObject({ status: 409, body: { error: 'PASSAGE_KNOWN', message: expect.stringContaining('passed') } });
  expect(await settle(seqOf(returned), 'passed')).toMatchObject({ status: 409, body: { error: 'PASSAGE_KNOWN' } });
  expect(await settle(seqOf(party), 'returned')).toMatchObject({
    status: 409,
    body: { error: 'PASSAGE_KNOWN', message: expect.stringContaining('guest 1 passed') },
  });
  expect(await occupancy()).toBe(before);

  expect(await settle(seqOf(unknown), 'returned')).toMatchObject({ status: 200 });
  expect(await settle(seqOf(open), 'passed')).toMatchObject({ status: 200 });
  expect(UnsettledResponse.parse(await get('/unsettled')).unsettled.map(({ ticket_id }) => ticket_id)).toEqual(['T-5']);

  expect(await settle(seqOf(passed), 'returned', true)).toMatchObject({ status: 200 });
  const { rows } = await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query<{ entry: string }>("SELECT entry FROM ledger_rows WHERE kind = 'settlement' ORDER BY seq"),
  );
  expect(rows.map(({ entry }) => (JSON.parse(entry) as { force?: boolean }).force)).toEqual([undefined, undefined, true]);

  const { history } = HistoryResponse.parse(await get('/tickets/T-1/history'));
  expect(history.map(({ kind, gate, epoch, seq }) => [kind, gate, epoch === 1 || kind === 'settlement', seq])).toEqual([
    ['grant', north.gate, true, seqOf(passed)],
    ['passage', north.gate, true, 6],
    ['settlement', `${venue.site}/cloud`, true, 3],
  ]);
});
