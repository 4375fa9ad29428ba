import { afterAll, beforeAll, expect, test } from 'vitest';
import { LedgerMessage } from '../../contract/ledger.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue, type VenueOptions } from '../../testkit/database.ts';
import { BOOT_MS, testLedger } from '../../testkit/ledgers.ts';
import type { DatabaseClient } from '../db/database.ts';
import { acksFor } from './acks.ts';
import { appendCloudRows, markPublished, settle, unpublishedCloudRows } from './cloud-ledger.ts';
import { conflicts, history, occupancy, refusals, siteLedger } from './queries.ts';
import { reconcile } from './reconcile.ts';
import { type LedgerRow, readRow } from './row.ts';
import { manifestUsage, ticketUsage } from './usage.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

interface Stage {
  readonly venue: Venue;
  readonly ticket: (n: number) => TestTicket;
  readonly in: <T>(work: (client: DatabaseClient) => Promise<T>) => Promise<T>;
  readonly take: (rows: readonly LedgerRow[]) => ReturnType<typeof reconcile>;
  readonly verdicts: () => Promise<Record<string, string>>;
  readonly status: (n: number) => Promise<{ status: string; scan_count: number; first: string | null; last: string | null }>;
}

async function stage(options: VenueOptions = {}): Promise<Stage> {
  const venue = await makeVenue(fresh.url, options);
  const within: Stage['in'] = (work) => fresh.database.withTenant(venue.tenantId, work);
  return {
    venue,
    in: within,
    ticket: (n) => venue.tickets[n - 1] as TestTicket,
    take: (rows) => within((client) => reconcile(client, rows)),
    async verdicts() {
      const { rows } = await within((client) =>
        client.query<{ key: string; verdict: string }>(
          "SELECT split_part(gate, '/', 2) || '/' || seq AS key, coalesce(verdict, '-') || coalesce(':' || cause, '') AS verdict FROM admissions WHERE granted",
        ),
      );
      return Object.fromEntries(rows.map(({ key, verdict }) => [key, verdict]));
    },
    async status(n) {
      const { rows } = await within((client) =>
        client.query<{ status: string; scan_count: number; first: Date | null; last: Date | null }>(
          'SELECT status, scan_count, first_scanned_at AS first, last_scanned_at AS last FROM tickets WHERE ticket_id = $1',
          [`T-${n}`],
        ),
      );
      const row = rows[0] as (typeof rows)[0];
      return { ...row, first: row.first?.toISOString() ?? null, last: row.last?.toISOString() ?? null };
    },
  };
}
/** Reads the sums of every gate: grants = winners + reentries + exits + excess + annulled. */
async function gateCounts(client: DatabaseClient, eventId: string | null = null): Promise<Readonly<Record<string, number>>[]> {
  const { rows } = await client.query<Record<string, number>>(
    'SELECT * FROM gate_counts WHERE tenant_id = current_tenant_id() AND ($1::text IS NULL OR event_id = $1) ORDER BY gate COLLATE "C", event_id',
    [eventId],
  );
  return rows;
}
const at = (ms: number) => new Date(BOOT_MS + ms).toISOString();

test('a guest enters: one winner, the ticket checked in, one person inside, acknowledged; the same rows again change nothing', async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  north.passage(north.grant(s.ticket(1), 1_000), 2_000, 'passed');
  expect(LedgerMessage.safeParse(north.message()).success).toBe(true);
  expect(await s.take(north.rows())).toEqual({ stored: 2, duplicates: 0, forked: [], breaks: [] });
  expect(await s.verdicts()).toEqual({ 'north/1': 'winner' });
  expect(await s.status(1)).toEqual({ status: 'checked_in', scan_count: 1, first: at(1_000), last: at(1_000) });
  expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({ inside: 1, entries: 1, exits: 0, uncertain: 0 });
  expect(await s.take(north.rows())).toEqual({ stored: 0, duplicates: 2, forked: [], breaks: [] });
  expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({ inside: 1, entries: 1 });
  expect((await s.in((client) => acksFor(client, [north.gate]))).get(north.gate)?.epochs).toEqual([
    { epoch: 1, upto_seq: 2, hash: north.entries[1]?.hash, last: 2, missing: [], gone: [] },
  ]);
});

test('two gates cut off from each other admit one ticket: the earlier wins, whichever arrives first', async () => {
  for (const order of [
    [0, 1],
    [1, 0],
  ]) {
    const s = await stage();
    const gates = [testLedger(s.venue, 0), testLedger(s.venue, 1)];
    const early = gates[0]?.grant(s.ticket(1), 1_000);
    gates[0]?.passage(early as never, 1_500, 'passed');
    const late = gates[1]?.grant(s.ticket(1), 5_000);
    gates[1]?.passage(late as never, 5_500, 'passed');
    for (const index of order) await s.take(gates[index]?.rows() ?? []);
    expect(await s.verdicts()).toEqual({ 'north/1': 'winner', 'south/1': 'excess:already_redeemed' });
    expect(await s.status(1)).toMatchObject({ status: 'checked_in', scan_count: 1, first: at(1_000), last: at(1_000) });
    expect(await s.in((client) => conflicts(client))).toEqual([
      {
        event_id: 'EV1',
        ticket_id: 'T-1',
        ticket_ref: s.ticket(1).ticketRef,
        cause: 'already_redeemed',
        overlapping: false,
        winner: [s.venue.gates[0], 1, 1],
        loser: [s.venue.gates[1], 1, 1],
        winner_at: at(1_000),
        loser_at: at(5_000),
      },
    ]);
    // Both are inside: that is what the sensors saw.
    expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({ inside: 2, entries: 2 });
    const counts = await s.in((client) => gateCounts(client, 'EV1'));
    expect(counts.map(({ grants, winners, excess }) => [grants, winners, excess])).toEqual([
      [1, 1, 0],
      [1, 0, 1],
    ]);
  }
});

test('returned gives the entry back, also when it arrives before its grant; the next one wins', async () => {
  for (const backwards of [false, true]) {
    const s = await stage();
    const north = testLedger(s.venue, 0);
    const grant = north.grant(s.ticket(1), 1_000);
    const back = north.passage(grant, 8_000, 'returned');
    const rows = north.rows();
    for (const row of backwards ? rows.toReversed() : rows) await s.take([row]);
    expect(await s.verdicts()).toEqual({ 'north/1': 'annulled' });
    expect(await s.status(1)).toEqual({ status: 'sold', scan_count: 0, first: null, last: null });
    const again = north.grant(s.ticket(1), 20_000);
    await s.take(north.rows([again, back]));
    expect(await s.verdicts()).toEqual({ 'north/1': 'annulled', 'north/3': 'winner' });
    expect(await s.status(1)).toMatchObject({ status: 'checked_in', scan_count: 1, first: at(20_000) });
    expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({ inside: 1, entries: 1, uncertain: 1 });
  }
});

test('a winner that is given back makes room for the one that lost', async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  const south = testLedger(s.venue, 1);
  const first = north.grant(s.ticket(1), 1_000);
  south.grant(s.ticket(1), 2_000);
  await s.take([...north.rows(), ...south.rows()]);
  expect(await s.verdicts()).toEqual({ 'north/1': 'winner', 'south/1': 'excess:already_redeemed' });
  const word = north.passage(first, 9_000, 'returned');
  await s.take(north.rows([word]));
  expect(await s.verdicts()).toEqual({ 'north/1': 'annulled', 'south/1': 'winner' });
  expect(await s.in((client) => conflicts(client))).toEqual([]);
  expect(await s.status(1)).toMatchObject({ scan_count: 1, first: at(2_000) });
});

test('unknown counts as used until an operator settles it; the settlement is a row of the cloud that gates can read', async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  north.passage(north.grant(s.ticket(1), 1_000), 60_000, 'unknown');
  await s.take(north.rows());
  expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({ inside: 1, uncertain: 1 });
  const done = await s.in((client) => settle(client, { of: [north.gate, 1, 1], outcome: 'returned', actor: 'op-7', reason: 'did not enter' }));
  expect(done).toMatchObject({ ledger: `${s.venue.site}/cloud`, reconciled: { stored: 1, breaks: [] } });
  expect(await s.verdicts()).toEqual({ 'north/1': 'annulled' });
  expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({ inside: 0, uncertain: 0 });
  // A later settlement replaces an earlier one, and no passage replaces either.
  await s.in((client) => settle(client, { of: [north.gate, 1, 1], outcome: 'passed', actor: 'op-7', reason: 'seen inside after all' }));
  await s.take(north.rows([north.passage(north.entries[0] as never, 61_000, 'returned')]));
  expect(await s.verdicts()).toEqual({ 'north/1': 'winner' });
  expect(await s.in((client) => settle(client, { of: [north.gate, 1, 99], outcome: 'passed', actor: 'op-7', reason: 'none' }))).toMatchObject({
    ok: false,
    code: 'NO_SUCH_GRANT',
  });

  const [published] = await s.in((client) => unpublishedCloudRows(client));
  expect(published?.entries.map((entry) => [entry['seq'], entry['kind'], entry['outcome'], entry['ticket_id']])).toEqual([
    [1, 'settlement', 'returned', 'T-1'],
    [2, 'settlement', 'passed', 'T-1'],
  ]);
  expect(published?.entries.every((entry) => readRow(published.ledger, published.epoch, entry)?.known?.kind === 'settlement')).toBe(true);
  await s.in((client) => markPublished(client, published?.ledger ?? '', published?.epoch ?? 0, 2));
  expect(await s.in((client) => unpublishedCloudRows(client))).toEqual([]);
});

test("a gate's settlement of any gate's grant is kept and counts for nothing, by either door (T16, M1)", async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  north.passage(north.grant(s.ticket(1), 1_000), 2_000, 'passed');
  const own = north.grant(s.ticket(2), 3_000);
  await s.take(north.rows());
  const tables = () =>
    s.in(async (client) => {
      const all = [];
      for (const table of ['admissions', 'ticket_usage', 'gate_counts', 'conflicts', 'tickets'])
        all.push((await client.query<{ row: string }>(`SELECT to_jsonb(x)::text AS row FROM ${table} x ORDER BY 1`)).rows);
      return all;
    });
  const before = await tables();
  const settlement = (of: readonly unknown[], n: number) => ({
    of,
    outcome: 'returned',
    actor: 'op-1',
    reason: 'not inside',
    event_id: s.venue.eventId,
    ticket_id: `T-${n}`,
    ticket_ref: s.ticket(n).ticketRef,
  });
  const south = testLedger(s.venue, 1);
  south.add('settlement', 4_000, settlement([north.gate, 1, 1], 1));
  south.add('conflict', 4_000, { ...settlement([north.gate, 1, 1], 1), verdict: 'excess', cause: 'already_redeemed' });
  const forged = north.add('settlement', 4_000, settlement([north.gate, 1, own.seq], 2));
  expect(await s.take([...south.rows(), ...north.rows([forged])])).toMatchObject({ stored: 3, breaks: [] });
  expect(await tables()).toEqual(before);
  const told = await s.in((client) => history(client, s.venue.eventId, 'T-1'));
  expect(told?.history.map(({ text }) => text)).toEqual(['admitted (first entry), passed', 'passage: passed']);
  // In SQL, where rows come in that no program has looked at.
  await s.in((client) =>
    client.query('SELECT reconcile_rows(ARRAY(SELECT jsonb_populate_record(NULL::ledger_input, r) FROM jsonb_array_elements($1::jsonb) AS r))', [
      JSON.stringify(
        [
          { gate: south.gate, seq: 3, ticket_id: 'T-1', of_seq: 1 },
          { gate: north.gate, seq: 5, ticket_id: 'T-2', of_seq: own.seq },
        ].map((row) => ({
          epoch: 1,
          hash: String(row.seq).repeat(64),
          kind: 'settlement',
          readable: true,
          entry: '{}',
          event_id: s.venue.eventId,
          of_gate: north.gate,
          of_epoch: 1,
          outcome: 'returned',
          ...row,
        })),
      ),
    ]),
  );
  expect(await tables()).toEqual(before);
});

test('re-entry follows the policy of the version that the gate had: after an exit, not before', async () => {
  const s = await stage({ policies: { event: { reentry: { rule: 'after_exit', counts_as_entry: false } } } });
  const north = testLedger(s.venue, 0);
  north.grant(s.ticket(1), 0);
  north.grant(s.ticket(1), 60_000, { type: 'reentry' });
  north.grant(s.ticket(1), 120_000, { type: 'exit', direction: 'out' });
  north.grant(s.ticket(1), 180_000, { type: 'reentry' });
  await s.take(north.rows());
  expect(await s.verdicts()).toEqual({ 'north/1': 'winner', 'north/2': 'excess:already_inside', 'north/3': 'exit', 'north/4': 'reentry' });
  expect(await s.status(1)).toMatchObject({ scan_count: 2, first: at(0), last: at(180_000) });
});

test("the allowance is the ticket's, else the policy's; tier and gate may say otherwise; VIP has none", async () => {
  const s = await stage({ policies: { event: { entries: { total: 2 }, duplicate_window_s: 0 }, gates: {} }, tickets: 3 });
  const north = testLedger(s.venue, 0);
  for (const n of [1, 2, 3]) for (const ms of [0, 1_000, 2_000, 3_000]) north.grant(s.ticket(n), n * 100_000 + ms);
  await fresh.database.withTenant(s.venue.tenantId, async (client) => {
    await client.query("UPDATE tickets SET max_scans = 3 WHERE ticket_id = 'T-2'");
    await client.query("UPDATE tickets SET vip = true WHERE ticket_id = 'T-3'");
  });
  await s.take(north.rows());
  expect(Object.values(await s.verdicts())).toEqual([
    'winner',
    'reentry',
    'excess:max_entries',
    'excess:max_entries',
    'winner',
    'reentry',
    'reentry',
    'excess:max_entries',
    'winner',
    'reentry',
    'reentry',
    'reentry',
  ]);
});

test('policies that make no sense count as absent, and never stop a row', async () => {
  const s = await stage({ policies: { event: { entries: { total: 'many' }, reentry: 7 }, tiers: [] } });
  const north = testLedger(s.venue, 0);
  north.grant(s.ticket(1), 0);
  north.grant(s.ticket(1), 60_000);
  await s.take(north.rows());
  expect(await s.verdicts()).toEqual({ 'north/1': 'winner', 'north/2': 'excess:already_redeemed' });
});

test('a party comes through two gates: its units are counted one by one, those given back are not', async () => {
  const s = await stage({ tickets: 1 });
  await s.in((client) => client.query('UPDATE tickets SET units = 4'));
  const north = testLedger(s.venue, 0);
  const south = testLedger(s.venue, 1);
  const party = north.grant(s.ticket(1), 0, { units: 4 });
  north.passage(party, 1_000, 'passed', { unit: 1 });
  north.passage(party, 2_000, 'passed', { unit: 2 });
  north.passage(party, 9_000, 'returned', { unit: 3 });
  north.passage(party, 9_000, 'returned', { unit: 4 });
  const rest = south.grant(s.ticket(1), 60_000, { units: 2, type: 'reentry' });
  south.passage(rest, 61_000, 'passed', { unit: 1 });
  south.passage(rest, 62_000, 'passed', { unit: 2 });
  south.grant(s.ticket(1), 120_000, { units: 1, type: 'reentry' });
  for (const row of [...south.rows(), ...north.rows().toReversed()]) await s.take([row]);
  expect(await s.verdicts()).toEqual({ 'north/1': 'winner', 'south/1': 'reentry', 'south/4': 'excess:already_redeemed' });
  expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({ inside: 5, entries: 5, uncertain: 1 });
});

test('a ticket that the cloud has never seen is counted, and settled when it appears', async () => {
  const s = await stage({ tickets: 1 });
  const north = testLedger(s.venue, 0);
  const stranger: TestTicket = { ticketId: 'SIGNED-1', code: '', ticketRef: 'ab'.repeat(16) };
  north.grant(stranger, 0, { medium: 'signed' });
  north.grant(stranger, 60_000, { medium: 'signed' });
  await s.take(north.rows());
  expect(await s.verdicts()).toEqual({ 'north/1': 'winner', 'north/2': 'excess:already_redeemed' });
  await s.in((client) =>
    client.query(
      "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier, max_scans) VALUES (current_tenant_id(), 'EV1', 'SIGNED-1', decode($1, 'hex'), 'standard', 2)",
      [stranger.ticketRef],
    ),
  );
  expect(await s.verdicts()).toEqual({ 'north/1': 'winner', 'north/2': 'reentry' });
  const { rows } = await s.in((client) => client.query("SELECT status, scan_count FROM tickets WHERE ticket_id = 'SIGNED-1'"));
  expect(rows).toEqual([{ status: 'checked_in', scan_count: 2 }]);
  expect(await s.in((client) => conflicts(client))).toEqual([]);
});

test('a better offset that arrives later ranks a boot anew; a boot without one lies between its neighbours', async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  const south = testLedger(s.venue, 1);
  // South believes it is an hour early, with a wide bound, until a better round trip says otherwise.
  south.reboot('b', BOOT_MS - 3_600_000, 5_000);
  south.grant(s.ticket(1), 2_000);
  north.grant(s.ticket(1), 1_000);
  await s.take([...north.rows(), ...south.rows()]);
  expect(await s.verdicts()).toEqual({ 'north/1': 'excess:already_redeemed', 'south/1': 'winner' });
  south.reboot('b', BOOT_MS, 10);
  await s.take(south.rows([south.add('clock', 3_000, { what: 'offset', detail: 'measured' })]));
  expect(await s.verdicts()).toEqual({ 'north/1': 'winner', 'south/1': 'excess:already_redeemed' });
  expect(await s.status(1)).toMatchObject({ first: at(1_000) });

  // North: two more boots; the first never measured its clock and claims an absurd time.
  north.reboot('dark', null);
  north.add('grant', 500, {
    ...north.entries[0],
    seq: 2,
    ts: '2020-01-01T00:00:00.000Z',
    ticket_id: 'T-2',
    boot_id: 'dark',
    boottime_ms: 500,
    clock_offset_ms: undefined,
    clock_bound_ms: undefined,
    hash: undefined,
  });
  south.grant(s.ticket(2), 50_000);
  north.reboot('lit', BOOT_MS + 90_000, 10);
  north.add('clock', 10_000, { what: 'offset', detail: 'measured' });
  await s.take([...north.rows(), ...south.rows()]);
  const placed = await s.in((client) =>
    client.query<{ at: Date; placed: boolean; overlapping: boolean }>(
      "SELECT at, placed, overlapping FROM admissions WHERE ticket_id = 'T-2' AND gate LIKE '%north'",
    ),
  );
  // Between the last row before it (1,000 - 20) and the first after it (100,000 + 10).
  expect(placed.rows).toEqual([{ at: new Date(BOOT_MS + (980 + 100_010) / 2), placed: false, overlapping: true }]);
});

test('a row of an unknown kind, or not as its kind should be, is stored and acknowledged without effect', async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  north.add('grant', 0, { ticket_id: 'T-1', note: 'half a grant\u0000' });
  north.add('hologram\u0000', 0, { shape: { deep: ['\u0000'] } });
  north.add('refusal', 1_000, { reason: 'unpaid', explanation: 'the ticket is not paid\u0000', event_id: 'EV1', ticket_id: 'T-1' });
  north.add('override', 2_000, {
    actor: 'button',
    action: 'open',
    reason: 'pram',
    boot_id: 'a\u0000b',
    boottime_ms: 1e300,
    clock_offset_ms: -1e300,
    clock_bound_ms: 1e300,
  });
  expect(await s.take(north.rows())).toEqual({ stored: 4, duplicates: 0, forked: [], breaks: [] });
  expect(await s.verdicts()).toEqual({});
  const served = await s.in((client) => siteLedger(client, s.venue.site, {}));
  expect(served).toEqual({ rows: north.entries.map((entry) => ({ gate: north.gate, epoch: 1, entry })), more: false });
  expect(await s.in((client) => refusals(client, north.gate, new Date(BOOT_MS)))).toMatchObject([
    { seq: 3, reason: 'unpaid', ticket_id: 'T-1', at: at(1_000) },
  ]);
  expect(await s.in((client) => refusals(client, null, new Date(BOOT_MS + 5_000)))).toEqual([]);
  expect(readRow(north.gate, 1, { seq: 1, kind: 'grant' })).toBeNull();
});

test("an acknowledgement names gaps; the site's ledger and the manifest's usage end before them", async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  const south = testLedger(s.venue, 1);
  for (let n = 1; n <= 8; n++) north.grant(s.ticket(n), n * 1_000);
  south.grant(s.ticket(9), 1_000);
  await s.take([...north.rows().filter(({ seq }) => ![3, 4, 7].includes(seq)), ...south.rows()]);
  expect((await s.in((client) => acksFor(client, [north.gate]))).get(north.gate)?.epochs).toEqual([
    {
      epoch: 1,
      upto_seq: 2,
      hash: north.entries[1]?.hash,
      last: 8,
      gone: [],
      missing: [
        [3, 4],
        [7, 7],
      ],
    },
  ]);
  expect((await s.in((client) => acksFor(client, [`${s.venue.site}/nobody`]))).get(`${s.venue.site}/nobody`)?.epochs).toEqual([]);
  const usage = await s.in((client) => manifestUsage(client, 'EV1'));
  expect(usage.upto).toEqual({ [north.gate]: [1, 2], [south.gate]: [1, 1] });
  expect(usage.usage.map(({ gate, seq, outcome, units }) => `${gate}/${seq} ${outcome} ${units}`).sort()).toEqual([
    `${north.gate}/1 open 1`,
    `${north.gate}/2 open 1`,
    `${south.gate}/1 open 1`,
  ]);
  const rest = await s.in((client) => siteLedger(client, s.venue.site, { [north.gate]: [1, 1] }, 1));
  expect([rest.rows.map(({ gate, entry }) => [gate, entry.seq]), rest.more]).toEqual([[[north.gate, 2]], true]);
  await s.take(north.rows());
  expect((await s.in((client) => acksFor(client, [north.gate]))).get(north.gate)?.epochs).toMatchObject([{ epoch: 1, upto_seq: 8, last: 8, missing: [] }]);
  expect(await s.in((client) => ticketUsage(client, 'EV1', 'T-3'))).toMatchObject([
    { gate: north.gate, epoch: 1, seq: 3, at: at(3_000), direction: 'in', units: 1, outcome: 'open' },
  ]);
});

test("a ticket's history tells every row with its verdict", async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  const grant = north.grant(s.ticket(1), 0);
  north.passage(grant, 1_000, 'passed');
  north.add('refusal', 60_000, { reason: 'already_redeemed', explanation: 'already used at 12:00', event_id: 'EV1', ticket_id: 'T-1' });
  await s.take(north.rows());
  expect(await s.in((client) => history(client, 'EV1', 'T-1'))).toMatchObject({
    status: 'checked_in',
    history: [
      { kind: 'grant', text: 'admitted (first entry), passed', at: at(0) },
      { kind: 'passage', text: 'passage: passed' },
      { kind: 'refusal', text: 'refused: already used at 12:00 (already_redeemed)' },
    ],
  });
  expect(await s.in((client) => history(client, 'EV1', 'T-999'))).toBeNull();
});

test('free, forced and override passages are terms of their own', async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  north.add('passage', 0, { direction: 'in', outcome: 'free' });
  north.add('passage', 1, { direction: 'in', outcome: 'forced' });
  const press = north.add('override', 2, { actor: 'button', action: 'open', reason: 'pram', direction: 'in', units: 1 });
  north.add('passage', 3, { of: [1, press.seq], direction: 'in', outcome: 'passed' });
  await s.take(north.rows());
  expect(await s.in((client) => occupancy(client, 'EV1'))).toMatchObject({
    inside: 3,
    entries: 0,
    free_passages: 1,
    forced_passages: 1,
    overrides: 1,
    free_out: 0,
  });
  expect(await s.in((client) => gateCounts(client))).toMatchObject([{ free_passages: 1, forced_passages: 1, overrides: 1, grants: 0 }]);
});

test('I7: whoever leaves after an unmatched exit leaves as a free passage, whatever order the rows come in', async () => {
  for (const order of ['as written', 'backwards', 'one by one'] as const) {
    const s = await stage();
    const north = testLedger(s.venue, 0);
    const inside = [1, 2, 3, 4].map((n) => {
      const entered = north.grant(s.ticket(n), n * 1_000);
      north.passage(entered, n * 1_000 + 500, 'passed');
      return entered;
    });
    const unknown = north.add('exit_unmatched', 20_000, { direction: 'out', reason: 'invalid' });
    north.add('passage', 20_500, { of: [1, unknown.seq], direction: 'out', unit: 1, outcome: 'free' });
    const violates = north.add('exit_unmatched', 30_000, { direction: 'out', reason: 'passback', event_id: 'EV1', ticket_ref: s.ticket(1).ticketRef });
    north.add('passage', 30_500, { of: [1, violates.seq], event_id: 'EV1', direction: 'out', unit: 1, outcome: 'free' });
    const nobody = north.add('exit_unmatched', 40_000, { direction: 'out' });
    north.add('passage', 46_500, { of: [1, nobody.seq], direction: 'out', unit: 1, outcome: 'returned' });
    north.add('passage', 50_000, { direction: 'out', outcome: 'free' });
    const press = north.add('override', 60_000, { actor: 'button', action: 'open', reason: 'staff button', direction: 'out', units: 1 });
    north.add('passage', 60_500, { of: [1, press.seq], direction: 'out', unit: 1, outcome: 'passed' });
    const rows = north.rows();
    if (order === 'as written') await s.take(rows);
    else if (order === 'backwards') await s.take(rows.toReversed());
    else for (const row of rows) await s.take([row]);
    const expected = { inside: 0, entries: inside.length, exits: 0, free_passages: 3, free_out: 3, overrides: 1, overrides_out: 1 };
    expect([order, await s.in((client) => occupancy(client, 'EV1'))]).toMatchObject([order, expected]);
    const counts = await s.in((client) => gateCounts(client));
    expect(counts.map(({ event_id, free_out }) => [event_id, free_out])).toEqual([
      ['', 2],
      ['EV1', 1],
    ]);
    // The same again changes nothing.
    await s.take(rows);
    expect(await s.in((client) => gateCounts(client))).toEqual(counts);
  }
});

test('the cloud scans as a gate would, placed at the time of the scan', async () => {
  const s = await stage();
  const north = testLedger(s.venue, 0);
  north.grant(s.ticket(1), 10_000);
  await s.take(north.rows());
  const scan = {
    kind: 'grant',
    event_id: 'EV1',
    ticket_id: 'T-1',
    ticket_ref: s.ticket(1).ticketRef,
    direction: 'in',
    type: 'first_entry',
    units: 1,
    medium: 'manual',
    manifest_version: 1,
    online: true,
    latency_us: 0,
    seen: {},
  } as const;
  await s.in((client) => appendCloudRows(client, s.venue.site, [{ ...scan, at: { atMs: BOOT_MS + 5_000, boundMs: 1_000, bootId: 'device:hand-1' } }]));
  expect(await s.verdicts()).toEqual({ 'north/1': 'excess:already_redeemed', 'cloud/1': 'winner' });
  await expect(s.in((client) => appendCloudRows(client, s.venue.site, [{ ...scan, direction: 'up' }]))).rejects.toThrow('a grant of the cloud: direction');
});
