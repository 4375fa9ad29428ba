/** Short forms of the promises' rows 1 and 9: `cuts.ts`, `mounted.ts` and `flips.ts` are the long ones. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compiler } from '../disk/faulty-disk.ts';
import { type CutsResult, memoryFolder, runCuts } from './cuts.ts';
import { runFlips } from './flips.ts';
import { type Bench, cutMounted, prepare } from './mounted.ts';
import { PLANTS, planted } from './mutants.ts';
import { compileRecorder } from './record.ts';
import { sourceOf } from './source.ts';

const BOUND_MS = 120_000;
const figures = (text: string): void => void process.stdout.write(`  ${text}\n`);
let folder: string;
beforeAll(() => {
  folder = memoryFolder();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

if (compiler === undefined || process.platform !== 'linux') test.skip('power cuts over a recorded disk');
else
  describe('power cuts over a recorded disk', () => {
    const cut = (plants: readonly string[], cuts: number): Promise<CutsResult> => {
      const library = join(folder, 'recording-disk.so');
      compileRecorder(compiler as string, library);
      const untilMs = Date.now() + BOUND_MS;
      return runCuts({ library, folder, seed: 3, cuts, plants, first: 0, every: 1, untilMs, firstFailure: plants.length > 0, rounds: 1 });
    };

    test(
      'nothing that was answered is lost',
      async () => {
        const found = await cut([], 300);
        expect(found.examples).toEqual([]);
        expect(found).toMatchObject({ cuts: 300, failed: 0, lostRows: 0 });
        expect(found.expectedRows).toBeGreaterThan(500);
        figures(`${found.cuts} cuts, ${found.opened} different disks, ${found.lostRows} of ${found.expectedRows} rows lost`);
      },
      BOUND_MS,
    );

    test.each(['normal', 'early'])(
      'a fault that loses rows is found: %s',
      async (plant) => {
        const found = await cut([plant], 300);
        expect(found.failed).toBeGreaterThan(0);
        figures(`${plant}: found after ${found.cuts} cuts: ${found.examples[0]}`);
      },
      BOUND_MS,
    );
  });

const mountFolder = memoryFolder();
afterAll(() => rmSync(mountFolder, { recursive: true, force: true }));
const bench: Bench | string = prepare(mountFolder);
if (typeof bench === 'string') test.skip('power cuts of a mounted file system');
else
  describe('power cuts of a mounted file system', () => {
    test(
      'nothing that was answered is lost; with synchronous=NORMAL rows are',
      async () => {
        const real = await cutMounted(bench, { cuts: 1, seed: 1, plants: [] });
        expect(real).toMatchObject({ cuts: 1, failed: 0, lostRows: 0, examples: [] });
        const control = await cutMounted(bench, { cuts: 1, seed: 2, plants: ['normal'] });
        expect(control.lostRows).toBeGreaterThan(0);
        figures(`${real.cuts} cuts, 0 of ${real.answered} lost; the control lost ${control.lostRows} of ${control.answered}`);
      },
      BOUND_MS,
    );
  });

test(
  'bits that are flipped are noticed, or nothing differs',
  async () => {
    const found = await runFlips({ folder, seed: 5, flips: 45, first: 0, every: 1 });
    expect(found.examples).toEqual([]);
    expect(found).toMatchObject({ flips: 45, silent: 0, late: 0, down: 0, unnamedRows: 0 });
    expect(found.detected).toBeGreaterThan(10);
    figures(`${found.flips} flips: ${found.detected} detected, ${found.harmless} harmless`);
  },
  BOUND_MS,
);

test('every plant still has its place in the source', () => {
  for (const [name, plants] of Object.entries(PLANTS)) for (const { file } of plants) expect(planted(sourceOf(file), file, [name])).not.toBe(sourceOf(file));
});
