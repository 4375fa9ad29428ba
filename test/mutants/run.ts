/**
 * Plants one fault at a time in a copy of the tree and runs the tests that must notice it: a check that no test would miss is no check.
 *
 *   make mutants [ONLY=<part of a name>]
 *   node test/mutants/run.ts [--only <part of a name>] [--list] [--check]
 *
 * The copy is made of hard links, below dist/; the planted file alone is written anew. Says of each fault `caught` (a test failed),
 * `SURVIVED`, or `BROKEN` (no test ran: the plant does not compile, or its text is not there any more). Ends with 1 unless all are caught.
 * `--check` looks whether each text is there, in a second, and runs nothing.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, linkSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { AUTHORISATION } from './authorisation.ts';
import type { Mutant } from './mutant.ts';
import { PRODUCT } from './product.ts';
import { PROMISED } from './promised.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
export const MUTANTS: readonly Mutant[] = [...PRODUCT, ...PROMISED, ...AUTHORISATION];

/** A copy of every file that git knows or would take, with the libraries linked. On the same file system, as hard links need. */
function copyOfTree(): string {
  const { stdout } = spawnSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: root, encoding: 'utf8' });
  // Where git, the linter and the tests of the tree itself do not look.
  mkdirSync(join(root, 'dist'), { recursive: true });
  const copy = mkdtempSync(join(root, 'dist/mutant-'));
  for (const file of stdout.split('\0').filter((name) => name !== '' && name !== 'node_modules' && name !== '.tools')) {
    mkdirSync(dirname(join(copy, file)), { recursive: true });
    linkSync(join(root, file), join(copy, file));
  }
  for (const folder of ['node_modules', '.tools']) symlinkSync(join(root, folder), join(copy, folder));
  return copy;
}

/** Returns the name of the one .sql file below a folder that holds the text. */
function sqlFileWith(copy: string, folder: string, text: string): string {
  const holds = readdirSync(join(copy, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.sql'))
    .map((name) => join(folder, name))
    .filter((name) => readFileSync(join(copy, name), 'utf8').includes(text));
  const [only, another] = holds;
  if (only === undefined || another !== undefined)
    throw new Error(`${JSON.stringify(text.slice(0, 80))} stands in ${holds.length} files below ${folder}, not in one: this fault must follow`);
  return only;
}

/** Answers what undoes it. Throws where a text is not there exactly once. */
function plant(copy: string, mutant: Mutant): () => void {
  const undo: (() => void)[] = [];
  for (const { file: given, text, instead } of mutant.edits) {
    const file = given.endsWith('/') ? sqlFileWith(copy, given, text) : given;
    const path = join(copy, file);
    const source = readFileSync(path, 'utf8');
    if (source.split(text).length !== 2)
      throw new Error(`${file} says ${JSON.stringify(text.slice(0, 80))} ${source.split(text).length - 1} times, not once: this fault must follow`);
    const write = (content: string) => {
      rmSync(path);
      writeFileSync(path, content);
    };
    write(source.replace(text, () => instead));
    undo.push(() => write(source));
  }
  return () => {
    for (const one of undo.reverse()) one();
  };
}

/** The report that Vitest writes. */
interface Report {
  readonly numFailedTests: number;
  readonly numPassedTests: number;
  readonly testResults: readonly { readonly message: string; readonly assertionResults: readonly { readonly status: string; readonly title: string }[] }[];
}

interface Verdict {
  readonly word: 'caught' | 'SURVIVED' | 'BROKEN';
  readonly detail: string;
}

async function tried(copy: string, mutant: Mutant): Promise<Verdict> {
  let undo: () => void;
  try {
    undo = plant(copy, mutant);
  } catch (error) {
    return { word: 'BROKEN', detail: (error as Error).message };
  }
  try {
    const report = join(copy, 'report.json');
    rmSync(report, { force: true });
    const child = spawn(
      process.execPath,
      ['node_modules/vitest/vitest.mjs', 'run', '--project', mutant.project, '--bail=1', '--reporter=json', `--outputFile=${report}`, ...mutant.tests],
      {
        cwd: copy,
        stdio: 'ignore',
      },
    );
    await new Promise((resolve) => child.once('close', resolve));
    const result = existsSync(report) ? (JSON.parse(readFileSync(report, 'utf8')) as Report) : null;
    if (result === null || result.numFailedTests + result.numPassedTests === 0)
      return {
        word: 'BROKEN',
        detail:
          result?.testResults
            .map(({ message }) => message)
            .join('; ')
            .slice(0, 300) ?? 'no test ran',
      };
    const failed = result.testResults.flatMap(({ assertionResults }) => assertionResults.filter(({ status }) => status === 'failed').map(({ title }) => title));
    return failed.length > 0 ? { word: 'caught', detail: failed[0] as string } : { word: 'SURVIVED', detail: `${result.numPassedTests} tests pass` };
  } finally {
    undo();
  }
}

/** Returns the folder that a fault stands in: `daemon/lane`, `rules`. */
function roomOf({ edits: [first] }: Mutant): string {
  const [top = '', below = ''] = first?.file.split('/') ?? [];
  return top === 'daemon' || top === 'cloud' ? `${top}/${below}` : top;
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { only: { type: 'string' }, list: { type: 'boolean' }, check: { type: 'boolean' } } });
  const chosen = MUTANTS.filter(({ name }) => values.only === undefined || name.includes(values.only));
  if (chosen.length === 0) throw new Error(`no fault is called ${values.only}; --list names them`);
  if (values.list === true) {
    for (const { name, tests } of chosen) process.stdout.write(`${name}: ${tests.join(' ')}\n`);
    return;
  }
  const copy = copyOfTree();
  if (values.check === true) {
    const broken = chosen.flatMap((mutant) => {
      try {
        plant(copy, mutant)();
        return [];
      } catch (error) {
        return [`BROKEN   ${mutant.name}: ${(error as Error).message}\n`];
      }
    });
    rmSync(copy, { recursive: true, force: true });
    process.stdout.write(`${broken.join('')}${chosen.length - broken.length} of ${chosen.length} faults can be planted\n`);
    process.exitCode = broken.length > 0 ? 1 : 0;
    return;
  }
  let missed = 0;
  const rooms = new Map<string, { planted: number; caught: number }>();
  try {
    for (const mutant of chosen) {
      const { word, detail } = await tried(copy, mutant);
      if (word !== 'caught') missed += 1;
      const room = roomOf(mutant);
      const counts = rooms.get(room) ?? { planted: 0, caught: 0 };
      rooms.set(room, { planted: counts.planted + 1, caught: counts.caught + (word === 'caught' ? 1 : 0) });
      process.stdout.write(`${word.padEnd(8)} ${mutant.name}: ${detail}\n`);
    }
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
  for (const [room, { planted, caught }] of [...rooms].sort(([a], [b]) => (a < b ? -1 : 1))) process.stdout.write(`  ${room}: ${caught} of ${planted}\n`);
  process.stdout.write(`${chosen.length - missed} of ${chosen.length} faults are caught (${Math.floor((100 * (chosen.length - missed)) / chosen.length)} %)\n`);
  if (missed > 0) process.exitCode = 1;
}

if (import.meta.main) await main();
