/**
 * The promises of Stile and how each is shown: the table that `make prove` runs and that docs/PROMISES.md repeats.
 * A command ends 0 when its promise held, 1 when it did not. It prints `figure: …` lines, one sentence with numbers each,
 * and `not shown: …` for what this machine lacks.
 */

/** One thing to run for a promise. `boundS`: seconds that it takes at most on a quiet machine; after some times as long (prove.ts) it is stopped and counts as broken. */
export interface Proof {
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly boundS: number;
}

/** One row of the table. `short`: the file of `make test` that shows a short form of it. */
export interface Promised {
  readonly row: number;
  readonly promise: string;
  readonly short: string;
  readonly proofs: readonly Proof[];
}

/** Bound of a row's proofs together, seconds; row 5 waits for 300 holds at their real length. */
export const ROW_BOUND_S = 300;
export const RELEASE_ROW_BOUND_S = 900;

export const promises: readonly Promised[] = [
  {
    row: 1,
    promise: 'The gate never opens for a grant that is not durably recorded, and no recorded row is lost',
    short: 'test/powercut/powercut.real.test.ts',
    proofs: [
      { command: ['node', 'test/powercut/cuts.ts', '--cuts', '100000', '--seconds', '205'], boundS: 210 },
      { command: ['node', 'test/powercut/cuts.ts', '--cuts', '200', '--plants', 'normal', '--seconds', '15'], boundS: 25 },
      { command: ['node', 'test/powercut/mounted.ts', '--cuts', '100', '--control', '10'], boundS: 65 },
    ],
  },
  {
    row: 2,
    promise: 'The fleet keeps its invariants whatever fails',
    short: 'test/simulation/simulation.real.test.ts',
    proofs: [
      { command: ['node', 'test/simulation/main.ts', '--seed', '1', '--histories', '20000'], boundS: 260 },
      { command: ['node', 'test/simulation/main.ts', '--mutants'], boundS: 40 },
    ],
  },
  {
    row: 3,
    promise: 'What a gate recorded reaches Postgres exactly once',
    short: 'test/faults/exactly-once.test.ts',
    proofs: [{ command: ['node', 'test/faults/exactly-once.ts'], boundS: 300 }],
  },
  {
    row: 4,
    promise: 'No ticket is admitted beyond its allowance where the gate or the cloud could know',
    short: 'cloud/reconcile/permutations.test.ts',
    proofs: [
      {
        command: ['node', 'node_modules/vitest/vitest.mjs', 'run', 'cloud/reconcile/permutations.test.ts', '--project', 'real'],
        env: { SETS: '1000', FIGURES: '1' },
        boundS: 120,
      },
      {
        command: [
          'node',
          'node_modules/vitest/vitest.mjs',
          'run',
          'cloud/reconcile/concurrency.test.ts',
          'cloud/tickets/doors.test.ts',
          '--project',
          'real',
          '-t',
          '400 tickets',
        ],
        env: { CROWD: '400', FIGURES: '1' },
        boundS: 180,
      },
    ],
  },
  {
    row: 5,
    promise: 'The release returns to its defined state in bounded time',
    short: 'test/system/kills.test.ts',
    proofs: [
      {
        command: ['node', 'node_modules/vitest/vitest.mjs', 'run', 'test/system/kills.test.ts', '--project', 'system'],
        env: { STILE_PROVE: '1' },
        boundS: 350,
      },
      {
        command: ['node', 'node_modules/vitest/vitest.mjs', 'run', 'test/kernel/kernel.test.ts', '--project', 'kernel'],
        env: { KERNEL: 'ends' },
        boundS: 550,
      },
    ],
  },
  {
    row: 6,
    promise: 'A forged, replayed, revoked or garbled code never opens',
    short: 'test/forgery/forgery.test.ts',
    proofs: [
      { command: ['node', 'test/forgery/prove.ts', '--plants'], boundS: 180 },
      { command: ['node', 'test/forgery/properties.ts'], boundS: 120 },
    ],
  },
  {
    row: 7,
    promise: 'No device speaks for another',
    short: 'test/faults/identity.test.ts',
    proofs: [{ command: ['node', 'test/faults/identity-matrix.ts', '--gates-per-site', '3'], boundS: 180 }],
  },
  {
    row: 8,
    promise: 'No tenant sees another',
    short: 'cloud/db/isolation.test.ts',
    proofs: [
      { command: ['node', 'node_modules/vitest/vitest.mjs', 'run', 'cloud/db/isolation.test.ts', '--project', 'real'], env: { FIGURES: '1' }, boundS: 120 },
    ],
  },
  {
    row: 9,
    promise: 'Damage is detected, never silently used',
    short: 'test/powercut/powercut.real.test.ts',
    proofs: [
      { command: ['node', 'test/powercut/flips.ts', '--flips', '3000'], boundS: 195 },
      {
        command: ['node', 'node_modules/vitest/vitest.mjs', 'run', 'test/faults/trouble.test.ts', '--project', 'system'],
        env: { STILE_PROVE: '1' },
        boundS: 105,
      },
    ],
  },
  {
    row: 10,
    promise: 'Bad input is bounded',
    short: 'test/faults/hostile.test.ts',
    proofs: [{ command: ['node', 'test/faults/hostile.ts'], boundS: 290 }],
  },
  {
    row: 11,
    promise: 'Order is right as far as clocks allow, and says where they do not',
    short: 'cloud/reconcile/clocks.test.ts',
    proofs: [
      {
        command: ['node', 'node_modules/vitest/vitest.mjs', 'run', 'cloud/reconcile/clocks.test.ts', '--project', 'real'],
        env: { HISTORIES: '10000', FIGURES: '1' },
        boundS: 240,
      },
    ],
  },
];
