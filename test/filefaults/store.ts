/** The gate's store at work (test/powercut/workload.ts): ledger, usage, manifests, page checksums, room in the log, the fire latch, modes, requests. */

import { cpSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openDatabase } from '../../daemon/store/sqlite.ts';
import { createRandom } from '../../testkit/prng.ts';
import { judge, readStore } from '../powercut/check.ts';
import { learn, marksOf, newTruth } from '../powercut/expected.ts';
import { live } from '../powercut/workload.ts';
import type { Scenario } from './scenario.ts';

/** Short lives of different seeds: each opens a store, and then does this many things. */
const STEPS = 14;

/** A database that is made anew: it has its log, or somebody was told. */
export const newDatabase: Scenario = {
  name: 'a new database',
  async act({ folder, told }) {
    try {
      openDatabase(join(folder, 'new.sqlite'), { synchronous: 'full' }).close();
      return true;
    } catch (error) {
      told((error as Error).message);
      return false;
    }
  },
  async check(trial, promised) {
    const logged = () => readFileSync(join(trial.folder, 'new.sqlite')).subarray(18, 20).equals(Buffer.of(2, 2));
    if (promised === true && !logged()) return ['it was opened, and has no write-ahead log'];
    return (await newDatabase.act(trial)) === true && logged() ? [] : ['it does not open once all is well'];
  },
  silent: [[/: (fsync|unlink|truncate) /, 'SQLite tries again; what stands on the disk then is looked at and synced']],
  unsynced: [[/: unlink/, 'a journal that comes back is rolled back into the same']],
};

export const store = (seed: number): Scenario => ({
  name: `store ${seed}`,
  async act({ folder, beside, told, phase }) {
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
    await live(task, {
      failed: (error) => told((error as Error).message),
      notice: (what, detail) => told(`${what}: ${detail}`),
      doing: (what) => {
        // As a power cut would find it: nothing is closed or folded.
        if (what === 'end') cpSync(task.store, join(beside, 'cut'), { recursive: true });
        phase(what);
      },
    }).catch((error: unknown) => told((error as Error).message));
    return undefined;
  },
  async check({ folder, beside }) {
    const truth = newTruth();
    if (existsSync(join(beside, 'marks'))) for (const mark of marksOf(readFileSync(join(beside, 'marks')))) learn(truth, mark);
    const judged = async (path: string) => judge(await readStore(path, truth, createRandom(seed)), truth, false).problems;
    const cut = join(beside, 'cut');
    return [...(existsSync(cut) ? await judged(cut) : []).map((one) => `cut off: ${one}`), ...(await judged(join(folder, 'store')))];
  },
  silent: [
    [/^end: /, 'what is not folded at the end stays in the log, and is folded by the next run'],
    [/^open: fsync \/store E/, 'SQLite asks for it and does not look at the answer'],
    [
      /^open: (fsync|write|unlink) \/store\/(ledger|usage)\.sqlite(-journal)? E/,
      'the change to a log, which SQLite tries again; what stands on the disk then is looked at and synced',
    ],
    [/^(idle|open): (open|write) \/store\/ledger\.sqlite-wal ENOSPC/, 'room in the log is laid out where there is some; else the commits make it longer'],
  ],
  unsynced: [
    [/-shm: /, 'made anew by the next run'],
    [/\/ledger\.rows/, 'a second copy of rows that stand in the ledger: each line is judged by its own checksum'],
    [/^\/store: unlink \/store\/(ledger|usage)\.sqlite-wal/, 'a log that comes back is folded already'],
  ],
});
