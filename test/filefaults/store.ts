/** The gate's store at work (test/powercut/life.ts): ledger, usage, manifests, page sums, room in the log, the fire latch, modes, requests. */

import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { judge, readStore } from '../powercut/check.ts';
import { live } from '../powercut/life.ts';
import { createRandom } from '../powercut/random.ts';
import { learn, marksOf, newTruth } from '../powercut/truth.ts';
import type { Scenario } from './scenario.ts';

/** Short lives of different seeds: each opens a store, and then does this many things. */
const STEPS = 14;

export const store = (seed: number): Scenario => ({
  name: `store ${seed}`,
  async act({ folder, beside, told }) {
    mkdirSync(join(beside, 'downloads'), { recursive: true });
    const task = {
      store: join(folder, 'store'),
      marks: join(beside, 'marks'),
      past: null,
      downloads: join(beside, 'downloads'),
      seed,
      steps: STEPS,
      end: 'leave' as const,
      fromMs: 1_000,
    };
    await live(task, { failed: (error) => told((error as Error).message), notice: (what, detail) => told(`${what}: ${detail}`) }).catch((error: unknown) =>
      told((error as Error).message),
    );
    return undefined;
  },
  async check({ folder, beside }) {
    const truth = newTruth();
    if (existsSync(join(beside, 'marks'))) for (const mark of marksOf(readFileSync(join(beside, 'marks')))) learn(truth, mark);
    const { problems } = judge(await readStore(join(folder, 'store'), truth, createRandom(seed)), truth, false);
    return problems;
  },
});
