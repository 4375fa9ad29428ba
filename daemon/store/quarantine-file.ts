/**
 * A database that is damaged is quarantined under a dated name, never deleted, and what can still be read of it is saved.
 */
import { closeSync, copyFileSync, existsSync, fsyncSync, linkSync, openSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import type { Direction } from '../../contract/ids.ts';
import type { Mode } from '../../contract/ledger.ts';
import { syncFolder } from './durable-state.ts';
import { type StoredEntry, sha256Text } from './ledger.ts';
import { checksumsPath, deleteChecksums, repairPages } from './page-checksums.ts';
import { openForSalvage, type Sqlite } from './sqlite.ts';
import { rechecksumWal } from './wal-inspect.ts';

/** Rows after each other that cannot be read, where the end of the table is unknown: then the search ends. */
const MAX_UNREADABLE_RUN = 10_000;
/** Rows taken over; more stay in the file that was quarantined, for `stile-gate ledger recover`. */
export const MAX_SALVAGED_ROWS = 1_000_000;

export interface Salvage {
  /** Where the damaged database lies now. */
  readonly path: string;
  /** Highest own epoch that could be read; 0: none. */
  readonly lastEpoch: number;
  /** Readable rows that were not acknowledged, in order. */
  readonly rows: readonly { readonly epoch: number; readonly seq: number; readonly entry: string }[];
  /** How far each own epoch was acknowledged. */
  readonly acked: readonly { readonly epoch: number; readonly seq: number }[];
  /** Highest row of each own epoch that there was, readable or not, as far as this database tells. */
  readonly ends: readonly { readonly epoch: number; readonly seq: number }[];
  /** Pages of its file, and frames of its log whose pages nothing later tells of, that are damaged and could not be mended: rows behind the newest that is known may be missing. */
  readonly unread: number;
  readonly modes: readonly { readonly direction: Direction; readonly mode: Mode; readonly until_ms: number | null; readonly from_mode: Mode | null }[];
  readonly transactions: readonly { readonly id: string; readonly expires_at_ms: number }[];
}

/**
 * Renames a database with its log, so that nothing of it is overwritten. The log gets its new name first and loses the old one last: wherever
 * the power goes, a database never stands without the log that holds its newest rows. Answers the new path. Errors are the file system's.
 */
export function quarantine(path: string, wallMs: number): string {
  const stamp = new Date(Math.max(wallMs, newestAsideMs(path) + 1)).toISOString().replaceAll(/[-:]/g, '').replace('.', '-');
  const taken = (target: string): boolean => existsSync(target) || existsSync(`${target}-wal`);
  let target = path.replace(/\.sqlite$/, `.damaged-${stamp}.sqlite`);
  for (let n = 2; taken(target); n++) target = path.replace(/\.sqlite$/, `.damaged-${stamp}-${n}.sqlite`);
  const folder = dirname(join(path));
  // They tell which bit of a page is wrong.
  if (existsSync(checksumsPath(path))) secondName(checksumsPath(path), checksumsPath(target));
  if (existsSync(`${path}-wal`)) secondName(`${path}-wal`, `${target}-wal`);
  syncFolder(folder);
  if (existsSync(path)) renameSync(path, target);
  syncFolder(folder);
  for (const suffix of ['-wal', '-shm']) rmSync(path + suffix, { force: true });
  // Sums of this file must never be held against the next one.
  deleteChecksums(path);
  syncFolder(folder);
  return target;
}

/** The last of those that were quarantined holds what they all owe: names rise, also where an earlier one was given under a clock that was ahead. */
function newestAsideMs(path: string): number {
  const prefix = `${basename(path, '.sqlite')}.damaged-`;
  let newestMs = Number.NEGATIVE_INFINITY;
  for (const file of readdirSync(dirname(join(path)))) {
    if (!file.startsWith(prefix)) continue;
    const [, date, hour, minute, second, ms] = ASIDE_TIME.exec(file.slice(prefix.length)) ?? [];
    const atMs =
      date === undefined ? Number.NaN : Date.parse(`${date.slice(0, -4)}-${date.slice(-4, -2)}-${date.slice(-2)}T${hour}:${minute}:${second}.${ms}Z`);
    if (atMs > newestMs) newestMs = atMs;
  }
  return newestMs;
}
/** As `setAside` writes it. */
const ASIDE_TIME = /^(\d{8})T(\d\d)(\d\d)(\d\d)-(\d{3})Z/;

function secondName(path: string, name: string): void {
  try {
    linkSync(path, name);
  } catch {
    // A file system without second names: a copy does as well.
    copyFileSync(path, name);
    const file = openSync(name, 'r+');
    try {
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  }
}

/** Reads what can be read, row by row, behind damaged places of the log as well. Total: a file that says nothing gives nothing. */
export function salvage(path: string): Salvage {
  const pages = attempt(() => repairPages(path)) ?? 0;
  const { changed, unread: frames } = attempt(() => rechecksumWal(path)) ?? { changed: false, unread: 0 };
  const unread = pages + frames;
  const saved = { ...readable(path), unread };
  if (!changed || saved.rows.length > 0) return saved;
  // The log as it was may say more than the one that was mended.
  attempt(() => copyFileSync(`${path}-wal.asis`, `${path}-wal`));
  return { ...readable(path), unread };
}

function readable(path: string): Omit<Salvage, 'unread'> {
  const nothing = { path, lastEpoch: 0, rows: [], acked: [], ends: [], modes: [], transactions: [] };
  let db: Sqlite;
  try {
    db = openForSalvage(path);
  } catch {
    return nothing;
  }
  try {
    const epochs = epochsOf(db);
    return {
      path,
      lastEpoch: epochs.at(-1)?.epoch ?? 0,
      rows: [...salvageEarlier(db), ...salvageRows(db, epochs)].slice(0, MAX_SALVAGED_ROWS),
      acked: [
        ...(attempt(() => db.prepare<[], { epoch: number; seq: number }>('SELECT epoch, acked_seq AS seq FROM salvaged_epochs').all()) ?? []),
        ...epochs.map((own) => ({ epoch: own.epoch, seq: own.acked_seq })),
      ],
      ends: endsOf(db, epochs),
      modes: attempt(() => db.prepare<[], Salvage['modes'][number]>('SELECT direction, mode, until_ms, from_mode FROM modes').all()) ?? [],
      transactions: attempt(() => db.prepare<[], Salvage['transactions'][number]>('SELECT id, expires_at_ms FROM transactions').all()) ?? [],
    };
  } finally {
    attempt(() => db.close());
  }
}

/** Rows that this database had itself saved from an earlier one. */
const salvageEarlier = (db: Sqlite): Salvage['rows'] =>
  attempt(() => db.prepare<[], Salvage['rows'][number]>('SELECT epoch, seq, entry FROM salvaged ORDER BY epoch, seq').all()) ?? [];

type Epochs = readonly { readonly epoch: number; readonly first_id: number; readonly acked_seq: number }[];

/** An epoch that is acknowledged beyond its end is not: its rows are sent again rather than forgotten. */
function epochsOf(db: Sqlite): Epochs {
  const epochs = attempt(() => db.prepare<[], Epochs[number]>('SELECT epoch, first_id, acked_seq FROM epochs ORDER BY epoch').all()) ?? [];
  const ends = new Map(endsOf(db, epochs).map(({ epoch, seq }) => [epoch, seq]));
  return epochs.map((own) => (own.acked_seq >= 0 && own.acked_seq <= (ends.get(own.epoch) ?? own.acked_seq) ? own : { ...own, acked_seq: 0 }));
}

const endOf = (db: Sqlite): number | null => attempt(() => db.prepare<[], { id: number | null }>('SELECT max(id) AS id FROM rows').get())?.id ?? null;

function endsOf(db: Sqlite, epochs: Epochs): Salvage['ends'] {
  const end = endOf(db);
  return epochs.flatMap((own, at) => {
    const next = epochs[at + 1]?.first_id ?? (end === null ? null : end + 1);
    return next === null || next <= own.first_id ? [] : [{ epoch: own.epoch, seq: next - own.first_id }];
  });
}

/** Acknowledged rows that are read before the first that is not, so that its hash is checked as well. */
const ROWS_FOR_PROOF = 2;

/** Hashes that the row before may have, tried at once. */
const MAX_HASHES = 3;

function salvageRows(db: Sqlite, epochs: Epochs): Salvage['rows'][number][] {
  const one = attempt(() => db.prepare<[number], { entry: string }>('SELECT entry FROM rows WHERE id = ?'));
  const rows: Salvage['rows'][number][] = [];
  if (one === undefined) return rows;
  const name = attempt(() => db.prepare<[], { value: string }>("SELECT value FROM meta WHERE key = 'ledger'").get())?.value;
  const end = endOf(db);
  epochs.forEach((own, at) => {
    const until = (epochs[at + 1]?.first_id ?? (end === null ? Number.MAX_SAFE_INTEGER : end + 1)) - 1;
    const from = Math.max(1, own.acked_seq + 1 - ROWS_FOR_PROOF);
    // What the hash of the row before may be; empty: nothing is known of it.
    let previous: readonly string[] = from === 1 && name !== undefined ? [firstPredecessor(sha256Text, name, own.epoch)] : [];
    // The newest row that was taken has nothing before it to be checked by.
    let trusted = false;
    for (let id = own.first_id + from - 1, missing = 0; id <= until && missing < MAX_UNREADABLE_RUN; id++) {
      const seq = id - own.first_id + 1;
      const text = attempt(() => one.get(id))?.entry;
      const entry = text === undefined ? undefined : (attempt(() => JSON.parse(text) as StoredEntry | null) ?? undefined);
      // A row that does not follow from the readable row before it does not say what was written.
      const hashes: readonly string[] = entry === undefined ? [] : previous.flatMap((hash) => attempt(() => entryHash(sha256Text, hash, entry)) ?? []);
      if (entry === undefined || text === undefined || entry.seq !== seq || (previous.length > 0 && !hashes.includes(entry.hash))) {
        missing++;
        // The row before it was taken on trust, and this one speaks against it: one of the two is damaged.
        if (trusted && entry !== undefined && previous.length > 0) rows.pop();
        trusted = false;
        // Either its hash is what is damaged, or the rest is: the row after it tells.
        previous = typeof entry?.hash === 'string' ? [entry.hash, ...hashes].slice(0, MAX_HASHES) : [];
        continue;
      }
      missing = 0;
      trusted = previous.length === 0 && seq > own.acked_seq;
      previous = [entry.hash];
      if (seq > own.acked_seq) rows.push({ epoch: own.epoch, seq, entry: text });
    }
  });
  return rows;
}

function attempt<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}
