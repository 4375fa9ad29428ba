/**
 * Row 6 of the promises, second half: the properties of recognition, signatures and admission at full length.
 *
 *   node test/forgery/properties.ts
 *
 * Ends 0 where every property held for all its runs.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Tests that take their length from STILE_PROVE: 20,000 runs a property. */
const FILES = ['rules/stile-code.test.ts', 'rules/code.test.ts', 'rules/admission.property.test.ts', 'contract/parse.test.ts'];
const RUNS = 20_000;

const root = join(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'stile-properties-'));
const report = join(folder, 'report.json');
try {
  const args = [
    'node_modules/vitest/vitest.mjs',
    'run',
    '--project',
    'unit',
    '--testTimeout=240000',
    '--reporter=dot',
    '--reporter=json',
    `--outputFile.json=${report}`,
  ];
  const { status } = spawnSync(process.execPath, [...args, ...FILES], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, STILE_PROVE: '1' },
  });
  const { numPassedTests, numTotalTests, numFailedTests } = JSON.parse(readFileSync(report, 'utf8')) as Record<string, number>;
  process.stdout.write(
    `figure: ${numPassedTests} of ${numTotalTests} tests of codes, signatures and admission passed, their properties with ${RUNS.toLocaleString('en')} runs each; ${numFailedTests} failed\n`,
  );
  process.exitCode = status === 0 && numFailedTests === 0 && (numPassedTests ?? 0) > 0 ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
