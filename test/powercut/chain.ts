/**
 * A chain of rounds: a gate's store lives (made, at work, killed or closed, opened again) while its disk is recorded; the power goes
 * somewhere in the record; the next round begins on what was found then. The last round of some chains begins on a damaged database.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createRandom, mix, type Random } from '../../testkit/prng.ts';
import { createDiskModel, type DiskModel, type Image, type Manner, writeImage } from './disk-model.ts';
import { afterDamage, learn, marksOf, newTruth, type Truth } from './expected.ts';
import { type Op, readRecord } from './record.ts';
import type { LifeTask } from './workload.ts';

const life = fileURLToPath(new URL('workload.ts', import.meta.url));
const plantsFile = new URL('mutants.ts', import.meta.url).href;
/** Of one life, however slow the machine, ms. */
const LIFE_BOUND_MS = 120_000;
/** Between two rounds on the venue's clock, ms. */
const ROUND_MS = 40 * 86_400_000;

export interface ChainOptions {
  /** A folder in memory, for this chain alone. */
  readonly folder: string;
  /** The compiled recorder. */
  readonly library: string;
  readonly seed: number;
  readonly rounds: number;
  /** Calls of each life. */
  readonly steps: number;
  readonly plants: readonly string[];
  /** The last round begins on a damaged database. */
  readonly damaged: boolean;
}

export interface Round {
  readonly seed: number;
  readonly ops: readonly Op[];
  readonly damaged: boolean;
  /** A disk before the first entry, and what was known by then. */
  begin(): { readonly disk: DiskModel; readonly truth: Truth };
}

/** Records the rounds of a chain one after another; each is given to `each` before the next begins. */
export async function runChain(options: ChainOptions, each: (round: Round) => Promise<void>): Promise<void> {
  let image: Image = new Map();
  let past = '';
  for (let n = 0; n < options.rounds; n++) {
    const seed = mix(options.seed, n);
    const random = createRandom(seed);
    const damaged = options.damaged && n === options.rounds - 1;
    if (damaged) image = damage(image, random);
    const round = record(options, seed, n, image, past, damaged);
    await each(round);
    const next = cutSomewhere(round, random);
    image = next.image;
    past += next.marks;
  }
}

/** The power goes anywhere in a round, in any manner. */
function cutSomewhere(round: Round, random: Random): { readonly image: Image; readonly marks: string } {
  const at = random.below(round.ops.length + 1);
  const { disk } = round.begin();
  let marks = '';
  for (const op of round.ops.slice(0, at)) {
    if (op.op === 'mark') marks += op.data.toString('utf8');
    else disk.apply(op);
  }
  return { image: disk.cut(random, random.pick<Manner>(['kept', 'lost', 'order', 'any'])), marks };
}

function record(options: ChainOptions, seed: number, number: number, image: Image, past: string, damaged: boolean): Round {
  const random = createRandom(mix(seed, 1));
  const { folder } = options;
  const [store, downloads, log, marks] = ['store', 'downloads', 'log', 'marks'].map((name) => join(folder, name)) as [string, string, string, string];
  for (const path of [store, downloads]) {
    rmSync(path, { recursive: true, force: true });
    mkdirSync(path, { recursive: true });
  }
  writeImage(store, image);
  const start = new Map([...image].map(([path, data]) => [path, { inode: statSync(join(store, path)).ino, data: data === null ? null : Buffer.from(data) }]));
  writeImage(folder, new Map([['marks', Buffer.from(past)]]));
  const ops: Op[] = [];
  const lives = damaged ? 1 : 1 + random.below(3);
  for (let n = 0; n < lives; n++) {
    const task: LifeTask = {
      store,
      marks,
      past: marks,
      downloads,
      seed: mix(seed, 2, n),
      steps: Math.ceil(options.steps / lives),
      end: random.chance(0.5) ? 'kill' : 'close',
      fromMs: 1_000 + number * ROUND_MS + n * (ROUND_MS / 4),
    };
    rmSync(log, { force: true });
    oneLife(options, task, { RECORDING_DISK_FOLDER: store, RECORDING_DISK_LOG: log, RECORDING_DISK_MARKS: marks, LD_PRELOAD: options.library });
    ops.push(...readRecord(log));
  }
  const round: Round = {
    seed,
    ops,
    damaged,
    begin() {
      const known = newTruth();
      for (const mark of marksOf(Buffer.from(past))) learn(known, mark);
      const truth = damaged ? afterDamage(known) : known;
      // What the rebuild can save without a cut, it must save with one.
      if (damaged)
        for (const op of ops)
          if (op.op === 'mark') for (const mark of marksOf(op.data)) if (mark.mark === 'waiting' || mark.mark === 'incomplete') learn(truth, mark);
      return { disk: createDiskModel(start), truth };
    },
  };
  assertWhole(round, store);
  return round;
}

function oneLife(options: ChainOptions, task: LifeTask, env: Record<string, string>): void {
  const plants = options.plants.length === 0 ? [] : ['--import', plantsFile];
  const { status, signal, stderr } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', ...plants, life, JSON.stringify(task)], {
    env: { ...process.env, ...env, STILE_PLANTS: options.plants.join(',') },
    encoding: 'utf8',
    timeout: LIFE_BOUND_MS,
  });
  if (task.end === 'kill' ? signal !== 'SIGKILL' : status !== 0) throw new Error(`the life of seed ${task.seed} ended with ${status ?? signal}: ${stderr}`);
}

/** Everything that was recorded, replayed, is what lies there: else the record has a hole, and proves nothing. */
function assertWhole({ ops, begin }: Pick<Round, 'ops' | 'begin'>, store: string): void {
  const { disk } = begin();
  for (const op of ops) if (op.op !== 'mark') disk.apply(op);
  const image = disk.cut(createRandom(0), 'kept');
  const there = readdirSync(store, { recursive: true, encoding: 'utf8' }).filter((path) => !path.endsWith('-shm'));
  for (const path of there) {
    const data = image.get(path);
    const same = data === null ? statSync(join(store, path)).isDirectory() : data?.equals(readFileSync(join(store, path)));
    if (same !== true) throw new Error(`the record has a hole: ${path} is not what was recorded`);
  }
  for (const path of image.keys()) if (!existsSync(join(store, path))) throw new Error(`the record has a hole: ${path} was recorded and is not there`);
}

/** A database that rotted: bytes of one page of the ledger, of its log, or of usage. */
function damage(image: Image, random: Random): Image {
  const damaged = new Map(image);
  const candidates = ['ledger.sqlite', 'ledger.sqlite', 'ledger.sqlite-wal', 'usage.sqlite'].filter((path) => (image.get(path)?.length ?? 0) > 512);
  if (candidates.length === 0) return damaged;
  const path = random.pick(candidates);
  const data = Buffer.from(image.get(path) as Buffer);
  const page = random.chance(0.4) ? 0 : random.below(Math.ceil(data.length / 4096));
  const end = Math.min(data.length, page * 4096 + 16 + random.below(1_000));
  for (let at = page * 4096; at < end; at++) data[at] = random.below(256);
  damaged.set(path, data);
  return damaged;
}
