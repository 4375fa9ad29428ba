/**
 * Row 6 of the promises: forged codes never open.
 *
 *   node test/forgery/prove.ts [--count 100000] [--seed n] [--plants] [--plant "any signature is right"]
 *
 * Ends 0 where no forged frame was admitted and every genuine one was, else 1. `--plant` puts that fault into the gate's code first: then 1 is right.
 * `--plants` runs every planted fault besides, each in a process of its own, and fails where one is not found.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { PLANTS, plant } from './mutants.ts';

const DEFAULT_COUNT = 100_000;
/** Codes that a planted fault is looked for with. */
const PLANTED_COUNT = 3_000;

const { values } = parseArgs({ options: { count: { type: 'string' }, seed: { type: 'string' }, plant: { type: 'string' }, plants: { type: 'boolean' } } });
const count = Number(values.count ?? DEFAULT_COUNT);
const seed = Number(values.seed ?? 1);
if (!Number.isInteger(count) || count < 1 || !Number.isInteger(seed)) {
  process.stderr.write('usage: node test/forgery/prove.ts [--count n] [--seed n] [--plants] [--plant fault]\n');
  process.exit(2);
}
if (values.plant !== undefined) plant(values.plant);
const { runForgeries } = await import('./run.ts');
const began = performance.now();
const result = await runForgeries({ count, seed });
const seconds = (performance.now() - began) / 1000;
for (const example of result.examples) process.stdout.write(`${example}\n`);
for (const [kind, admitted] of result.broken) process.stdout.write(`${admitted} admitted: ${kind}\n`);
process.stdout.write(
  `figure: ${result.forged} forged codes of ${result.kinds} kinds in ${result.frames} frames: ${result.admitted} admitted; ${result.genuineAdmitted} of ${result.genuine} genuine ones in between admitted (seed ${seed}, ${seconds.toFixed(0)} s)\n`,
);
process.exitCode = result.admitted === 0 && result.genuineAdmitted === result.genuine && result.genuine > 0 ? 0 : 1;

if (values.plants === true) {
  const names = Object.keys(PLANTS);
  const missed = names.filter((name) => {
    const args = [fileURLToPath(import.meta.url), '--count', String(PLANTED_COUNT), '--plant', name];
    const { status, stdout } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    return status !== 1 || !stdout.includes('figure:');
  });
  for (const name of missed) process.stdout.write(`not found: ${name}\n`);
  process.stdout.write(
    `figure: ${names.length} faults planted in the gate's checks, ${names.length - missed.length} found within ${PLANTED_COUNT} forged codes\n`,
  );
  if (missed.length > 0) process.exitCode = 1;
}
