/**
 * Power cuts of a real ext4: the gate's decider works on a file system of its own, which is shut down without flushing anything; the
 * process is killed, the file system mounted again, and the store opened.
 *
 *   node test/powercut/mounted.ts [--cuts 100] [--control 20] [--seed 1]
 *
 * It needs root, loop devices, ext4 and a C compiler; where one is missing it says so. The control runs the same with synchronous=NORMAL
 * and must lose rows. What the file system had handed to its device counts as kept: the device's own cache is the recorded disk's part.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createRandom, mix } from '../../testkit/prng.ts';
import { compiler } from '../disk/faulty-disk.ts';
import { judge, readStore } from './check.ts';
import { memoryFolder } from './cuts.ts';
import { learn, type Mark, marksOf, newTruth, type Truth } from './expected.ts';

const DISK_BYTES = 48 * 1024 * 1024;
/** Cuts of one file system, one after another; then a new one is made. */
const CUTS_PER_DISK = 10;
/** From the gate's first answer until the power goes, at most, ms. */
const WORK_MS = 300;
/** File systems at work side by side: each mostly waits for its gate to come up. */
const DISKS = 2;
/** For the gate to come up, ms. */
const START_BOUND_MS = 60_000;
/** Between two cuts on the venue's clock, ms. */
const BETWEEN_MS = 10_000_000;

const gate = fileURLToPath(new URL('mounted-gate.ts', import.meta.url));
const plantsFile = new URL('mutants.ts', import.meta.url).href;

export interface MountedResult {
  cuts: number;
  failed: number;
  losing: number;
  lostRows: number;
  answered: number;
  readonly examples: string[];
}

export interface Bench {
  readonly folder: string;
  readonly disk: string;
  readonly mount: string;
  readonly shutDown: string;
}

const run = (command: string, ...args: string[]): void => {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
};

/** Makes a first file system and mounts it. A string: why this machine cannot. */
export function prepare(folder: string): Bench | string {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'mounting an ext4 of its own takes root on Linux';
  if (compiler === undefined) return 'the call that ends a file system is made from C, and this machine has no C compiler';
  const bench: Bench = { folder, disk: join(folder, 'disk.ext4'), mount: join(folder, 'mount'), shutDown: join(folder, 'shut-down') };
  mkdirSync(bench.mount);
  try {
    run(compiler, '-O2', '-Wall', '-Wextra', '-Werror', '-o', bench.shutDown, fileURLToPath(new URL('shut-down.c', import.meta.url)));
    newDisk(bench);
    mountDisk(bench);
    run(bench.shutDown, bench.mount);
    unmount(bench);
    return bench;
  } catch (error) {
    spawnSync('umount', [bench.mount]);
    return `no ext4 of its own can be mounted and shut down here (${(error as Error).message.split('\n')[0]})`;
  }
}

function newDisk({ disk }: Bench): void {
  writeFileSync(disk, '');
  truncateSync(disk, DISK_BYTES);
  run('mkfs.ext4', '-q', '-F', disk);
}
const mountDisk = ({ disk, mount }: Bench): void => run('mount', '-t', 'ext4', '-o', 'loop', disk, mount);
const unmount = ({ mount }: Bench): void => run('umount', mount);

export async function cutMounted(
  bench: Bench,
  options: { readonly cuts: number; readonly seed: number; readonly plants: readonly string[] },
): Promise<MountedResult> {
  const result: MountedResult = { cuts: 0, failed: 0, losing: 0, lostRows: 0, answered: 0, examples: [] };
  let truth = newTruth();
  let lost = false;
  for (let n = 0; n < options.cuts; n++) {
    const random = createRandom(mix(options.seed, n));
    // What is lost is lost: a run that lost rows goes on with a new disk.
    if (n % CUTS_PER_DISK === 0 || lost) {
      lost = false;
      newDisk(bench);
      truth = newTruth();
    }
    mountDisk(bench);
    try {
      const before = truth.rows.size;
      await workAndCut(bench, options, truth, mix(options.seed, n), n, random.below(WORK_MS));
      result.answered += truth.rows.size - before;
      mountDisk(bench);
      const found = judge(await readStore(join(bench.mount, 'store'), truth, random), truth, false);
      result.cuts++;
      result.lostRows += found.lost;
      if (found.lost > 0) result.losing++;
      if (found.problems.length > 0) {
        result.failed++;
        if (result.examples.length < 5) result.examples.push(`cut ${n}: ${found.problems.slice(0, 3).join('; ')}`);
        lost = true;
      }
    } finally {
      spawnSync('umount', [bench.mount]);
    }
  }
  return result;
}

function total(results: readonly MountedResult[]): MountedResult {
  const sum = (of: (result: MountedResult) => number): number => results.reduce((all, result) => all + of(result), 0);
  return {
    cuts: sum(({ cuts }) => cuts),
    failed: sum(({ failed }) => failed),
    losing: sum(({ losing }) => losing),
    lostRows: sum(({ lostRows }) => lostRows),
    answered: sum(({ answered }) => answered),
    examples: results.flatMap(({ examples }) => examples),
  };
}

async function workAndCut(
  bench: Bench,
  { plants }: { readonly plants: readonly string[] },
  truth: Truth,
  seed: number,
  n: number,
  workMs: number,
): Promise<void> {
  const downloads = truth.manifest === null ? bench.folder : '';
  const child = spawn(process.execPath, ['--import', plantsFile, gate, join(bench.mount, 'store'), String(seed), String(1_000 + n * BETWEEN_MS), downloads], {
    env: { ...process.env, STILE_PLANTS: plants.join(',') },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const chunks: Buffer[] = [];
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const working = new Promise<boolean>((resolve) => {
    child.stdout.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      if (Buffer.concat(chunks).includes('"work"')) resolve(true);
    });
    child.once('exit', () => resolve(false));
    setTimeout(() => resolve(false), START_BOUND_MS).unref();
  });
  const came = await working;
  if (came) await sleep(workMs);
  const goneNs = BigInt(spawnSync(bench.shutDown, [bench.mount], { encoding: 'utf8' }).stdout.trim() || '0');
  child.kill('SIGKILL');
  await ended;
  unmount(bench);
  if (!came) throw new Error(`the gate did not come up: ${errors.slice(0, 2_000)}`);
  const text = Buffer.concat(chunks).toString('utf8');
  // A line that the kill cut short tells nothing.
  for (const mark of marksOf(Buffer.from(text.slice(0, text.lastIndexOf('\n') + 1)))) {
    // ext4 answers an fsync that is under way while it is shut down as if it had been done, though the journal was given up. With the power gone nobody hears it.
    if (BigInt((mark as Mark & { atNs: string }).atNs) < goneNs) learn(truth, mark);
  }
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { cuts: { type: 'string', default: '100' }, control: { type: 'string', default: '20' }, seed: { type: 'string', default: '1' } },
  });
  const folder = memoryFolder();
  try {
    const benches: Bench[] = [];
    for (let n = 0; n < DISKS; n++) {
      mkdirSync(join(folder, String(n)));
      const bench = prepare(join(folder, String(n)));
      if (typeof bench === 'string') {
        process.stdout.write(`not shown: ${bench}\n`);
        return 0;
      }
      benches.push(bench);
    }
    // Stopped from outside: no mounted file system stays behind.
    process.once('SIGTERM', () => {
      for (const { mount } of benches) spawnSync('umount', [mount]);
      rmSync(folder, { recursive: true, force: true });
      process.exit(143);
    });
    const began = performance.now();
    const cutAll = async (cuts: number, seed: number, plants: readonly string[]): Promise<MountedResult> => {
      const share = (n: number) => Math.floor((cuts + n) / benches.length);
      return total(await Promise.all(benches.map((bench, n) => cutMounted(bench, { cuts: share(n), seed: mix(seed, n), plants }))));
    };
    const real = await cutAll(Number(values.cuts), Number(values.seed), []);
    const control = await cutAll(Number(values.control), Number(values.seed) + 1, ['normal']);
    const seconds = (performance.now() - began) / 1_000;
    process.stdout.write(
      `figure: ${real.cuts} cuts of a mounted ext4, shut down without flushing under the gate's decider: ${real.losing} lost rows (${real.lostRows} of ${real.answered} answered), ${real.failed} in which anything did not hold; the control with synchronous=NORMAL lost rows in ${control.losing} of ${control.cuts} (${control.lostRows} of ${control.answered}); ${seconds.toFixed(0)} s\n`,
    );
    for (const example of real.examples) process.stdout.write(`  ${example}\n`);
    return real.failed === 0 && real.cuts === Number(values.cuts) && control.losing > 0 ? 0 : 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (import.meta.main) process.exitCode = await main();
