/**
 * Order is right as far as clocks allow, and says where they do not: gates whose clocks are wrong, whose boots measured the cloud's time well, badly or
 * not at all, against the true times of what happened, and against a second reckoning of where each row lies. HISTORIES=10000 for a long run.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { BOOT_MS, testLedger } from '../../testkit/ledgers.ts';
import { reconcile } from './reconcile.ts';
import type { LedgerRow } from './row.ts';

const HISTORIES = Number(process.env['HISTORIES'] ?? 300);
/** Histories (of one ticket each) that happen at the same gates. */
const AT_ONCE = 100;
/** A planted mistake must be found within so many. */
const MUTANT_HISTORIES = 300;
const GATES = ['a', 'b', 'c', 'd'];
/** Rows in one call. */
const BATCH_ROWS = 200;
const MINUTE_MS = 60_000;
/** What is said of a time is exact to less than this, in ms: PostgreSQL counts microseconds. */
const TOLERANCE_MS = 0.01;

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(() => fresh.drop());

interface Boot {
  readonly id: string;
  /** True time at which it began, ms after the evening did; the boot's own clock is 0 there. */
  readonly beganMs: number;
  /** What its rows say in their turn: measured wrong by so much, within a bound. */
  readonly measured: readonly { readonly wrongMs: number; readonly boundMs: number }[];
  /** The wall clock is wrong by so much. */
  readonly wallWrongMs: number;
}

const measure = fc.integer({ min: 1, max: 3 }).chain((size) => {
  const boundMs = [0, 5, 200, 20_000][size] as number;
  return fc.record({ wrongMs: fc.integer({ min: -boundMs, max: boundMs }), boundMs: fc.constant(boundMs) });
});
const boot = fc.record({
  lengthMs: fc.integer({ min: MINUTE_MS, max: 20 * MINUTE_MS }),
  measured: fc.oneof({ weight: 1, arbitrary: fc.constant([]) }, { weight: 4, arbitrary: fc.array(measure, { minLength: 1, maxLength: 4 }) }),
  wallWrongMs: fc.integer({ min: -600_000, max: 600_000 }),
});
const EVENING_MS = 60 * MINUTE_MS;
const evening = fc.record({
  boots: fc.array(fc.array(boot, { minLength: 3, maxLength: 6 }), { minLength: GATES.length, maxLength: GATES.length }),
  tickets: fc.array(
    fc.record({
      maxScans: fc.integer({ min: 1, max: 4 }),
      uses: fc
        .tuple(
          fc.noBias(fc.integer({ min: 0, max: EVENING_MS })),
          fc.array(fc.tuple(fc.nat(GATES.length - 1), fc.oneof(fc.integer({ min: 1, max: 500 }), fc.integer({ min: 1, max: 600_000 }))), {
            minLength: 2,
            maxLength: 5,
            size: 'max',
          }),
        )
        .map(([from, steps]) => {
          let at = from;
          return steps.map(([gate, afterMs]) => ({ gate, trueMs: Math.min(EVENING_MS, (at += afterMs)) }));
        }),
    }),
    { minLength: AT_ONCE, maxLength: AT_ONCE },
  ),
  seed: fc.nat(),
});
type Evening = typeof evening extends fc.Arbitrary<infer T> ? T : never;

/** The place of a row by the second calculation, ms after the evening began. */
interface Placed {
  readonly gate: number;
  readonly seq: number;
  readonly ticket: number;
  readonly trueMs: number;
  readonly low: number;
  readonly high: number;
  readonly middle: number;
}

/** The gates' ledgers as written in the evening, and where each row lies: reckoned from the rows alone, one gate after the other. */
function happen(venue: Venue, story: Evening): { readonly rows: LedgerRow[]; readonly placed: Placed[] } {
  const rows: LedgerRow[] = [];
  const placed: Placed[] = [];
  for (const [gate, boots] of story.boots.entries()) {
    const ledger = testLedger(venue, gate);
    const uses = story.tickets
      .flatMap(({ uses }, ticket) => uses.filter((use) => use.gate === gate).map(({ trueMs }) => ({ trueMs, ticket })))
      .sort((a, b) => a.trueMs - b.trueMs);
    let began = 0;
    const lives = boots.map(({ lengthMs, ...rest }, n): Boot => {
      const life = { ...rest, id: `boot-${GATES[gate]}-${n}`, beganMs: began };
      began += lengthMs;
      return life;
    });
    const written: {
      readonly life: Boot;
      readonly bootMs: number;
      readonly seq: number;
      readonly ticket: number;
      readonly trueMs: number;
      readonly wallMs: number;
    }[] = [];
    for (const { trueMs, ticket } of uses) {
      const life = lives.findLast(({ beganMs }) => beganMs <= trueMs) as Boot;
      const nth = written.filter((row) => row.life === life).length;
      const said = life.measured[Math.min(nth, life.measured.length - 1)];
      // The true offset of a boot is its beginning: cloud time = boot time + offset.
      ledger.reboot(life.id, said === undefined ? null : BOOT_MS + life.beganMs + said.wrongMs, said?.boundMs ?? 0);
      const wallMs = trueMs + life.wallWrongMs;
      const bootMs = trueMs - life.beganMs;
      const { seq } = ledger.grant(venue.tickets[ticket] as TestTicket, bootMs, { ts: new Date(BOOT_MS + wallMs).toISOString() });
      written.push({ life, bootMs, seq, ticket, trueMs, wallMs });
    }
    const offsets = new Map(
      lives.map((life) => {
        const own = written.filter((row) => row.life === life);
        const said = own.map((_, nth) => life.measured[Math.min(nth, life.measured.length - 1)]).filter((one) => one !== undefined);
        const best = said.toSorted((a, b) => a.boundMs - b.boundMs)[0];
        const last = own.at(-1);
        return [
          life,
          best === undefined || last === undefined
            ? null
            : { at: life.beganMs + best.wrongMs, boundMs: best.boundMs, firstMs: own[0]?.bootMs ?? 0, lastMs: last.bootMs },
        ] as const;
      }),
    );
    for (const row of written) {
      const own = offsets.get(row.life) ?? null;
      const place = (low: number, middle: number, high: number) =>
        placed.push({ gate, seq: row.seq, ticket: row.ticket, trueMs: row.trueMs, low, middle, high });
      if (own !== null) {
        place(own.at + row.bootMs - own.boundMs, own.at + row.bootMs, own.at + row.bootMs + own.boundMs);
        continue;
      }
      const number = lives.indexOf(row.life);
      const before = lives.slice(0, number).findLast((life) => offsets.get(life) !== null);
      const after = lives.slice(number + 1).find((life) => offsets.get(life) !== null);
      const [left, right] = [before === undefined ? null : offsets.get(before), after === undefined ? null : offsets.get(after)];
      const low = left ? left.at + left.lastMs - left.boundMs : Number.NEGATIVE_INFINITY;
      const high = right ? Math.max(right.at + right.firstMs + right.boundMs, low) : Number.POSITIVE_INFINITY;
      place(low, left && right ? (low + high) / 2 : Math.max(Math.min(row.wallMs, high), low), high);
    }
    rows.push(...ledger.rows());
  }
  return { rows, placed };
}

interface Judged {
  readonly gate: string;
  readonly seq: number;
  readonly verdict: string;
  readonly overlapping: boolean;
  readonly low: number;
  readonly middle: number;
  readonly high: number;
}
const tally = { histories: 0, pairs: 0, apart: 0, flagged: 0 };

/** Plays evenings and answers what is wrong: one line a mistake. */
async function mistakesOf(where: FreshDatabase, story: Evening): Promise<string[]> {
  const venue = await makeVenue(where.url, { tickets: AT_ONCE, gates: GATES, policies: { event: { duplicate_window_s: 0, reentry: { rule: 'always' } } } });
  const { rows, placed } = happen(venue, story);
  const judged = await where.database.withTenant(venue.tenantId, async (client) => {
    await client.query("UPDATE tickets t SET max_scans = k.max FROM unnest($1::integer[]) WITH ORDINALITY AS k (max, n) WHERE t.ticket_id = 'T-' || k.n", [
      story.tickets.map(({ maxScans }) => maxScans),
    ]);
    // Arrival is anything but the order of things.
    let seed = story.seed % 2_147_483_646;
    const next = () => (seed = ((seed + 1) * 48_271) % 2_147_483_647);
    const mixed = rows.map((row) => ({ row, key: next() })).sort((a, b) => a.key - b.key);
    for (let at = 0; at < mixed.length; at += BATCH_ROWS)
      await reconcile(
        client,
        mixed.slice(at, at + BATCH_ROWS).map(({ row }) => row),
      );
    const ms = (column: string) => `(extract(epoch FROM ${column}) * 1000 - ${BOOT_MS})::double precision`;
    return (
      await client.query<Judged>(
        `SELECT split_part(gate, '/', 2) AS gate, seq, verdict, overlapping, ${ms('at_low')} AS low, ${ms('at')} AS middle, ${ms('at_high')} AS high FROM admissions`,
      )
    ).rows;
  });
  const mistakes: string[] = [];
  const found = new Map(judged.map((row) => [`${row.gate} ${row.seq}`, row]));
  for (const ticket of Map.groupBy(placed, (row) => row.ticket).values()) {
    tally.histories += 1;
    const both = ticket.map((row) => ({ ...row, sql: found.get(`${GATES[row.gate]} ${row.seq}`) }));
    for (const { sql, ...row } of both) {
      const name = `${GATES[row.gate]}/${row.seq}`;
      if (sql === undefined) {
        mistakes.push(`${name} is not there`);
        continue;
      }
      const near = (a: number, b: number) => a === b || Math.abs(a - b) < TOLERANCE_MS;
      if (!near(sql.low, row.low) || !near(sql.middle, row.middle) || !near(sql.high, row.high))
        mistakes.push(`${name} lies in ${sql.low} … ${sql.middle} … ${sql.high}, reckoned ${row.low} … ${row.middle} … ${row.high}`);
      if (row.trueMs < sql.low - TOLERANCE_MS || row.trueMs > sql.high + TOLERANCE_MS) mistakes.push(`${name} happened at ${row.trueMs}, outside its bound`);
      const overlaps = both.some((other) => other.sql !== sql && other.low <= row.high && row.low <= other.high);
      if (overlaps !== sql.overlapping) mistakes.push(`${name} is ${sql.overlapping ? '' : 'not '}flagged`);
      if (sql.overlapping) tally.flagged += 1;
    }
    const rank = { winner: 0, reentry: 1, excess: 2 } as Readonly<Record<string, number>>;
    for (const a of both)
      for (const b of both) {
        if (a === b || a.sql === undefined || b.sql === undefined) continue;
        tally.pairs += 1;
        // Bounds apart: what the account put first happened first.
        if (a.high >= b.low) continue;
        tally.apart += 1;
        if ((rank[a.sql.verdict] ?? 9) > (rank[b.sql.verdict] ?? 9)) mistakes.push(`${a.sql.verdict} at ${a.trueMs}, ${b.sql.verdict} at ${b.trueMs}`);
        if (a.trueMs > b.trueMs) mistakes.push('the bounds are apart the wrong way round');
      }
    // And by the fixed rule where they overlap: the earliest middle won.
    const first = both.toSorted((a, b) => a.middle - b.middle || (a.gate === b.gate ? a.seq - b.seq : a.gate - b.gate))[0];
    if (first?.sql?.verdict !== 'winner') mistakes.push(`the first of its ticket is ${first?.sql?.verdict}`);
  }
  return mistakes;
}

/** Plays evenings until one goes wrong; its seed finds it again. A failure of the database's is no finding. */
async function firstMistakes(where: FreshDatabase, histories: number): Promise<{ readonly mistakes: readonly string[]; readonly seed: number }> {
  let mistakes: string[] = [];
  let failure: unknown;
  const run = await fc.check(
    fc.asyncProperty(evening, async (story) => {
      try {
        mistakes = await mistakesOf(where, story);
      } catch (error) {
        failure = error;
      }
      return mistakes.length === 0 && failure === undefined;
    }),
    { numRuns: Math.ceil(histories / AT_ONCE), endOnFailure: true, ...(process.env['SEED'] === undefined ? {} : { seed: Number(process.env['SEED']) }) },
  );
  if (failure !== undefined) throw failure;
  return { mistakes, seed: run.seed };
}

test(`${HISTORIES} histories with skewed clocks: none in a wrong order outside the stated bound, every overlap flagged`, {
  timeout: 60_000 + HISTORIES * 100,
}, async () => {
  const { mistakes, seed } = await firstMistakes(fresh, HISTORIES);
  expect(mistakes.slice(0, 10), `SEED=${seed} finds it again`).toEqual([]);
  expect(tally.apart).toBeGreaterThan(tally.pairs / 20);
  expect(tally.flagged).toBeGreaterThan(0);
  if (process.env['FIGURES'] !== undefined)
    console.log(
      `\nfigure: ${tally.histories} histories with skewed clocks, ${tally.apart} pairs of entries whose bounds are apart: 0 in a wrong order; ${tally.flagged} entries flagged as overlapping`,
    );
});

test.each<[string, string]>([
  ['rank by arrival', "NEW.at := CASE TG_OP WHEN 'INSERT' THEN clock_timestamp() ELSE OLD.at END"],
  ['the wall clock instead of the offset', 'NEW.at := NEW.ts'],
  ['overlaps are not told', 'NEW.overlapping := false'],
  ['a bound is not believed', 'NEW.at_low := NEW.at; NEW.at_high := NEW.at'],
])('a planted mistake is found: %s', { timeout: 240_000 }, async (what, wrong) => {
  const other = await freshDatabase();
  try {
    await other.database.asOwner((client) =>
      client.query(`CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${wrong}; RETURN NEW; END $$;
        CREATE TRIGGER planted BEFORE INSERT OR UPDATE ON admissions FOR EACH ROW EXECUTE FUNCTION planted()`),
    );
    const { mistakes } = await firstMistakes(other, MUTANT_HISTORIES);
    expect(mistakes.length).toBeGreaterThan(0);
    if (process.env['FIGURES'] !== undefined) console.log(`\nfigure: planted mistake found: ${what} (${mistakes[0]})`);
  } finally {
    await other.drop();
  }
});
