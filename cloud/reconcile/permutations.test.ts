/**
 * The same rows in any order, any batches, any number of times, give the same tables (ACCOUNT.md "Verdicts"). SETS=1000 for a long run. Several sets are
 * played at once, each at gates and an event of its own, and their rows are shuffled together.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { BOOT_MS, type TestLedger, testLedger } from '../../testkit/ledgers.ts';
import { reconcile } from './reconcile.ts';
import type { LedgerRow } from './row.ts';

const SETS = Number(process.env['SETS'] ?? 40);
/** Sets that are played together. */
const SETS_AT_ONCE = 20;
/** Within so many sets a planted mistake must be found. */
const MUTANT_SETS = 300;
let fresh: FreshDatabase;
/** The database under test: `fresh`, or one with a planted mistake. */
let where: FreshDatabase;
beforeAll(async () => {
  fresh = where = await freshDatabase();
});
afterAll(() => fresh.drop());

const TICKETS = 4;
/** What a gate does next. Tickets beyond TICKETS are unknown to the cloud. */
const action = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('grant' as const),
      ticket: fc.constantFrom(1, 1, 1, 2, 2, 3, 4, TICKETS + 1),
      direction: fc.constantFrom('in', 'in', 'in', 'out'),
      units: fc.constantFrom(1, 1, 1, 2, 3),
      afterMs: fc.integer({ min: 0, max: 30_000 }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('passage' as const),
      back: fc.integer({ min: 0, max: 3 }),
      outcome: fc.constantFrom('passed', 'passed', 'returned', 'unknown', 'stuck'),
      unit: fc.constantFrom(1, 1, 1, 2, 3, undefined),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('boot' as const), offset: fc.constantFrom(null, -60_000, 0, 0, 45_000) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('offset' as const), offset: fc.constantFrom(-30_000, 0, 0), bound: fc.constantFrom(5, 20, 20, 500) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('settlement' as const),
      gate: fc.integer({ min: 0, max: 1 }),
      back: fc.integer({ min: 0, max: 5 }),
      outcome: fc.constantFrom('passed', 'returned'),
      unit: fc.constantFrom(undefined, 1, 2),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('other' as const), what: fc.constantFrom('free', 'forced', 'exit', 'refusal', 'nonsense') }) },
);
const policies = fc.constantFrom(
  {},
  { event: { reentry: { rule: 'after_exit', counts_as_entry: false, max: 2 } } },
  { event: { reentry: { rule: 'always', min_gap_s: 20 }, entries: { total: 3, per_gate: 2 } } },
  { event: { reentry: { rule: 'always' }, passback: { mode: 'hard', forget_after_s: 60 }, entries: { days: 1, per_day: 4 }, duplicate_window_s: 0 } },
);
const history = fc.record({ policies, actions: fc.array(fc.tuple(fc.integer({ min: 0, max: 1 }), action), { minLength: 1, maxLength: 30, size: 'max' }) });
type History = typeof history extends fc.Arbitrary<infer T> ? T : never;

/** A venue with an event and two gates for every history. */
async function stage(histories: readonly History[]): Promise<Venue[]> {
  const gates = histories.flatMap((_, n) => [`north-${n}`, `south-${n}`]);
  const venue = await makeVenue(where.url, { tickets: TICKETS, gates, event: 'EV0', policies: histories[0]?.policies ?? {} });
  await where.database.withTenant(venue.tenantId, async (client) => {
    for (const [n, { policies: rules }] of histories.entries()) {
      if (n === 0) continue;
      await client.query(
        'INSERT INTO events (tenant_id, event_id, site_id, name, salt, policies) SELECT tenant_id, $1, site_id, $1, salt, $2 FROM events WHERE event_id = $3',
        [`EV${n}`, JSON.stringify(rules), 'EV0'],
      );
      await client.query('INSERT INTO ticket_types (tenant_id, event_id, tier) SELECT tenant_id, $1, tier FROM ticket_types WHERE event_id = $2', [
        `EV${n}`,
        'EV0',
      ]);
      await client.query(
        'INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier) SELECT tenant_id, $1, ticket_id, ticket_ref, tier FROM tickets WHERE event_id = $2',
        [`EV${n}`, 'EV0'],
      );
    }
    await client.query("UPDATE tickets SET units = 3 WHERE ticket_id = 'T-2'");
    await client.query("UPDATE tickets SET vip = true WHERE ticket_id = 'T-3'");
  });
  return histories.map((_, n) => ({ ...venue, eventId: `EV${n}`, gates: venue.gates.slice(2 * n, 2 * n + 2) }));
}

/** The rows of a history, at its gates. `number`: which of the histories, for the cloud's ledger is everybody's. */
function play(venue: Venue, { actions }: History, number: number): LedgerRow[] {
  const ledgers: TestLedger[] = [testLedger(venue, 0), testLedger(venue, 1)];
  const cloud = testLedger({ ...venue, gates: [`${venue.site}/cloud`] }, 0, number + 1);
  const now = [1_000, 1_300];
  const grants: { gate: number; seq: number; ticket: TestTicket; entry: Parameters<TestLedger['passage']>[0] }[] = [];
  let boots = 0;
  for (const [gate, act] of actions) {
    const ledger = ledgers[gate] as TestLedger;
    now[gate] = (now[gate] as number) + 700;
    switch (act.kind) {
      case 'grant': {
        now[gate] = (now[gate] as number) + act.afterMs;
        const ticket = venue.tickets[act.ticket - 1] ?? { ticketId: 'STRANGER', code: '', ticketRef: 'ef'.repeat(16) };
        const entry = ledger.grant(ticket, now[gate] as number, {
          direction: act.direction,
          units: act.units,
          type: act.direction === 'out' ? 'exit' : 'first_entry',
        });
        grants.push({ gate, seq: entry.seq, ticket, entry });
        break;
      }
      case 'passage': {
        const own = grants.filter((grant) => grant.gate === gate).at(-1 - act.back);
        if (own !== undefined) ledger.passage(own.entry, now[gate] as number, act.outcome, act.unit === undefined ? { unit: undefined } : { unit: act.unit });
        break;
      }
      case 'boot':
        ledger.reboot(`boot-${gate}-${++boots}`, act.offset === null ? null : BOOT_MS + act.offset, 50);
        break;
      case 'offset':
        ledger.reboot((ledger.entries.at(-1)?.['boot_id'] as string | undefined) ?? 'first', BOOT_MS + act.offset, act.bound);
        break;
      case 'settlement': {
        const grant = grants.filter((one) => one.gate === act.gate).at(-1 - act.back);
        if (grant !== undefined)
          cloud.add('settlement', now[gate] as number, {
            of: [venue.gates[grant.gate], 1, grant.seq],
            outcome: act.outcome,
            actor: 'op-1',
            reason: 'test',
            event_id: venue.eventId,
            ticket_id: grant.ticket.ticketId,
            ...(act.unit === undefined ? {} : { unit: act.unit }),
          });
        break;
      }
      case 'other':
        if (act.what === 'refusal') ledger.add('refusal', now[gate] as number, { reason: 'invalid', explanation: 'not a ticket for this event' });
        else if (act.what === 'nonsense') ledger.add('grant', now[gate] as number, { ticket_id: 'T-1' });
        else if (act.what === 'exit') {
          const shown = ledger.add('exit_unmatched', now[gate] as number, { direction: 'out', reason: 'invalid' });
          ledger.add('passage', now[gate] as number, { of: [1, shown.seq], direction: 'out', outcome: 'free' });
        } else ledger.add('passage', now[gate] as number, { direction: 'in', outcome: act.what, event_id: venue.eventId });
    }
  }
  return [...ledgers, cloud].flatMap((ledger) => ledger.rows());
}

const TABLES = [
  "SELECT replace(gate, $1, '') AS gate, epoch, seq, event_id, ticket_id, granted, direction, units, at_low, at, at_high, placed, word_1, words, word_all, units_used, units_uncertain, outcome, verdict, cause, overlapping FROM admissions WHERE granted ORDER BY 1, 2, 3",
  'SELECT event_id, ticket_id, entries, first_at, last_at, known FROM ticket_usage WHERE entries > 0 ORDER BY 1, 2',
  'SELECT event_id, ticket_id, status, scan_count, first_scanned_at, last_scanned_at, status_before_entry FROM tickets ORDER BY 1, 2',
  "SELECT event_id, ticket_id, replace(loser_gate, $1, '') AS loser, loser_seq, replace(winner_gate, $1, '') AS winner, winner_seq, cause, loser_at, winner_at, overlapping FROM conflicts ORDER BY 1, 2, 3, 4",
  "SELECT replace(gate, $1, '') AS gate, event_id, grants, winners, reentries, exits, excess, annulled, entered, exited, uncertain, free_passages, forced_passages, overrides, refusals, free_out, forced_out, overrides_out FROM gate_counts ORDER BY 1, 2",
  "SELECT replace(gate, $1, '') AS gate, epoch, stored, upto_seq FROM ledger_epochs ORDER BY 1, 2",
];
async function tables(venue: Venue): Promise<unknown[]> {
  return where.database.withTenant(venue.tenantId, async (client) => {
    const all: unknown[] = [];
    for (const sql of TABLES) all.push((await client.query(sql, sql.includes('$1') ? [venue.site] : [])).rows);
    return all;
  });
}

const take = (venue: Venue, rows: readonly LedgerRow[]) => where.database.withTenant(venue.tenantId, (client) => reconcile(client, rows));

const together = fc.array(history, { minLength: SETS_AT_ONCE, maxLength: SETS_AT_ONCE });
const sameTables = fc.asyncProperty(together, fc.infiniteStream(fc.nat()), async (stories, random) => {
  const next = (below: number) => (random.next().value as number) % below;
  const [plains, mixeds] = [await stage(stories), await stage(stories)];
  const [plain, mixed] = [plains[0] as Venue, mixeds[0] as Venue];
  await take(
    plain,
    stories.flatMap((story, n) => play(plains[n] as Venue, story, n)),
  );
  const rows = stories.flatMap((story, n) => play(mixeds[n] as Venue, story, n));
  const order = [...rows, ...rows.filter(() => next(4) === 0)];
  for (let i = order.length - 1; i > 0; i--) {
    const j = next(i + 1);
    [order[i], order[j]] = [order[j] as LedgerRow, order[i] as LedgerRow];
  }
  while (order.length > 0) await take(mixed, order.splice(0, 1 + next(6 * SETS_AT_ONCE)));
  expect(await tables(mixed)).toEqual(await tables(plain));
  const { rows: sums } = await where.database.withTenant(plain.tenantId, (client) =>
    client.query<{ n: number }>('SELECT count(*) AS n FROM gate_counts WHERE grants <> winners + reentries + exits + excess + annulled'),
  );
  expect(sums[0]?.n).toBe(0);
  // The sums are those of the rows.
  const { rows: differ } = await where.database.withTenant(mixed.tenantId, (client) =>
    client.query(`
  SELECT gate, sum(grants) FROM (
    SELECT gate, event_id, grants, winners, excess, entered, exited, uncertain FROM gate_counts WHERE event_id <> ''
    UNION ALL SELECT gate, event_id, -count(*), -count(*) FILTER (WHERE verdict = 'winner'), -count(*) FILTER (WHERE verdict = 'excess'), -coalesce(sum(units_used) FILTER (WHERE direction = 'in'), 0), -coalesce(sum(units_used) FILTER (WHERE direction = 'out'), 0), -sum(units_uncertain)
    FROM admissions WHERE granted GROUP BY 1, 2) AS sums
  GROUP BY gate, event_id HAVING (sum(grants), sum(winners), sum(excess), sum(entered), sum(exited), sum(uncertain)) <> (0, 0, 0, 0, 0, 0)`),
  );
  expect(differ).toEqual([]);
});

/** As guests pass: every gate's rows in their order, one a call, whichever gate is next. Most take the short way (reconcile_ordinary_row). */
const oneByOne = fc.asyncProperty(together, fc.infiniteStream(fc.nat()), async (stories, random) => {
  const [plains, lives] = [await stage(stories), await stage(stories)];
  const [plain, live] = [plains[0] as Venue, lives[0] as Venue];
  await take(
    plain,
    stories.flatMap((story, n) => play(plains[n] as Venue, story, n)),
  );
  const ledgers = Map.groupBy(
    stories.flatMap((story, n) => play(lives[n] as Venue, story, n)),
    ({ gate, epoch }) => `${gate}/${epoch}`,
  );
  while (ledgers.size > 0) {
    const [name, rows] = [...ledgers][(random.next().value as number) % ledgers.size] as [string, LedgerRow[]];
    await take(live, [rows.shift() as LedgerRow]);
    if (rows.length === 0) ledgers.delete(name);
  }
  expect(await tables(live)).toEqual(await tables(plain));
  const sums = (venue: Venue) =>
    where.database.withTenant(venue.tenantId, async (client) => {
      const { rows } = await client.query('SELECT * FROM gate_counts ORDER BY gate, event_id');
      return JSON.parse(JSON.stringify(rows).replaceAll(venue.site, 'site').replaceAll(venue.tenantId, 'tenant')) as unknown;
    });
  expect(await sums(live)).toEqual(await sums(plain));
});

test(`${SETS} sets of rows, in order and once, and shuffled, doubled and cut into batches: the same tables`, { timeout: 60_000 + SETS * 2_000 }, async () => {
  await fc.assert(sameTables, { numRuns: Math.ceil(SETS / SETS_AT_ONCE) });
  if (process.env['FIGURES'] !== undefined)
    console.log(`\nfigure: ${SETS} sets of rows in two arrival orders, one doubled and cut into batches: 0 differences in any table`);
});

test('X4: rows that come one by one, as guests pass, give the tables of one batch', { timeout: 120_000 }, async () => {
  await fc.assert(oneByOne, { numRuns: 1 });
});

const found: number[] = [];
afterAll(() => {
  if (process.env['FIGURES'] !== undefined) console.log(`\nfigure: ${found.length} planted mistakes found, after ${found.join(', ')} sets`);
});
test.each<[string, string, RegExp, string]>([
  ['the last word on a unit wins', 'judge_columns', /word_1 = greatest\(a\.word_1, excluded\.word_1\)/, 'word_1 = coalesce(excluded.word_1, a.word_1)'],
  ['a grant counts anew when it comes again', 'reconcile_columns', /FILTER \(WHERE NOT i\.known\)/, ''],
  ['a tie is decided by what arrived first', 'evaluate_tickets', /ORDER BY c\.event_id, c\.ticket_id, c\.at,/, 'ORDER BY c.event_id, c.ticket_id,'],
  [
    'the offset of a boot is the one that arrived last',
    'record_boots',
    /excluded\.bound_ms IS NOT NULL AND \(b\.bound_ms IS NULL OR \([^()]*\) < \([^()]*\)\)/g,
    'excluded.bound_ms IS NOT NULL',
  ],
  [
    'what was returned later is not taken off',
    'add_counts',
    /annulled = c\.annulled \+ excluded\.annulled/,
    'annulled = greatest(c.annulled, excluded.annulled)',
  ],
])('a planted mistake is found: %s', { timeout: 600_000 }, (_what, name, right, wrong) => isFound(sameTables, name, right, wrong));

test.each<[string, RegExp, string]>([
  [
    'a lone grant counts although its ticket has others',
    / ON CONFLICT DO NOTHING;\s+IF NOT FOUND THEN RETURN NULL; END IF;\s+placed_at/,
    ' ON CONFLICT DO NOTHING; placed_at',
  ],
  ['a lone word is a word on a party', / AND a\.units = 1 /, ' '],
  ['a lone row that measures its boot better moves nothing', / OR row_bound < boot\.bound_ms/, ''],
  ['a lone passage leaves its guest uncertain', /units_uncertain = a\.units_uncertain \+ uncertain_more/, 'units_uncertain = a.units_uncertain'],
])('X4: a planted mistake is found: %s', { timeout: 600_000 }, (_what, right, wrong) => isFound(oneByOne, 'reconcile_ordinary_row', right, wrong));

/** Looks in four times as many sets as are needed at most times: it ends with the first that shows the mistake, and chance must not hide it. */
async function isFound(property: typeof sameTables, name: string, right: RegExp, wrong: string): Promise<void> {
  const other = await freshDatabase();
  try {
    await other.database.asOwner(async (client) => {
      const { rows } = await client.query<{ sql: string }>('SELECT pg_get_functiondef($1::regproc) AS sql', [name]);
      const planted = rows[0]?.sql.replace(right, wrong) as string;
      expect(planted).not.toBe(rows[0]?.sql);
      await client.query(planted);
    });
    where = other;
    const run = await fc.check(property, { numRuns: (4 * MUTANT_SETS) / SETS_AT_ONCE, endOnFailure: true });
    expect(run.failed).toBe(true);
    found.push(run.numRuns * SETS_AT_ONCE);
  } finally {
    where = fresh;
    await other.drop();
  }
}
