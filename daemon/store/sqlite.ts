/**
 * The only place that loads better-sqlite3: opening, durability, faults, checkpoints.
 *
 * better-sqlite3 is compiled with WAL at synchronous=NORMAL, which loses answered commits at a power cut: a durable database is
 * set to FULL and refuses to open unless that reads back as 2.
 *
 * A bound `LIMIT ?` is compiled anew at every use (SQLite looks at the value while it plans): in the store's statements it is `LIMIT ? + 0`.
 */
import { closeSync, copyFileSync, fdatasyncSync, openSync, readSync, rmSync, statSync } from 'node:fs';
import Database from 'better-sqlite3';
import { cutText } from '../../contract/text.ts';
import type { Fault } from '../ports.ts';
import type { PageChecksums } from './page-checksums.ts';

export type Sqlite = Database.Database;
export type Statement<Parameters extends unknown[] | Record<string, unknown> = unknown[], Row = unknown> = Database.Statement<Parameters, Row>;

/** Wait of a statement for another connection's lock (a backup, a technician's shell), ms. At the bound: it fails as `busy`. */
export const BUSY_TIMEOUT_MS = 1_000;
/** Size of the write-ahead log, bytes. At the bound: it is checkpointed at once, idle or not. */
export const WAL_LIMIT_BYTES = 16 * 1024 * 1024;
/** Cache of one connection, in KiB: small, because the kernel's page cache stands behind it. */
const CACHE_KIB = 2_048;

const FULL = 2;

/** Names the file of the store that an error is about. */
export type StoreFile = 'ledger' | 'usage' | 'manifest';

/** A database error with the fault that tells a person how to fix it. `damaged`: the file itself is broken, not the disk. */
export class StoreError extends Error {
  readonly fault: Fault;
  readonly code: string;
  readonly damaged: boolean;
  readonly file: StoreFile;
  /** Path of the manifest, where the file is one. */
  readonly path: string | null;
  constructor(fault: Fault, code: string, damaged: boolean, cause?: unknown, file: StoreFile = 'ledger', path: string | null = null) {
    super(`${fault.operation}: ${fault.cause}. ${fault.hint}`, { cause });
    this.name = 'StoreError';
    this.fault = fault;
    this.code = code;
    this.damaged = damaged;
    this.file = file;
    this.path = path;
  }
}

/** Codes that say the file itself is damaged; full, busy and denied are faults to fix. */
const DAMAGED = /^SQLITE_(CORRUPT|NOTADB)/;

const HINTS: readonly (readonly [RegExp, string, string, boolean])[] = [
  [/^SQLITE_FULL|^ENOSPC/, 'the disk is full', 'Make room on the disk that holds the store; the gate tries again by itself.', true],
  [
    /^SQLITE_BUSY|^SQLITE_LOCKED/,
    'another program holds the database',
    'Close the other program that has the store open; the gate tries again by itself.',
    true,
  ],
  [
    /^SQLITE_READONLY|^SQLITE_PERM|^SQLITE_AUTH|^SQLITE_CANTOPEN|^EACCES|^EPERM|^EROFS|^ENOENT/,
    'the store cannot be opened for writing',
    "Check that the store path exists and belongs to the gate's user, and that its file system is mounted read-write.",
    false,
  ],
  [/^SQLITE_IOERR|^EIO/, 'the disk reports an input or output error', 'Check the card or disk (dmesg), and replace it if this repeats.', true],
  [DAMAGED, 'the database is damaged', 'It is set aside under a dated name and a new epoch begins; keep the file, and look at the card.', true],
];

/** Returns any error of SQLite or of the file system as a StoreError; a StoreError stays as it is. Never holds values that were bound. */
export function storeError(operation: string, error: unknown, file: StoreFile = 'ledger', path: string | null = null): StoreError {
  if (error instanceof StoreError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  const word = typeof code === 'string' ? code : 'UNKNOWN';
  const known = HINTS.find(([pattern]) => pattern.test(word));
  const fault: Fault =
    known === undefined
      ? {
          operation,
          cause: cutText(`${word}: ${(error as Error | null)?.message ?? String(error)}`, 300),
          hint: 'This is a programming error in the gate: keep its journal and report it.',
          healsItself: false,
        }
      : { operation, cause: `${known[1]} (${word})`, hint: known[2], healsItself: known[3] };
  return new StoreError(fault, word, DAMAGED.test(word), error, file, path);
}

export interface OpenOptions {
  /** full: an answered commit survives a power cut. normal: it survives a kill of the process; for what can be fetched again. */
  readonly synchronous: 'full' | 'normal';
}

/** Opens (or makes) a database for reading and writing, in WAL, never checkpointed by itself. Throws StoreError. */
export function openDatabase(path: string, options: OpenOptions): Sqlite {
  let db: Sqlite | undefined;
  try {
    db = new Database(path, { timeout: BUSY_TIMEOUT_MS });
    // Nobody else needs to see derived data: without shared locks a lookup asks the kernel for less.
    if (options.synchronous === 'normal') db.pragma('locking_mode = EXCLUSIVE');
    const mode = db.pragma('journal_mode = WAL', { simple: true });
    if (mode !== 'wal')
      throw fault(`open ${path}`, `journal_mode is ${String(mode)}, not wal`, 'Put the store on a local file system that supports shared memory.');
    assertLogged(path);
    db.pragma(`synchronous = ${options.synchronous === 'full' ? 'FULL' : 'NORMAL'}`);
    // In one go: a pragma of its own is a statement that is made, run and thrown away.
    db.exec(
      `PRAGMA wal_autocheckpoint = 0; PRAGMA foreign_keys = ON; PRAGMA cache_size = -${CACHE_KIB}; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF`,
    );
    if (options.synchronous === 'full') assertDurable(db, path);
    return db;
  } catch (error) {
    db?.close();
    throw storeError(`open ${path}`, error);
  }
}

/** Offset in a database's file of its formats for writing and reading; the formats of a database without and with a write-ahead log. */
const FORMATS_AT = 18;
const UNLOGGED = 1;
const LOGGED = 2;

/**
 * Refuses a file that does not say, on the disk, that it has a write-ahead log. SQLite answers "wal" although the disk failed while that was written,
 * and goes on without a log: then the pages change and their checksums do not, and the next start takes the file for damaged. Formats that SQLite
 * does not know are damage.
 */
function assertLogged(path: string): void {
  const formats = Buffer.alloc(2);
  const file = openSync(path, 'r+');
  try {
    readSync(file, formats, 0, 2, FORMATS_AT);
    if (!formats.every((format) => format === LOGGED || format === UNLOGGED))
      throw Object.assign(new Error(`the file's formats read ${formats.join(' and ')}`), { code: 'SQLITE_NOTADB' });
    if (!formats.every((format) => format === LOGGED)) throw Object.assign(new Error('the change to a write-ahead log was not written'), { code: 'EIO' });
    // SQLite did not wait for what it asked of the disk here.
    fdatasyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** Refuses a connection whose commits would not survive a power cut. */
export function assertDurable(db: Sqlite, path: string): void {
  const level = db.pragma('synchronous', { simple: true });
  if (level !== FULL)
    throw fault(
      `open ${path}`,
      `synchronous reads ${String(level)}, not ${FULL} (FULL)`,
      'Use the SQLite that the gate ships with: an answered commit must survive a power cut.',
    );
}

/** Opens a file that never changes, for reading alone. Throws StoreError. */
export function openImmutable(path: string): Sqlite {
  try {
    const db = new Database(path, { readonly: true, fileMustExist: true });
    // Keeps its shared lock after the first read, so that a lookup asks the kernel for nothing but pages.
    db.exec(`PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -${CACHE_KIB}; PRAGMA trusted_schema = OFF`);
    return db;
  } catch (error) {
    throw storeError(`open ${path}`, error);
  }
}

/** Opens a file that may be damaged, for reading what can still be read. Throws StoreError. */
export function openForSalvage(path: string): Sqlite {
  try {
    return new Database(path, { fileMustExist: true, timeout: BUSY_TIMEOUT_MS });
  } catch (error) {
    throw storeError(`open ${path}`, error);
  }
}

/**
 * Holds an exclusive lock, for one process at a time, on `<path>` until the answer is closed or the process dies, however it dies.
 * Throws StoreError (`busy`) where another process has it.
 */
export function lockStore(path: string): Sqlite {
  let db: Sqlite | undefined;
  try {
    db = new Database(path, { timeout: BUSY_TIMEOUT_MS });
    db.pragma('journal_mode = MEMORY');
    db.exec('BEGIN EXCLUSIVE');
    return db;
  } catch (error) {
    db?.close();
    throw storeError(`lock ${path}`, error);
  }
}

/** Header of a write-ahead log, before its first frame, bytes. */
const LOG_HEADER_BYTES = 32;
/** Commits between two looks at the log's size while the lane is busy. */
const COMMITS_BETWEEN_LOOKS = 64;

/**
 * Commits that the log holds before the worker checkpoints it while nobody is at the lane: about 1.5 MiB. A checkpoint begins the log anew, and the
 * first commit into a new log syncs twice; done in every pause between two guests, each guest would wait for both.
 */
export const CHECKPOINT_AFTER_COMMITS = 256;

export interface Checkpointer {
  /** Runs after every commit. */
  wrote(): void;
  /** The log's file has frames, of this run or of one before. */
  begun(): boolean;
  /**
   * Checkpoints the write-ahead log. idle: from CHECKPOINT_AFTER_COMMITS on; the log file keeps its length and is written
   * over, because an append that does not grow a file syncs faster. busy: only past WAL_LIMIT_BYTES, and then the file is cut. Throws StoreError.
   */
  maybeCheckpoint(when: 'idle' | 'busy'): void;
  /** Checkpoints everything and cuts the file. Throws StoreError. */
  checkpointAll(): void;
}

/**
 * Returns what a database's file says without its log: one number, by a query; null: it cannot be read, or says none. Works on a copy beside it, so
 * that nothing of the file changes.
 */
export function readAlone(path: string, sql: string): number | null {
  const copy = `${path}.alone`;
  let db: Sqlite | undefined;
  try {
    copyFileSync(path, copy);
    db = new Database(copy);
    return db.prepare<[], number | null>(sql).pluck().get() ?? null;
  } catch {
    return null;
  } finally {
    db?.close();
    for (const suffix of ['', '-wal', '-shm']) rmSync(copy + suffix, { force: true });
  }
}

/** Returns the error for a file whose page is not what was written to it. */
export function damagedPage(path: string, page: number, file: StoreFile): StoreError {
  return new StoreError(
    {
      operation: `check the pages of ${path}`,
      cause: `page ${page} is not what was written`,
      hint: 'The database is set aside under a dated name; keep the file, and look at the card.',
      healsItself: true,
    },
    'STORE_PAGE',
    true,
    undefined,
    file,
  );
}

/**
 * Creates the checkpointer. `checksums`: kept up with each checkpoint; `mark`: how much the database has taken in. `checkpointed`: called after a checkpoint
 * while idle; a small commit there takes the new log's first sync, so that no guest waits for it. `cut`: called after the log's file was cut to nothing.
 */
export function createCheckpointer(
  db: Sqlite,
  path: string,
  {
    checksums,
    mark,
    checkpointed = () => {},
    cut = () => {},
  }: { readonly checksums: PageChecksums; readonly mark: () => number; readonly checkpointed?: () => void; readonly cut?: () => void },
): Checkpointer {
  let commits = 0;
  let looked = 0;
  const checkpoint = (how: 'TRUNCATE' | 'RESTART'): void => {
    checksums.before();
    db.pragma(`wal_checkpoint(${how})`);
    checksums.after(mark());
    if (how === 'TRUNCATE') cut();
  };
  const logBytes = (): number => statSync(`${path}-wal`, { throwIfNoEntry: false })?.size ?? 0;
  return {
    checkpointAll() {
      try {
        checkpoint('TRUNCATE');
      } catch (error) {
        throw storeError(`checkpoint the log of ${path}`, error);
      }
      commits = 0;
      looked = 0;
    },
    wrote() {
      commits++;
    },
    begun: () => logBytes() > LOG_HEADER_BYTES,
    maybeCheckpoint(when) {
      if (when === 'idle' ? commits < CHECKPOINT_AFTER_COMMITS : commits - looked < COMMITS_BETWEEN_LOOKS) return;
      looked = commits;
      try {
        if (when === 'busy') {
          if (logBytes() < WAL_LIMIT_BYTES) return;
          checkpoint('TRUNCATE');
        } else {
          checkpoint('RESTART');
        }
      } catch (error) {
        throw storeError(`checkpoint the log of ${path}`, error);
      }
      commits = 0;
      looked = 0;
      if (when === 'idle') checkpointed();
    },
  };
}

function fault(operation: string, cause: string, hint: string): StoreError {
  return new StoreError({ operation, cause, hint, healsItself: false }, 'STORE_REFUSED', false);
}
