/**
 * Power cuts over a recorded disk.
 *
 *   node test/powercut/cuts.ts [--cuts 100000] [--seed 1] [--workers 2] [--plants normal,…] [--seconds 280]
 *
 * Ends 0 when nothing was lost. With --plants it tells whether the fault was found, and ends 0 then.
 */
import { fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createRandom, mix } from '../../testkit/prng.ts';
import { compiler } from '../disk/faulty-disk.ts';
import { type ChainOptions, type Round, runChain } from './chain.ts';
import { judge, type Reading, readStore } from './check.ts';
import { type Image, type Manner, writeImage } from './disk-model.ts';
import { learn, marksOf } from './expected.ts';
import { compileRecorder } from './record.ts';

export interface CutsTask {
  readonly library: string;
  readonly folder: string;
  readonly seed: number;
  readonly cuts: number;
  readonly plants: readonly string[];
  /** Every `every`-th chain, from `first`. */
  readonly first: number;
  readonly every: number;
  readonly untilMs: number;
  /** Ends with the first failure. */
  readonly firstFailure: boolean;
  /** Rounds of a chain. */
  readonly rounds: number;
}

export interface CutsResult {
  cuts: number;
  /** Different images, each opened by the gate's own code. */
  opened: number;
  /** Cuts after which something did not hold. */
  failed: number;
  /** Rows that were answered and gone, over all cuts; cuts that lost any. */
  lostRows: number;
  expectedRows: number;
  losing: number;
  rounds: number;
  chains: number;
  writes: number;
  syncs: number;
  quarantine: number;
  peerForgotten: number;
  /** Cuts by what the gate was doing. */
  readonly doing: Record<string, number>;
  readonly examples: string[];
}

const ROUNDS = 4;
/** Every fourth chain has a log that is folded late, every eighth with all its room as it ships: its disks are large, and fewer can be opened in the time. */
const sizeOf = (chain: number): readonly string[] => (chain % 8 === 7 ? [] : chain % 4 === 3 ? ['room'] : ['small']);
const STEPS = 90;
/** Cuts of one round: a dozen for every thing that was asked of the disk, each in a manner of its own. */
const CUTS_PER_ROUND = 6_000;
const MAX_EXAMPLES = 5;

const nothing = (): CutsResult => ({
  cuts: 0,
  opened: 0,
  failed: 0,
  lostRows: 0,
  expectedRows: 0,
  losing: 0,
  rounds: 0,
  chains: 0,
  writes: 0,
  syncs: 0,
  quarantine: 0,
  peerForgotten: 0,
  doing: {},
  examples: [],
});

/** Ends a chain whose further rounds nobody wants. */
class Enough extends Error {}

/** One worker's share. */
export async function runCuts(task: CutsTask): Promise<CutsResult> {
  const result = nothing();
  const enough = () => result.cuts >= task.cuts || Date.now() >= task.untilMs || (task.firstFailure && result.failed > 0);
  for (let number = task.first; !enough(); number += task.every) {
    const folder = join(task.folder, `chain-${number}`);
    const options: ChainOptions = {
      folder,
      library: task.library,
      seed: mix(task.seed, number),
      rounds: task.rounds,
      steps: STEPS,
      plants: [...sizeOf(number), ...task.plants],
      damaged: number % 2 === 1,
    };
    const image = join(folder, 'image');
    result.chains++;
    try {
      await runChain(options, async (round) => {
        await cutRound(round, image, task, result, `--seed ${task.seed}, chain ${number}`);
        if (enough()) throw new Enough();
      });
    } catch (error) {
      if (!(error instanceof Enough)) {
        // A gate that does not come up after a cut or after damage.
        result.failed++;
        result.examples.push(`--seed ${task.seed}, chain ${number}, round ${result.rounds + 1}: ${(error as Error).message.slice(0, 2_000)}`);
      }
    }
    rmSync(folder, { recursive: true, force: true });
  }
  return result;
}

async function cutRound(round: Round, image: string, task: CutsTask, result: CutsResult, name: string): Promise<void> {
  const wanted = Math.min(CUTS_PER_ROUND, task.cuts - result.cuts);
  const random = createRandom(mix(round.seed, 3));
  // Everywhere in the record, marks left out: a cut between two marks is the same cut.
  const places = round.ops.flatMap((op, at) => (op.op === 'mark' ? [] : [at + 1]));
  const at = Array.from({ length: wanted }, (_, n) => (n < places.length && wanted >= places.length ? (places[n] as number) : random.pick(places))).sort(
    (a, b) => a - b,
  );
  const { disk, truth } = round.begin();
  result.rounds++;
  for (const op of round.ops) {
    if (op.op === 'write') result.writes++;
    if (op.op === 'sync') result.syncs++;
  }
  let done = 0;
  /** The same image after another cut was opened before: only what had been answered by then is another. */
  const readings = new Map<string, Reading>();
  for (const [n, end] of at.entries()) {
    if (Date.now() > task.untilMs) return;
    for (; done < end; done++) {
      const op = round.ops[done];
      if (op?.op === 'mark') for (const mark of marksOf(op.data)) learn(truth, mark);
      else if (op !== undefined) disk.apply(op);
    }
    // A mark that was made between this and the next thing asked of the disk: answered by now.
    const chance = createRandom(mix(round.seed, 4, n));
    const manner = chance.pick<Manner>(['lost', 'lost', 'order', 'order', 'any', 'any', 'any', 'kept']);
    const cut = disk.cut(chance, manner);
    const digest = digestOf(cut);
    let reading = readings.get(digest);
    if (reading === undefined) {
      rmSync(image, { recursive: true, force: true });
      writeImage(image, new Map([['', null], ...cut]));
      reading = await readStore(image, truth, chance);
      readings.set(digest, reading);
      result.opened++;
    }
    const found = judge(reading, truth, round.damaged);
    result.cuts++;
    result.doing[truth.doing] = (result.doing[truth.doing] ?? 0) + 1;
    result.expectedRows += found.expected;
    result.lostRows += found.lost;
    if (found.lost > 0) result.losing++;
    if (found.notices.some((notice) => notice.includes('set aside'))) result.quarantine++;
    result.peerForgotten = Math.max(result.peerForgotten, found.peerForgotten);
    if (found.problems.length === 0) continue;
    result.failed++;
    if (result.examples.length < MAX_EXAMPLES)
      result.examples.push(
        `${name}, round ${result.rounds}, cut ${n} before entry ${end} (${truth.doing}, ${manner}${round.damaged ? ', damaged before' : ''}): ${found.problems.slice(0, 3).join('; ')}`,
      );
    if (task.firstFailure) return;
  }
}

function digestOf(image: Image): string {
  const hash = createHash('sha1');
  for (const [path, data] of image) hash.update(`${path} ${data === null ? 'folder' : data.length}\n`).update(data ?? '');
  return hash.digest('hex');
}

/** Somewhere in memory, where there is such a place: the disk that counts is the recorded one. */
export const memoryFolder = (): string => mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'stile-cuts-'));

export function sum(results: readonly CutsResult[]): CutsResult {
  const all = nothing();
  for (const one of results) {
    for (const [key, value] of Object.entries(one)) {
      if (typeof value !== 'number') continue;
      const name = key as 'cuts';
      all[name] = key === 'peerForgotten' ? Math.max(all[name], value) : all[name] + value;
    }
    for (const [what, count] of Object.entries(one.doing)) all.doing[what] = (all.doing[what] ?? 0) + count;
    all.examples.push(...one.examples);
  }
  return all;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      cuts: { type: 'string', default: '100000' },
      seed: { type: 'string', default: '1' },
      workers: { type: 'string', default: '2' },
      plants: { type: 'string', default: '' },
      seconds: { type: 'string', default: '280' },
    },
  });
  if (compiler === undefined || process.platform !== 'linux') {
    process.stdout.write('not shown: the recorder is compiled from C and preloaded, and this machine has no C compiler\n');
    return 0;
  }
  const folder = memoryFolder();
  const began = performance.now();
  try {
    const library = join(folder, 'recording-disk.so');
    compileRecorder(compiler, library);
    const workers = Number(values.workers);
    const plants = values.plants.split(',').filter((name) => name !== '');
    const tasks = Array.from(
      { length: workers },
      (_, n): CutsTask => ({
        library,
        folder,
        seed: Number(values.seed),
        cuts: Math.ceil(Number(values.cuts) / workers),
        plants,
        first: n,
        every: workers,
        untilMs: Date.now() + Number(values.seconds) * 1_000,
        firstFailure: false,
        rounds: ROUNDS,
      }),
    );
    const all = sum(await Promise.all(tasks.map(inProcess)));
    report(all, plants, (performance.now() - began) / 1_000);
    const found = all.failed > 0;
    return (plants.length > 0 ? found : !found && all.cuts >= Number(values.cuts)) ? 0 : 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const inProcess = (task: CutsTask): Promise<CutsResult> =>
  new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), { env: { ...process.env, STILE_CUTS_TASK: JSON.stringify(task) } });
    let result: CutsResult | null = null;
    child.on('message', (message) => {
      result = message as CutsResult;
    });
    child.on('exit', (code) => (result === null ? reject(new Error(`a worker of the cuts ended with ${code}`)) : resolve(result)));
  });

function report(all: CutsResult, plants: readonly string[], seconds: number): void {
  const doing = Object.entries(all.doing)
    .sort((a, b) => b[1] - a[1])
    .map(([what, count]) => `${what} ${count}`)
    .join(', ');
  const what = plants.length > 0 ? ` with ${plants.join(', ')} planted` : '';
  process.stdout.write(
    `figure: ${all.cuts} power cuts over a recorded disk${what} (${all.chains} stores, ${all.rounds} rounds, ${all.writes} writes, ${all.syncs} syncs; ${all.opened} different disks, each opened by the gate's own code): ${all.losing} lost rows that were answered (${all.lostRows} of ${all.expectedRows}), ${all.failed} in which anything did not hold; ${seconds.toFixed(0)} s\n`,
  );
  process.stdout.write(`  cut while: ${doing}; set aside after damage in ${all.quarantine}; rows of peers forgotten, at most: ${all.peerForgotten}\n`);
  for (const example of all.examples) process.stdout.write(`  ${example}\n`);
}

if (import.meta.main) {
  const given = process.env['STILE_CUTS_TASK'];
  if (given === undefined) process.exitCode = await main();
  else {
    const result = await runCuts(JSON.parse(given) as CutsTask);
    process.send?.(result, () => process.disconnect?.());
  }
}
