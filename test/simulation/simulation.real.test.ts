/** The simulation, short: some histories, the same twice, every planted fault. The long form is `make sim` (row 2 of the promises). */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { freshDatabase } from '../../testkit/database.ts';
import { type Fixture, HISTORIES_A_FLEET, openFixture } from './fixture.ts';
import { hunt, MUTANTS } from './mutants.ts';
import { replay, runFleet, shrink } from './run.ts';
import { openRealAccount } from './sql.ts';
import type { MutantName } from './types.ts';

const SEED = 7;
const FLEETS = 4;
let fixture: Fixture;
beforeAll(() => {
  fixture = openFixture();
});
afterAll(() => fixture.close());

const run = (fleet: number, seed = SEED) => runFleet(fixture, { seed, fleet, below: Number.MAX_SAFE_INTEGER, mutant: null, real: null });

test(`${FLEETS * HISTORIES_A_FLEET} histories keep every invariant, and the SQL gives the reference account`, { timeout: 120_000 }, async () => {
  const fresh = await freshDatabase();
  const real = openRealAccount(fresh.url, null);
  try {
    for (let fleet = 0; fleet < FLEETS; fleet++) {
      const { failure, histories } = await runFleet(fixture, {
        seed: SEED,
        fleet,
        below: Number.MAX_SAFE_INTEGER,
        mutant: null,
        real: fleet % 2 === 0 ? real : null,
      });
      expect([failure, histories]).toEqual([null, HISTORIES_A_FLEET]);
    }
  } finally {
    await real.close();
    await fresh.drop();
  }
});

test('the same seed gives the same trace, another seed another', async () => {
  const [once, again, other] = [await run(3), await run(3), await run(3, SEED + 1)];
  expect(again).toEqual(once);
  expect(other.traceHash).not.toBe(once.traceHash);
});

/** Found late with this seed: the whole table (`make sim MUTANTS=1`, row 2 of the promises) has them. */
const LATE: ReadonlySet<string> = new Set(['sequence-reused-after-restore', 'manifest-counts-twice', 'disk-error-admits']);
/**
 * Open: 2,000 histories of seed 1 never reach it. A card that was put back would have to write more rows without the cloud than the cloud holds of that
 * epoch. On PostgreSQL cloud/reconcile/forks.test.ts shows it ("a row behind a fork is not stored").
 */
const UNREACHED: ReadonlySet<string> = new Set(['fork-stored']);
afterAll(() => console.info(`not hunted here: ${[...LATE].join(', ')} (late); ${[...UNREACHED].join(', ')} (no history reaches it yet)`));
test.each((Object.entries(MUTANTS) as [MutantName, string][]).filter(([mutant]) => !LATE.has(mutant) && !UNREACHED.has(mutant)))(
  'found: %s (%s)',
  { timeout: 120_000 },
  async (mutant) => {
    expect(await hunt(fixture, 1, mutant)).toMatchObject({ mutant, after: expect.any(Number) });
  },
);

test('a failing history becomes small, and fails again', { timeout: 120_000 }, async () => {
  const { history, violation } = await hunt(fixture, 1, 'return-forgotten');
  const whole = { seed: 1, history: history as number, alone: false, gates: null, steps: null };
  const small = await shrink(fixture, whole, 'return-forgotten', violation?.invariant ?? '', null);
  expect(small.steps?.length).toBeLessThanOrEqual(3);
  const { violations } = await replay(fixture, small, 'return-forgotten', { keepTrace: false, real: null });
  expect(violations.map((one) => one.invariant)).toContain(violation?.invariant);
});
