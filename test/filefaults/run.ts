/**
 * Every n-th operation on every file fails (FAULTS M2). The short form is filefaults.real.test.ts; all operations, one after the other:
 *
 *   node test/filefaults/run.ts [--every 1] [--scenario <name>]…
 *
 * Ends with 1 where something promised was not there, or a fault was not told.
 */
import { fork } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { compiler } from '../disk/faulty-disk.ts';
import type { Injected, InjectTask } from './inject.ts';
import { compileShim } from './shim.ts';

/** Throws where there is no compiler, or the process ends without a result. */
export async function runFileFaults(options: { readonly every: number; readonly scenarios?: readonly string[] }): Promise<readonly Injected[]> {
  if (compiler === undefined) throw new Error('there is no C compiler');
  const folder = mkdtempSync(join(tmpdir(), 'stile-file-faults-'));
  try {
    const library = compileShim(compiler, folder);
    const task: InjectTask = { folder, scenarios: options.scenarios ?? [], every: options.every };
    return await new Promise((resolve, reject) => {
      const child = fork(fileURLToPath(new URL('inject.ts', import.meta.url)), [JSON.stringify(task)], {
        env: { ...process.env, LD_PRELOAD: library, STILE_FILE_FAULTS_CA: join(folder, 'ca') },
        stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
      });
      let result: readonly Injected[] | null = null;
      child.stdout?.resume();
      child.on('message', (message) => {
        result = message as readonly Injected[];
      });
      child.once('close', (code) => (result === null ? reject(new Error(`the faulty process ended with ${code}`)) : resolve(result)));
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { every: { type: 'string', default: '1' }, scenario: { type: 'string', multiple: true } } });
  const results = await runFileFaults({ every: Number(values.every), scenarios: values.scenario ?? [] });
  for (const { scenario, operations, trials, failed, problems, silent } of results) {
    process.stdout.write(
      `${scenario}: ${operations} operations, ${trials} trials, ${failed} failed operations, ${problems.length} problems, ${silent.length} silent\n`,
    );
    for (const line of [...problems, ...silent.map((one) => `not told: ${one}`)]) process.stdout.write(`  ${line}\n`);
  }
  if (results.some(({ problems, silent }) => problems.length + silent.length > 0)) process.exitCode = 1;
}

if (import.meta.main) await main();
