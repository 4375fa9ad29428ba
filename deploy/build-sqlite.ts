/**
 * The database's native part, compiled with HAVE_FDATASYNC: the prebuilt one syncs each commit with fsync, which makes the disk note the file's
 * time of change as well and costs a second flush of its cache (docs/decisions/0156-disk-latency-of-a-decision.md). Same source, same settings else.
 *
 *   node deploy/build-sqlite.ts [--remove]    puts it into this checkout, for benchmarks and proofs with what a bundle carries; or takes it out again
 *
 * Takes about a minute, once for each version: what was compiled is kept in .tools/native.
 */
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Arch, BundleError, compile, compiler } from './compile.ts';

const root = join(import.meta.dirname, '..');
const modules = join(root, 'node_modules');
const source = join(modules, 'better-sqlite3');
const kept = join(root, '.tools/native');
/** The versions of the C and C++ libraries that a gate has at least (Debian bookworm): a part that wants more would not load there. */
const NEWEST: Readonly<Record<string, string>> = { GLIBC: '2.36', GLIBCXX: '3.4.30', CXXABI: '1.3.13' };

export interface DatabasePart {
  readonly file: string;
  /** What whoever makes the bundle should know, or null. */
  readonly note: string | null;
}

/** `compiling` false: what was compiled before, else the prebuilt one, without a word. Throws BundleError where it does not compile. */
export function databasePart(arch: Arch, runtime: string, compiling: boolean): DatabasePart {
  const prebuilt = join(source, `prebuilds/linux-${arch}.node`);
  const settings = [
    '-DNDEBUG',
    '-DHAVE_FDATASYNC=1',
    ...(readFileSync(join(source, 'deps/defines.gypi'), 'utf8').match(/(?<=')[A-Z][A-Z0-9_]+(=-?\w+)?(?=')/g) ?? []).map((one) => `-D${one}`),
  ];
  const { version } = JSON.parse(readFileSync(join(source, 'package.json'), 'utf8')) as { version: string };
  const file = join(kept, `better-sqlite3-${version}-${arch}-${createHash('sha256').update(settings.join(' ')).digest('hex').slice(0, 8)}.node`);
  if (!existsSync(file)) {
    if (!compiling) return { file: prebuilt, note: null };
    const missing = (['gcc', 'g++'] as const).find((name) => compiler(arch, name) === null);
    if (missing !== undefined)
      return {
        file: prebuilt,
        note: `without a C and C++ compiler for ${arch} the database is as its makers compiled it: each commit costs the disk two flushes instead of one`,
      };
    process.stderr.write(`the database is compiled for ${arch}: about a minute, once\n`);
    compileTo(file, arch, runtime, settings);
  }
  const newer = newerThanGates(file);
  if (newer === null) return { file, note: null };
  const note = `the database compiled here wants ${newer}, which not every gate has: it goes as its makers compiled it (each commit costs the disk two flushes instead of one)`;
  return { file: prebuilt, note: compiling ? note : null };
}

function compileTo(file: string, arch: Arch, runtime: string, settings: readonly string[]): void {
  mkdirSync(kept, { recursive: true });
  const work = mkdtempSync(join(kept, 'compile-'));
  try {
    const object = join(work, 'sqlite3.o');
    const sqlite = join(source, 'deps/sqlite3');
    compile(arch, 'gcc', 'SQLite', ['-c', '-O2', '-fPIC', '-w', ...settings, join(sqlite, 'sqlite3.c'), '-o', object]);
    const made = join(work, 'better_sqlite3.node');
    compile(arch, 'g++', "better-sqlite3's native part", [
      '-shared',
      '-fPIC',
      '-O2',
      '-std=c++20',
      '-fvisibility=hidden',
      '-fvisibility-inlines-hidden',
      '-w',
      ...settings,
      '-DBUILDING_NODE_EXTENSION',
      '-DNODE_GYP_MODULE_NAME=better_sqlite3',
      '-DNAPI_VERSION=10',
      '-DNAPI_DISABLE_CPP_EXCEPTIONS',
      '-DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
      `-I${join(modules, 'node-addon-api')}`,
      `-I${join(runtime, 'include/node')}`,
      `-I${sqlite}`,
      join(source, 'src/better_sqlite3.cpp'),
      object,
      '-Wl,-Bsymbolic',
      '-Wl,--exclude-libs,ALL',
      '-Wl,--strip-all',
      '-o',
      made,
    ]);
    renameSync(made, file);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** A version of a library that the part wants and a gate may lack, or null. */
function newerThanGates(file: string): string | null {
  const wanted = readFileSync(file, 'latin1').matchAll(/\b(GLIBC|GLIBCXX|CXXABI)_(\d+(?:\.\d+)+)\0/g);
  for (const [, library = '', version = ''] of wanted) if (isNewer(version, NEWEST[library] ?? '')) return `${library}_${version}`;
  return null;
}

export function isNewer(version: string, than: string): boolean {
  const [a, b] = [version, than].map((text) => text.split('.').map(Number)) as [number[], number[]];
  for (let n = 0; n < Math.max(a.length, b.length); n++) if ((a[n] ?? 0) !== (b[n] ?? 0)) return (a[n] ?? 0) > (b[n] ?? 0);
  return false;
}

if (import.meta.main) {
  const place = join(source, 'build/Release');
  try {
    rmSync(place, { recursive: true, force: true });
    if (!process.argv.includes('--remove')) {
      const { file, note } = databasePart(process.arch as Arch, join(root, '.tools/node'), true);
      if (note !== null) throw new BundleError(1, note);
      mkdirSync(place, { recursive: true });
      copyFileSync(file, join(place, 'better_sqlite3.node'));
    }
    process.stdout.write(`this checkout's database: ${process.argv.includes('--remove') ? 'as its makers compiled it' : 'with fdatasync, as in a bundle'}\n`);
  } catch (error) {
    process.stderr.write(`database: ${(error as Error).message}\n`);
    process.exitCode = 1;
  }
}
