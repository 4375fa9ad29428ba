/**
 * Brings a database to this version: the numbered SQL files of migrations/, forward only, once each, in order; then every function,
 * view and trigger whose file changed (schema-objects.ts). A migration that has landed never changes: its SHA-256 is kept and checked.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runner } from 'node-pg-migrate';
import { connectOwner, type OwnerConnection, sqlState } from './database.ts';
import { checkOwner, refusedLogin, SetupError } from './logins.ts';
import { applySchemaFiles, functionsOf, SchemaError, schemaFiles } from './schema-objects.ts';

/** Holds migrations/, functions/, views/ and triggers/: this folder, or the bundle's lib/. */
export const SCHEMA_DIR = import.meta.dirname;
/** Advisory lock key: serialises concurrent migrations. */
const LOCK_KEY = 0x5374696c65;
const FILE_NAME = /^(\d{4}_[a-z0-9_]+)\.sql$/;

export interface MigrateOptions {
  /** Receives one line for each file, and a last one. */
  readonly onProgress?: (line: string) => void;
  /** Receives a warning: something that works and should be set otherwise. */
  readonly onWarning?: (text: string) => void;
  /** The setting that the address came from, for messages. Default: STILE_MIGRATE_URL. */
  readonly setting?: string;
  /** Another folder than SCHEMA_DIR (tests). */
  readonly dir?: string;
}

/** A landed file was changed or is gone, or one was put before it. */
export class MigrationError extends Error {
  override name = 'MigrationError';
}

/**
 * Runs what has not run yet, each file in a transaction of its own, and returns their names. Needs the
 * database's owner, which is no superuser. Throws SetupError where that login, its rights or the server are not as they must be (then
 * nothing was changed), MigrationError when the files don't fit what the database has seen, and PostgreSQL's error when a file fails
 * (that file then left no trace).
 */
export async function migrate(url: string, options: MigrateOptions = {}): Promise<string[]> {
  const dir = options.dir ?? SCHEMA_DIR;
  const progress = options.onProgress ?? (() => {});
  const files = migrationFiles(dir);
  const setting = options.setting ?? 'STILE_MIGRATE_URL';
  const owner = await connectOwner(url).catch((error: unknown) => {
    throw refusedLogin(error, url, setting) ?? error;
  });
  try {
    const warning = await checkOwner(owner, setting);
    if (warning !== null) options.onWarning?.(warning);
    await owner.query('SELECT pg_advisory_lock($1)', [LOCK_KEY]);
    await refuseUnreleased(owner);
    await owner.query('CREATE TABLE IF NOT EXISTS schema_objects (path text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())');
    await checkLanded(owner, files);
    const quiet = () => {};
    const ran = await runner({
      dbClient: owner.client,
      dir: join(dir, 'migrations', '*.sql'),
      useGlob: true,
      direction: 'up',
      migrationsTable: 'migrations',
      noLock: true,
      checkOrder: true,
      singleTransaction: false,
      logger: {
        debug: quiet,
        info: (line: string) => {
          const name = /^### MIGRATION (\S+)/.exec(line)?.[1];
          if (name !== undefined) progress(name);
        },
        warn: quiet,
        error: quiet,
      },
    });
    await rememberHashes(owner, files);
    // The serving login looks by them whether the database is of its version.
    await owner.query('GRANT SELECT ON schema_objects TO stile_service');
    const applied = await applySchemaFiles(owner, schemaFiles(dir), functionsOf([...files.keys()].map((name) => readMigration(dir, name))));
    // The coming months' partitions; where a month was missed, its rows are in the default one.
    await owner.query('SELECT make_ledger_partitions()');
    const landed = `${ran.length} migration${ran.length === 1 ? '' : 's'} landed, ${applied.length} function${applied.length === 1 ? '' : 's'}, views and triggers applied`;
    progress(ran.length + applied.length === 0 ? 'the database is up to date' : landed);
    return ran.map(({ name }) => name);
  } catch (error) {
    if (error instanceof SchemaError && sqlState(error.cause) !== '42501') throw new MigrationError(error.message, { cause: error });
    if (sqlState(error) === '42501' || (error instanceof SchemaError && sqlState(error.cause) === '42501'))
      throw new SetupError(`the login in ${setting} lacks a right (${(error as Error).message}): it must own the database and everything that was made in it`);
    throw error;
  } finally {
    await owner.close();
  }
}

/** Returns every migration by name with its SHA-256, in order. Throws MigrationError for a file name that would not sort. */
export function migrationFiles(dir: string = SCHEMA_DIR): ReadonlyMap<string, string> {
  const files = new Map<string, string>();
  for (const file of readdirSync(join(dir, 'migrations'))
    .filter((name) => name.endsWith('.sql'))
    .sort()) {
    const name = FILE_NAME.exec(file)?.[1];
    if (name === undefined) throw new MigrationError(`${join(dir, 'migrations', file)}: a migration is named NNNN_words.sql`);
    files.set(name, createHash('sha256').update(readMigration(dir, name)).digest('hex'));
  }
  return files;
}

const readMigration = (dir: string, name: string): string => readFileSync(join(dir, 'migrations', `${name}.sql`), 'utf8');

/** Returns what `dir` makes of a database, as path → SHA-256: every migration, function, view and trigger file. */
export function schemaHashes(dir: string = SCHEMA_DIR): ReadonlyMap<string, string> {
  const migrations = [...migrationFiles(dir)].map(([name, sha256]) => [`migrations/${name}`, sha256] as const);
  return new Map([...migrations, ...schemaFiles(dir).map(({ path, sha256 }) => [path, sha256] as const)]);
}

/** Refuses what was made before the first release: its migrations are one baseline now. */
async function refuseUnreleased(owner: OwnerConnection): Promise<void> {
  const { rows } = await owner.query<{ old: boolean }>("SELECT to_regclass('public.migration_hashes') IS NOT NULL AS old");
  if (rows[0]?.old === true)
    throw new MigrationError(
      'this database was made by an unreleased version of Stile: start with an empty one (docs/INSTALL.md), and bring what gates recorded with stile-cloud import --ledger',
    );
}

async function checkLanded(owner: OwnerConnection, files: ReadonlyMap<string, string>): Promise<void> {
  const landed = await owner.query<{ name: string; sha256: string }>(
    "SELECT substr(path, length('migrations/') + 1) AS name, sha256 FROM schema_objects WHERE path LIKE 'migrations/%' ORDER BY path",
  );
  for (const { name, sha256 } of landed.rows) {
    const now = files.get(name);
    if (now === undefined)
      throw new MigrationError(`migration ${name} has landed in this database, but its file is gone: this program is older than the database`);
    if (now !== sha256) throw new MigrationError(`migration ${name} was changed after it landed: undo the change and write a new migration`);
  }
}

/** Stores the hashes after the run, so that a file that ended between its commit and this line is remembered the next time. */
async function rememberHashes(owner: OwnerConnection, files: ReadonlyMap<string, string>): Promise<void> {
  await owner.query(
    "INSERT INTO schema_objects (path, sha256) SELECT 'migrations/' || f.name, f.sha256 FROM unnest($1::text[], $2::text[]) AS f (name, sha256) JOIN migrations m ON m.name = f.name ON CONFLICT (path) DO NOTHING",
    [[...files.keys()], [...files.values()]],
  );
}
