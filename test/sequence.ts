/**
 * Starts the long test files first: a file of a minute that starts last leaves one processor idle for a minute.
 *
 * Seconds on two quiet cores, rounded; only their order matters. A file that is not named counts as short.
 */
import { BaseSequencer, type TestSpecification } from 'vitest/node';

const SECONDS: readonly (readonly [file: string, seconds: number])[] = [
  ['test/kernel/kernel.test.ts', 60],
  ['test/system/outages.test.ts', 60],
  ['test/system/restore.test.ts', 50],
  ['daemon/main.real.test.ts', 45],
  ['test/system/disk.test.ts', 45],
  ['daemon/cli/selftest.real.test.ts', 40],
  ['test/faults/hostile.test.ts', 35],
  ['daemon/cli/screens.real.test.ts', 30],
  ['deploy/install.real.test.ts', 30],
  ['daemon/cli/doctor.real.test.ts', 30],
  ['cloud/main.test.ts', 30],
  ['daemon/gate/exits.real.test.ts', 28],
  ['test/system/vip.test.ts', 28],
  ['test/system/requests.test.ts', 27],
  ['daemon/cli/ledger-recover.real.test.ts', 24],
  ['test/system/demo.test.ts', 22],
  ['test/faults/exactly-once.test.ts', 20],
  ['test/faults/identity.test.ts', 20],
  ['cloud/reconcile/concurrency.test.ts', 20],
  ['test/tidy/promises.test.ts', 15],
  ['test/powercut/powercut.real.test.ts', 15],
  ['test/simulation/simulation.real.test.ts', 15],
];

const secondsOf = (file: string): number => SECONDS.find(([name]) => file.endsWith(`/${name}`))?.[1] ?? (/\/test\/(system|faults)\//.test(file) ? 18 : 1);

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return [...files].sort((a, b) => secondsOf(b.moduleId) - secondsOf(a.moduleId) || (a.moduleId < b.moduleId ? -1 : 1));
  }
}
