import { defineConfig } from 'vitest/config';
import { LongestFirst } from './test/sequence.ts';

/** Two cores: few workers, and none that share a database (each file makes its own from a template). */
export default defineConfig({
  test: {
    pool: 'forks',
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
    // Ends of patience, far beyond what a test takes: no test may need a quiet machine.
    testTimeout: 60_000,
    hookTimeout: 240_000,
    // Vitest's own end of patience is one second: too short for a machine that does something else beside.
    expect: { poll: { timeout: 45_000, interval: 20 } },
    projects: [
      {
        extends: true,
        // Beside the file, quick, no server of any kind: `make check` runs these.
        test: {
          name: 'unit',
          include: ['{contract,rules,signing,manifest-format,runtime,daemon,testkit,deploy,test}/**/*.test.ts'],
          exclude: ['**/*.real.test.ts', 'test/system/**', 'test/faults/**', 'test/kernel/**', 'node_modules/**', '.tools/**'],
        },
      },
      {
        extends: true,
        // Beside the file, with the real Postgres, the real broker, other processes.
        test: {
          name: 'real',
          include: ['{contract,rules,signing,manifest-format,runtime,daemon,testkit,deploy,test}/**/*.real.test.ts', 'cloud/**/*.test.ts'],
          exclude: ['test/system/**', 'test/kernel/**'],
          testTimeout: 120_000,
        },
      },
      {
        extends: true,
        // A kernel of its own in QEMU: about a minute, and longer forms by `make prove-kernel`.
        test: { name: 'kernel', include: ['test/kernel/**/*.test.ts'] },
      },
      {
        extends: true,
        // The whole system: gates as processes, broker, database, each file its own.
        test: { name: 'system', include: ['test/{system,faults}/**/*.test.ts'], testTimeout: 240_000 },
      },
    ],
  },
});
