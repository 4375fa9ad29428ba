/** The cloud judges a ticket's history as a gate that knew all of it would have: evaluate_tickets against rules/entitlement.ts. SETS=500 for a long run. */
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Ask } from '../../rules/check-context.ts';
import { entitledUnits } from '../../rules/entitlement.ts';
import type { Entry } from '../../rules/facts.ts';
import { type EventPolicies, effectivePolicy, readPolicies } from '../../rules/policy.ts';
import { usageOf } from '../../rules/visits.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket } from '../../testkit/database.ts';
import { BOOT_MS, testLedger } from '../../testkit/ledgers.ts';
import { reconcile } from './reconcile.ts';

const SETS = Number(process.env['SETS'] ?? 25);
const TIME_ZONE = 'America/New_York';
let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

const limit = fc.option(fc.integer({ min: 1, max: 3 }), { freq: 1 });
const policies = fc.record({
  duplicate_window_s: fc.constantFrom(0, 10, 60),
  vip_reentry: fc.constantFrom('always', 'policy'),
  entries: fc.record({ total: limit, per_day: limit, per_gate: limit, days: limit }),
  reentry: fc.record({
    rule: fc.constantFrom('none', 'after_exit', 'always'),
    min_gap_s: fc.constantFrom(0, 60, 3600),
    max: fc.option(fc.integer({ min: 0, max: 2 })),
    until: fc.option(fc.constant(new Date(BOOT_MS + 40_000_000).toISOString())),
    counts_as_entry: fc.boolean(),
  }),
  passback: fc.record({ mode: fc.constantFrom('off', 'soft', 'hard'), forget_after_s: fc.option(fc.constantFrom(60, 3600)) }),
});
/** Steps that meet the bounds of the rules exactly, and step around them; a day, to change the date. */
const step = fc.constantFrom(1_000, 9_999, 10_000, 10_001, 60_000, 60_001, 3_600_000, 3_600_001, 20_000_000, 86_400_000);
const ticket = fc.record({
  maxScans: limit,
  units: fc.constantFrom(1, 1, 1, 3),
  vip: fc.constantFrom(false, false, false, true),
  uses: fc.array(
    fc.record({
      afterMs: step,
      gate: fc.integer({ min: 0, max: 1 }),
      direction: fc.constantFrom('in' as const, 'in' as const, 'out' as const),
      units: fc.constantFrom(1, 1, 2),
    }),
    {
      minLength: 1,
      maxLength: 8,
      size: 'max',
    },
  ),
});
const history = fc.record({ policies, tickets: fc.array(ticket, { minLength: 12, maxLength: 12 }) });
type History = typeof history extends fc.Arbitrary<infer T> ? T : never;

/** In order, by the gate's own rules: each verdict, with the reason where it is beyond the ticket's right. */
function byTheRules(one: History['tickets'][number], ofEvent: EventPolicies, gates: readonly string[]): string[] {
  const accepted: Entry[] = [];
  let atMs = BOOT_MS;
  let entered = false;
  return one.uses.map(({ afterMs, gate: index, direction, units }) => {
    atMs += afterMs;
    const gate = gates[index] as string;
    const usage = usageOf(accepted, one.units);
    const policy = effectivePolicy(ofEvent, 'standard', gate);
    const ask = {
      ticket: { units: one.units, maxScans: one.maxScans, vip: one.vip },
      event: { timeZone: TIME_ZONE },
      policy,
      place: { gate, nowMs: atMs, clockTrusted: true },
      entries: accepted,
      usage,
      flags: new Set<string>(),
    } as unknown as Ask;
    if (direction === 'out') {
      if (usage.inside === 0 && policy.passback.mode === 'hard') return 'excess:passback';
    } else {
      const entitled = entitledUnits(ask);
      if (typeof entitled !== 'number') return `excess:${entitled.reason}`;
    }
    accepted.push({ gate, atMs, direction, units, outcome: 'open' });
    if (direction === 'out') return 'exit';
    const verdict = entered ? 'reentry' : 'winner';
    entered = true;
    return verdict;
  });
}

async function byTheCloud(where: FreshDatabase, story: History): Promise<{ readonly cloud: string[][]; readonly rules: string[][] }> {
  const ofEvent = { event: story.policies };
  const read = readPolicies(ofEvent);
  if (!read.ok) throw new Error(`the generator made policies that no event may have: ${JSON.stringify(read)}`);
  const venue = await makeVenue(where.url, { tickets: story.tickets.length, policies: ofEvent });
  const ledgers = venue.gates.map((_, index) => testLedger(venue, index));
  const uses = story.tickets.flatMap((one, index) => {
    let atMs = 0;
    return one.uses.map((use) => ({ ...use, atMs: (atMs += use.afterMs), ticket: venue.tickets[index] as TestTicket }));
  });
  for (const { atMs, gate, direction, units, ticket: of } of uses.sort((a, b) => a.atMs - b.atMs)) ledgers[gate]?.grant(of, atMs, { direction, units });
  return where.database.withTenant(venue.tenantId, async (client) => {
    await client.query('UPDATE events SET time_zone = $1', [TIME_ZONE]);
    for (const [index, { maxScans, units, vip }] of story.tickets.entries())
      await client.query('UPDATE tickets SET max_scans = $2, units = $3, vip = $4 WHERE ticket_id = $1', [
        venue.tickets[index]?.ticketId,
        maxScans,
        units,
        vip,
      ]);
    await reconcile(
      client,
      ledgers.flatMap((ledger) => ledger.rows()),
    );
    const { rows } = await client.query<{ ticket_id: string; verdict: string }>(
      "SELECT ticket_id, coalesce(verdict, '-') || coalesce(':' || cause, '') AS verdict FROM admissions ORDER BY at, gate, seq",
    );
    const of = (id: string | undefined) => rows.filter(({ ticket_id }) => ticket_id === id).map(({ verdict }) => verdict);
    return {
      cloud: venue.tickets.map(({ ticketId }) => of(ticketId)),
      rules: story.tickets.map((one) => byTheRules(one, read.policies, venue.gates)),
    };
  });
}

test(`${SETS * 12} histories of tickets: the cloud's verdicts are those of the gate's rules`, { timeout: 30_000 + SETS * 3_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(history, async (story) => {
      const { cloud, rules } = await byTheCloud(fresh, story);
      expect(cloud).toEqual(rules);
    }),
    { numRuns: SETS, endOnFailure: true },
  );
});

test.each([
  ['one entry more than allowed', 'visits >= allowance', 'visits > allowance'],
  ['an exit lets nobody out', 'inside := greatest(0, inside - a.used); expected := 0;', 'expected := 0;'],
  ['a guest who is forgotten a millisecond late', '>= a.forget_after_s', '> a.forget_after_s'],
])('a planted mistake is found: %s', { timeout: 240_000 }, async (_, right, wrong) => {
  const other = await freshDatabase();
  try {
    await other.database.asOwner(async (client) => {
      const { rows } = await client.query<{ sql: string }>("SELECT pg_get_functiondef('evaluate_tickets'::regproc) AS sql");
      const sql = rows[0]?.sql as string;
      const planted = sql.replace(right, wrong);
      expect(planted).not.toBe(sql);
      await client.query(planted);
    });
    const run = await fc.check(
      fc.asyncProperty(history, async (story) => {
        const { cloud, rules } = await byTheCloud(other, story);
        return isDeepStrictEqual(cloud, rules);
      }),
      { numRuns: 600, endOnFailure: true },
    );
    expect(String(run.errorInstance)).toContain('returning false');
  } finally {
    await other.drop();
  }
});
