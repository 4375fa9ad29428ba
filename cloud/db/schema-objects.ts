/**
 * Brings functions, views and triggers to what their files say. Each file of functions/, views/ and triggers/ is run again when its
 * SHA-256 differs from the one that the database remembers, all in one transaction; what holds data is changed by migrations alone.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { OwnerConnection } from './database.ts';

/** Applied in this order: triggers call functions, and views may. */
const FOLDERS = ['functions', 'views', 'triggers'] as const;
const REQUIRES = /^-- requires: ([a-z0-9_, ]+)$/m;

export interface SchemaFile {
  /** From the folder that holds functions/, such as `functions/scan/scan_ticket_atomic.sql`. */
  readonly path: string;
  /** The object's name: a function's, a view's, or the table whose triggers these are. */
  readonly name: string;
  readonly sha256: string;
  readonly text: string;
  /** Names of files that must be applied before this one. */
  readonly requires: readonly string[];
}

/** The files do not fit the database, or one another. */
export class SchemaError extends Error {
  override name = 'SchemaError';
}

/** Returns every file in the order in which they are applied. Throws SchemaError where two files have one name or require one another. */
export function schemaFiles(dir: string): SchemaFile[] {
  return FOLDERS.flatMap((folder) => inOrder(filesBelow(dir, folder)));
}

function filesBelow(dir: string, folder: string): SchemaFile[] {
  const files: SchemaFile[] = [];
  for (const entry of readdirSync(join(dir, folder), { withFileTypes: true, recursive: true })) {
    if (!entry.isFile() || !entry.name.endsWith('.sql')) continue;
    const path = join(entry.parentPath, entry.name).slice(dir.length).replace(/^\//, '');
    const text = readFileSync(join(dir, path), 'utf8');
    const requires =
      REQUIRES.exec(text)?.[1]
        ?.split(',')
        .map((name) => name.trim()) ?? [];
    files.push({ path, name: basename(path, '.sql'), sha256: createHash('sha256').update(text).digest('hex'), text, requires });
  }
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function inOrder(files: readonly SchemaFile[]): SchemaFile[] {
  const byName = new Map<string, SchemaFile>();
  for (const file of files) {
    const other = byName.get(file.name);
    if (other !== undefined) throw new SchemaError(`${file.path} and ${other.path} have one name: an object has one file`);
    byName.set(file.name, file);
  }
  const ordered = new Set<SchemaFile>();
  const visit = (file: SchemaFile, waiting: readonly string[]): void => {
    if (waiting.includes(file.name)) throw new SchemaError(`${file.path}: requires itself, by ${waiting.join(' → ')}`);
    for (const name of file.requires) {
      const required = byName.get(name);
      if (required === undefined) throw new SchemaError(`${file.path}: requires ${name}, and no file beside it has that name`);
      visit(required, [...waiting, file.name]);
    }
    ordered.add(file);
  };
  for (const file of files) visit(file, []);
  return [...ordered];
}

/** Returns the paths of the files that the database has not seen as they are, in order. */
export async function pendingFiles(owner: OwnerConnection, files: readonly SchemaFile[]): Promise<SchemaFile[]> {
  const { rows } = await owner.query<{ path: string; sha256: string }>('SELECT path, sha256 FROM schema_objects');
  const applied = new Map(rows.map(({ path, sha256 }) => [path, sha256]));
  return files.filter(({ path, sha256 }) => applied.get(path) !== sha256);
}

/**
 * Applies what is pending and forgets files that are gone; returns the paths that were applied. One transaction: all or nothing.
 * Throws SchemaError with the file's path where one fails (PostgreSQL's error is the cause), and where the database holds an
 * object that no file describes.
 */
export async function applySchemaFiles(owner: OwnerConnection, files: readonly SchemaFile[], frozen: ReadonlySet<string>): Promise<string[]> {
  await owner.query('BEGIN');
  try {
    // A body may name what a later file makes.
    await owner.query('SET LOCAL check_function_bodies = off');
    const pending = await pendingFiles(owner, files);
    for (const file of pending) {
      try {
        await owner.query(file.text);
      } catch (error) {
        throw new SchemaError(`${file.path} failed: ${(error as Error).message}`, { cause: error });
      }
      await owner.query(
        'INSERT INTO schema_objects (path, sha256) VALUES ($1, $2) ON CONFLICT (path) DO UPDATE SET sha256 = excluded.sha256, applied_at = now()',
        [file.path, file.sha256],
      );
    }
    await owner.query("DELETE FROM schema_objects WHERE path NOT LIKE 'migrations/%' AND NOT path = ANY ($1)", [files.map(({ path }) => path)]);
    const stray = await strayObjects(owner, files, frozen);
    if (stray.length > 0) throw new SchemaError(`${stray.join(', ')}: in the database and in no file: drop it in a migration (cloud/db/README.md)`);
    await owner.query('COMMIT');
    return pending.map(({ path }) => path);
  } catch (error) {
    await owner.query('ROLLBACK');
    throw error;
  }
}

/** Returns functions, views and triggers that the database holds and no file describes, and those that a file describes and the database lacks. */
export async function strayObjects(owner: OwnerConnection, files: readonly SchemaFile[], frozen: ReadonlySet<string>): Promise<string[]> {
  const { rows } = await owner.query<{ folder: string; name: string; sig: string }>(`
    SELECT 'functions' AS folder, proname AS name, 'function ' || oid::regprocedure AS sig FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind IN ('f', 'p')
    UNION ALL SELECT 'views', relname, 'view ' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm')
    UNION ALL SELECT DISTINCT 'triggers', t.tgname || ' ON ' || c.relname, 'trigger ' || t.tgname || ' on ' || c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal AND t.tgparentid = 0`);
  const described = new Set(files.flatMap(describedIn));
  const stray = rows.filter(({ folder, name }) => !described.has(`${folder}/${name}`) && !(folder === 'functions' && frozen.has(name))).map(({ sig }) => sig);
  const twice = rows.filter(
    ({ folder, name }, index) => folder === 'functions' && rows.findIndex((row) => row.folder === folder && row.name === name) !== index,
  );
  return [...new Set([...stray, ...twice.map(({ sig }) => `${sig} (another of its name)`)])].sort();
}

function describedIn({ path, name, text }: SchemaFile): string[] {
  const folder = path.slice(0, path.indexOf('/'));
  if (folder !== 'triggers') return [`${folder}/${name}`];
  return [...text.matchAll(/^CREATE OR REPLACE TRIGGER ([a-z0-9_]+)/gm)].map(([, trigger]) => `triggers/${trigger} ON ${name}`);
}

/** Returns the names of functions that migrations make: the few that a policy, an index, a constraint or an aggregate needs. They have no file. */
export function functionsOf(migrations: readonly string[]): ReadonlySet<string> {
  return new Set(migrations.flatMap((text) => [...text.matchAll(/^CREATE (?:OR REPLACE )?FUNCTION ([a-z0-9_]+)/gm)].map(([, name]) => name as string)));
}
