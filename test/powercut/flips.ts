/**
 * Single bits flipped in a gate's files: each is detected and said, or changes nothing; never another row, another decision, in silence.
 *
 *   node test/powercut/flips.ts [--flips 3000] [--seed 1] [--workers 2] [--kind ledger-wal] [--bits 1]
 *
 * `--kind`: in files of one kind alone. `--bits`: so many bits at once, in a stretch of 64 bytes: then rows may be lost, and must be named.
 */
import { fork, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openDeciderEngine } from '../../daemon/decider/decider.ts';
import type { DeciderEngine } from '../../daemon/decider/engine.ts';
import { GATE, show } from '../../daemon/decider/testing/store.ts';
import type { Decision } from '../../daemon/ports.ts';
import { type StoreError, storeError } from '../../daemon/store/sqlite.ts';
import { createRandom, mix, type Random } from '../../testkit/prng.ts';
import { memoryFolder } from './cuts.ts';
import { keyOf, learn, marksOf, newTruth, type Truth } from './expected.ts';
import { codeOf, signer, TICKETS, timestampNow } from './fixture.ts';
import type { LifeTask } from './workload.ts';

const life = fileURLToPath(new URL('workload.ts', import.meta.url));
const plantsFile = new URL('mutants.ts', import.meta.url).href;
/** Flips of one store; then another is made. */
const FLIPS_PER_STORE = 75;
const STEPS = 130;
const LATER_MS = 365 * 86_400_000;
const READ_ROWS = 500;
const MAX_IDLE_STEPS = 2_000;
const MAX_EXAMPLES = 8;
/** Of more than one bit: how far from each other at most. */
const STRETCH_BYTES = 64;

/** How a store was left: with a log that is folded often, killed and closed; and killed with everything in the log, as it is in the first hours. */
const MANNERS = [
  { end: 'kill', plants: 'small' },
  { end: 'close', plants: 'small' },
  { end: 'kill', plants: '' },
] as const;
type Manner = (typeof MANNERS)[number];

/** Kinds of files, by how their damage is met. */
const KINDS = ['ledger', 'ledger-wal', 'usage', 'usage-wal', 'manifest', 'sums', 'copy'] as const;
type Kind = (typeof KINDS)[number];

export interface FlipsResult {
  flips: number;
  /** Said loudly, and everything that could be kept is kept. */
  detected: number;
  /** Nothing that is read differs. */
  harmless: number;
  silent: number;
  /** Detected, but only after something was decided or read that differs. */
  late: number;
  /** Stores that did not come up again. */
  down: number;
  /** Rows that were not acknowledged and are gone, and of these how many were not named in what the gate said. */
  lostRows: number;
  unnamedRows: number;
  readonly kinds: Record<string, { flips: number; detected: number; harmless: number }>;
  readonly examples: string[];
}

const nothing = (): FlipsResult => ({ flips: 0, detected: 0, harmless: 0, silent: 0, late: 0, down: 0, lostRows: 0, unnamedRows: 0, kinds: {}, examples: [] });

/** The report and the acts of a store, as text that can be compared. */
interface IngestCounts {
  readonly rows: ReadonlyMap<string, string>;
  readonly waiting: ReadonlySet<string>;
  readonly standing: string;
  readonly decisions: readonly string[];
  readonly notices: readonly string[];
  readonly down: string | null;
}

/** Opens a store, lets every ticket come once, gives it time to look itself through, and reads it. Does with damage what the worker does. */
async function account(store: string): Promise<IngestCounts> {
  const notices: string[] = [];
  const later = timestampNow(LATER_MS, 'after-the-flip');
  const rows = new Map<string, string>();
  const waiting = new Set<string>();
  let core: DeciderEngine | undefined;
  let standing = '';
  const decisions: string[] = [];
  const trying = async <T>(work: (core: DeciderEngine) => T): Promise<T> => {
    for (let left = 4; ; left--) {
      try {
        return work(core as DeciderEngine);
      } catch (error) {
        const known: StoreError = storeError('work', error);
        if (!known.damaged || left === 0) throw error;
        await core?.recover(known, later);
      }
    }
  };
  try {
    core = await openDeciderEngine(
      { path: store, gate: GATE, verifyKeys: [signer.publicKey], notice: (what, detail) => notices.push(`${what}: ${detail}`) },
      later,
    );
    standing = await trying((at) => {
      const { modes, manifests, fireLatched, usageComplete, epoch, totals } = at.status(later);
      return JSON.stringify({
        modes,
        manifests: manifests.map(({ version, overlayVersion, tickets }) => [version, overlayVersion, tickets]),
        fireLatched,
        usageComplete,
        epoch,
        totals,
      });
    });
    await trying((at) => {
      rows.clear();
      waiting.clear();
      for (let after: readonly [number, number] | null = null; ; ) {
        const more = at.rows(after === null ? null : [after[0], after[1]], READ_ROWS);
        for (const { epoch, entry } of more) {
          rows.set(keyOf(epoch, entry.seq), JSON.stringify(entry));
          after = [epoch, entry.seq];
        }
        if (more.length === 0) break;
      }
    });
    await trying((at) => {
      waiting.clear();
      for (let after: readonly [number, number] | null = null; ; ) {
        const batch = at.nextBatch(after === null ? null : [after[0], after[1]]);
        if (batch === null) break;
        const { entries } = JSON.parse(Buffer.from(batch.payload).toString()) as { entries: { seq: number }[] };
        for (const entry of entries) waiting.add(`${keyOf(batch.epoch, entry.seq)} ${JSON.stringify(entry)}`);
        after = [batch.epoch, batch.uptoSeq];
      }
    });
    for (let code = 0; code < TICKETS; code++)
      decisions.push(
        await trying((at) => {
          const { verdict } = at.decide(code + 1, show(codeOf(code), later.boottimeMs), later, () => 100) as Decision;
          return verdict.kind === 'grant'
            ? `grant ${verdict.type} ${verdict.units} ${verdict.flags.join(' ')}`
            : `refusal ${verdict.reason} ${verdict.explanation}`;
        }),
      );
    for (let left = MAX_IDLE_STEPS; left > 0 && (await trying((at) => at.idle(later, true))); left--);
    return { rows, waiting, standing, decisions, notices, down: null };
  } catch (error) {
    return { rows, waiting, standing, decisions, notices, down: (error as Error).stack ?? String(error) };
  } finally {
    try {
      core?.close();
    } catch {
      // A damaged file may not close: what it says was read.
    }
  }
}

/** One worker's share. */
export async function runFlips(task: {
  readonly folder: string;
  readonly seed: number;
  readonly flips: number;
  readonly first: number;
  readonly every: number;
  readonly kind?: Kind | null;
  readonly bits?: number;
}): Promise<FlipsResult> {
  const result = nothing();
  for (let number = task.first; result.flips < task.flips; number += task.every) {
    const seed = mix(task.seed, number, 77);
    const folder = join(task.folder, `store-${number}`);
    // A store that was closed has no logs.
    const manners = MANNERS.filter(({ end }) => end === 'kill' || !task.kind?.endsWith('-wal'));
    const truth = makeStore(folder, seed, manners[Math.floor(number / task.every) % manners.length] as Manner);
    cpSync(join(folder, 'store'), join(folder, 'copy'), { recursive: true });
    const sound = await account(join(folder, 'copy'));
    if (sound.down !== null || sound.notices.length > 0) throw new Error(`the store of seed ${seed} is not sound: ${sound.down ?? sound.notices.join('; ')}`);
    for (let n = 0; n < FLIPS_PER_STORE && result.flips < task.flips; n++) {
      const random = createRandom(mix(seed, n));
      rmSync(join(folder, 'copy'), { recursive: true, force: true });
      cpSync(join(folder, 'store'), join(folder, 'copy'), { recursive: true });
      const flipped = flip(join(folder, 'copy'), random, task.kind ?? null, task.bits ?? 1);
      // A log that was just cut: this store has none of that kind.
      if (flipped === null) break;
      const found = await account(join(folder, 'copy'));
      weigh(result, flipped, sound, found, truth, `--seed ${task.seed}, store ${number}, flip ${n}`);
    }
    rmSync(folder, { recursive: true, force: true });
  }
  return result;
}

/** Two lives of a gate. */
function makeStore(folder: string, seed: number, { end, plants }: Manner): Truth {
  const [store, downloads, marks] = [join(folder, 'store'), join(folder, 'downloads'), join(folder, 'marks')] as const;
  for (const path of [store, downloads]) mkdirSync(path, { recursive: true });
  writeFileSync(marks, '');
  for (let n = 0; n < 2; n++) {
    const task: LifeTask = {
      store,
      marks,
      past: marks,
      downloads,
      seed: mix(seed, n),
      steps: STEPS / 2,
      end: n === 0 ? 'kill' : end,
      fromMs: 1_000 + n * 10_000_000_000,
    };
    const { status, signal, stderr } = spawnSync(process.execPath, ['--import', plantsFile, life, JSON.stringify(task)], {
      env: { ...process.env, STILE_PLANTS: plants },
      encoding: 'utf8',
    });
    if (task.end === 'kill' ? signal !== 'SIGKILL' : status !== 0) throw new Error(`the life of seed ${task.seed} ended with ${status ?? signal}: ${stderr}`);
  }
  const truth = newTruth();
  for (const mark of marksOf(readFileSync(marks))) learn(truth, mark);
  return truth;
}

const kindOf = (path: string): Kind | null => {
  if (path.endsWith('-shm') || path.startsWith('lock') || path === 'fire-latched') return null;
  if (path.startsWith('manifests/')) return path.endsWith('.sqlite') ? 'manifest' : null;
  if (path === 'ledger.sqlite') return 'ledger';
  if (path === 'ledger.sqlite-wal') return 'ledger-wal';
  if (path === 'usage.sqlite') return 'usage';
  if (path === 'usage.sqlite-wal') return 'usage-wal';
  if (path.startsWith('ledger.rows')) return 'copy';
  return path.endsWith('.pages') ? 'sums' : null;
};

interface Flipped {
  readonly kind: Kind;
  readonly path: string;
  readonly at: number;
  readonly bit: number;
}

/** One bit of one file, or more close by: the kind first, so that small files are met as often as large ones. */
function flip(store: string, random: Random, only: Kind | null, bits: number): Flipped | null {
  const files = readdirSync(store, { recursive: true, encoding: 'utf8' })
    .flatMap((path) => {
      const kind = kindOf(path);
      return kind === null || kind !== (only ?? kind) || statSync(join(store, path)).size === 0 ? [] : [{ path, kind }];
    })
    .sort((a, b) => (a.path < b.path ? -1 : 1));
  if (files.length === 0) return null;
  const kind = random.pick([...new Set(files.map((file) => file.kind))]);
  const { path } = random.pick(files.filter((file) => file.kind === kind));
  const data = readFileSync(join(store, path));
  const at = random.below(data.length);
  const bit = random.below(8);
  data[at] = (data[at] as number) ^ (1 << bit);
  for (let more = 1; more < bits; more++) {
    const near = Math.min(data.length - 1, at + random.below(STRETCH_BYTES));
    data[near] = (data[near] as number) ^ (1 << random.below(8));
  }
  writeFileSync(join(store, path), data);
  return { kind, path, at, bit };
}

function weigh(result: FlipsResult, flipped: Flipped, sound: IngestCounts, found: IngestCounts, truth: Truth, name: string): void {
  result.flips++;
  const kind = (result.kinds[flipped.kind] ??= { flips: 0, detected: 0, harmless: 0 });
  kind.flips++;
  const told = (what: string): void => {
    if (result.examples.length < MAX_EXAMPLES) result.examples.push(`${name} (${flipped.path}, byte ${flipped.at}, bit ${flipped.bit}): ${what}`);
  };
  if (found.down !== null) {
    result.down++;
    told(`the store does not come up: ${found.down.split('\n').slice(0, 3).join(' ')}`);
    return;
  }
  const loud = found.notices.length > 0;
  const difference = differs(sound, found);
  if (!loud) {
    if (difference === null) {
      result.harmless++;
      kind.harmless++;
    } else {
      result.silent++;
      told(`nobody was told, and ${difference}`);
    }
    return;
  }
  result.detected++;
  kind.detected++;
  // Nobody may have been let in on what was damaged before it was found out.
  const wrong = found.decisions.findIndex((decision, code) => decision.startsWith('grant') && !sound.decisions[code]?.startsWith('grant'));
  if (wrong >= 0) {
    result.late++;
    told(`ticket ${wrong} was granted before the damage was found: ${found.notices.join('; ')}`);
  }
  const gone = lostRows(found, truth);
  result.lostRows += gone.length;
  const said = found.notices.join(' ');
  const unnamed = gone.filter((key) => !namedIn(said, key));
  result.unnamedRows += unnamed.length;
  if (unnamed.length > 0) told(`rows ${unnamed.slice(0, 5).join(', ')} are gone and not named: ${said}`);
}

/** Names the difference in a few words; null when there is none. */
function differs(sound: IngestCounts, found: IngestCounts): string | null {
  for (const [key, text] of sound.rows) if (found.rows.get(key) !== text) return `row ${key} ${found.rows.has(key) ? 'reads otherwise' : 'is gone'}`;
  for (const key of found.rows.keys()) if (!sound.rows.has(key)) return `row ${key} was not there before`;
  if (sound.standing !== found.standing) return `the state is ${found.standing}, was ${sound.standing}`;
  for (const row of sound.waiting) if (!found.waiting.has(row)) return `row ${row.slice(0, 40)} is not sent`;
  const at = sound.decisions.findIndex((decision, code) => decision !== found.decisions[code]);
  return at < 0 ? null : `ticket ${at}: ${found.decisions[at]}, was ${sound.decisions[at]}`;
}

/** Rows that were answered, that the cloud has not, and that are neither here nor on their way as they were: another row by their number is none of them. */
function lostRows(found: IngestCounts, truth: Truth): string[] {
  const hashes = new Map<string, string>();
  const learnHash = (key: string, text: string): void => void hashes.set(key, (JSON.parse(text) as { hash: string }).hash);
  for (const text of found.waiting) learnHash(text.slice(0, text.indexOf(' ')), text.slice(text.indexOf(' ') + 1));
  for (const [key, text] of found.rows) learnHash(key, text);
  return [...truth.rows].flatMap(([key, entry]) => {
    const [epoch = 0, seq = 0] = key.split('/').map(Number);
    if (seq <= (truth.acked.get(epoch) ?? 0)) return [];
    return hashes.has(key) && (entry === null || hashes.get(key) === entry.hash) ? [] : [key];
  });
}

/** `epoch/from–to`, `epoch/seq` or `from epoch/seq on` in what the gate said. */
function namedIn(said: string, key: string): boolean {
  const [epoch = '', seq = '0'] = key.split('/');
  for (const [, open, named, from, to] of said.matchAll(/(from )?(\d+)\/(\d+)(?:–(\d+))?/g)) {
    if (named === epoch && Number(seq) >= Number(from) && (open !== undefined || Number(seq) <= Number(to ?? from))) return true;
  }
  return false;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      flips: { type: 'string', default: '3000' },
      seed: { type: 'string', default: '1' },
      workers: { type: 'string', default: '2' },
      kind: { type: 'string' },
      bits: { type: 'string', default: '1' },
    },
  });
  const kind = KINDS.find((one) => one === values.kind) ?? null;
  if (values.kind !== undefined && kind === null) throw new Error(`--kind is one of ${KINDS.join(', ')}`);
  const bits = Number(values.bits);
  const folder = memoryFolder();
  const began = performance.now();
  try {
    const workers = Number(values.workers);
    const parts = await Promise.all(
      Array.from({ length: workers }, (_, n) =>
        inProcess({ folder, seed: Number(values.seed), flips: Math.ceil(Number(values.flips) / workers), first: n, every: workers, kind, bits }),
      ),
    );
    const all = nothing();
    for (const part of parts) {
      for (const key of ['flips', 'detected', 'harmless', 'silent', 'late', 'down', 'lostRows', 'unnamedRows'] as const) all[key] += part[key];
      for (const [kind, counts] of Object.entries(part.kinds)) {
        const sum = (all.kinds[kind] ??= { flips: 0, detected: 0, harmless: 0 });
        for (const key of ['flips', 'detected', 'harmless'] as const) sum[key] += counts[key];
      }
      all.examples.push(...part.examples);
    }
    const kinds = Object.entries(all.kinds).map(([kind, { flips, detected, harmless }]) => `${kind} ${flips} (${detected} detected, ${harmless} harmless)`);
    process.stdout.write(
      `figure: ${all.flips} ${bits === 1 ? 'bits' : `times ${bits} bits`} flipped in a gate's files: ${all.silent} silent, ${all.detected} detected and said, ${all.harmless} harmless (nothing that is read differs), ${all.late} detected only after a wrong grant, ${all.down} stores down; ${all.lostRows} rows lost by the damage, ${all.unnamedRows} of them not named; ${((performance.now() - began) / 1_000).toFixed(0)} s\n  ${kinds.join(', ')}\n`,
    );
    for (const example of all.examples) process.stdout.write(`  ${example}\n`);
    return all.flips >= Number(values.flips) && all.silent + all.late + all.down + all.unnamedRows === 0 ? 0 : 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const inProcess = (task: object): Promise<FlipsResult> =>
  new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), { env: { ...process.env, STILE_FLIPS_TASK: JSON.stringify(task) } });
    let result: FlipsResult | null = null;
    child.on('message', (message) => {
      result = message as FlipsResult;
    });
    child.on('exit', (code) => (result === null ? reject(new Error(`a worker of the flips ended with ${code}`)) : resolve(result)));
  });

if (import.meta.main) {
  const given = process.env['STILE_FLIPS_TASK'];
  if (given === undefined) process.exitCode = await main();
  else {
    const result = await runFlips(JSON.parse(given) as Parameters<typeof runFlips>[0]);
    process.send?.(result, () => process.disconnect?.());
  }
}
