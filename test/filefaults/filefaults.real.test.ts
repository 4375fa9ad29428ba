/** The short form of run.ts: some of the operations on every file that something is promised of. */
import { expect, test } from 'vitest';
import { compiler } from '../disk/faulty-disk.ts';
import { runFileFaults } from './run.ts';
import { SCENARIOS } from './scenarios.ts';

/** Every so many operations, in each of the four manners from another place. */
const OF_STORES = 24;
const OF_SMALL_FILES = 5;

const stores = SCENARIOS.map(({ name }) => name).filter((name) => name.startsWith('store'));
const small = SCENARIOS.map(({ name }) => name).filter((name) => !name.startsWith('store'));

if (compiler === undefined || process.platform !== 'linux') test.skip('M2: whatever operation fails');
else
  test.each([
    ["the gate's store", stores.slice(0, 2), OF_STORES],
    ['small files', small, OF_SMALL_FILES],
  ] as const)(
    'M2: whatever operation on %s fails, nothing was promised that is not there, it is told, and all is whole once the disk works again',
    async (_name, scenarios, every) => {
      const found = await runFileFaults({ every, scenarios });
      expect(found.map(({ scenario }) => scenario).sort()).toEqual([...scenarios].sort());
      expect(Object.fromEntries(found.map(({ scenario, problems, silent }) => [scenario, { problems, silent }]))).toEqual(
        Object.fromEntries(scenarios.map((name) => [name, { problems: [], silent: [] }])),
      );
      for (const { trials, failed } of found) expect(failed).toBeGreaterThanOrEqual(trials);
    },
    180_000,
  );
