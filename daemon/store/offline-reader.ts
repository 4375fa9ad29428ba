/**
 * Reads the ledger from a folder that no gate has open: a dead gate's disk, or a database that was quarantined. Works on a copy
 * in the temporary folder, so that nothing on the disk changes, not even by opening it, and read-only disks can be read. Takes rows that the
 * database cannot give from the second copy beside it (row-copy.ts).
 */
import { copyFileSync, existsSync, lstatSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { entryHash } from '../../contract/hash-chain.ts';
import { type StoredEntry, sha256Text } from './ledger.ts';
import { copyPath, olderCopyPath, readRowCopy } from './row-copy.ts';
import { lockStore, openForSalvage, type Sqlite, StoreError, storeError } from './sqlite.ts';

export const LEDGER_FILE = 'ledger.sqlite';
const QUARANTINED = /^ledger\.damaged-.+\.sqlite$/;
/** Rows after each other that cannot be read, where the end of an epoch is unknown: then the search ends. */
const MAX_UNREADABLE_RUN = 10_000;

export interface OfflineRow {
  readonly epoch: number;
  readonly seq: number;
  /** The cloud had acknowledged it, as far as this database knew. */
  readonly acked: boolean;
  readonly entry: StoredEntry;
}

export interface StoreManifest {
  readonly eventId: string;
  readonly version: number;
  readonly overlayVersion: number;
}

export interface OfflineLedger {
  readonly path: string;
  /** `<site>/<gate>`; null: it cannot be read, or the database never had a row. */
  readonly gate: string | null;
  /** Epochs of its own rows, ascending; empty where nothing can be read. */
  readonly epochs: readonly number[];
  /** Returns every row that can be read and follows from the one before it, in order; rows that it had salvaged from an earlier database first. */
  rows(): IterableIterator<OfflineRow>;
  /** Returns the rows that were met and could not be read, so far: whole only when `rows` was read to its end. */
  unreadable(): number;
  manifests(): readonly StoreManifest[];
  close(): void;
}

/** Databases in a store folder: the present one, then those that were quarantined, oldest first. Throws the file system's error. */
export function ledgersOf(folder: string): { readonly present: string | null; readonly quarantine: readonly string[] } {
  const names = readdirSync(folder);
  return {
    present: names.includes(LEDGER_FILE) ? join(folder, LEDGER_FILE) : null,
    quarantine: names
      .filter((name) => QUARANTINED.test(name))
      .sort()
      .map((name) => join(folder, name)),
  };
}

/**
 * Opens a copy of one database. Throws StoreError: `busy` where a gate has it open, else what the file system says. A damaged one opens, and gives
 * what it can. `gate` names the ledger's gate for the case that the database cannot: the second copy's lines are checked with it.
 */
export function openOfflineLedger(path: string, gate?: string): OfflineLedger {
  const folder = join(path, '..');
  const lock = basename(path) === LEDGER_FILE ? holdStore(folder) : null;
  const copy = mkdtempSync(join(tmpdir(), 'stile-ledger-'));
  let db: Sqlite | null = null;
  try {
    // Root looks into the folder of a service: a link there could lead it to a file of root's.
    for (const suffix of ['', '-wal'])
      if (lstatSync(path + suffix, { throwIfNoEntry: false })?.isSymbolicLink() === true)
        throw Object.assign(new Error(`${path}${suffix} is a link`), { code: 'ELOOP' });
    for (const suffix of ['', '-wal']) if (existsSync(path + suffix)) copyFileSync(path + suffix, join(copy, `ledger.sqlite${suffix}`));
    db = attempt(() => openForSalvage(join(copy, 'ledger.sqlite'))) ?? null;
    // A link or a pipe there is passed over: the database's own rows do without.
    for (const from of [copyPath(folder), olderCopyPath(folder)])
      if (lstatSync(from, { throwIfNoEntry: false })?.isFile() === true) attempt(() => copyFileSync(from, join(copy, basename(from))));
    return readable({ path, db, copyFolder: copy, gate }, () => {
      attempt(() => db?.close());
      rmSync(copy, { recursive: true, force: true });
    });
  } catch (error) {
    rmSync(copy, { recursive: true, force: true });
    throw storeError(`read ${path}`, error);
  } finally {
    lock?.close();
  }
}

/** Takes the store's lock, so that no gate writes while the copy is made. A disk that cannot be written has no gate running on it. */
function holdStore(folder: string): Sqlite | null {
  const path = join(folder, 'lock.sqlite');
  if (lstatSync(path, { throwIfNoEntry: false })?.isFile() !== true) return null;
  try {
    return lockStore(join(folder, 'lock.sqlite'));
  } catch (error) {
    if (error instanceof StoreError && /BUSY|LOCKED/.test(error.code)) throw error;
    return null;
  }
}

interface Epoch {
  readonly epoch: number;
  readonly first_id: number;
  readonly acked_seq: number;
}

interface Source {
  readonly path: string;
  readonly db: Sqlite | null;
  /** Holds the second copy's files, where there were any. */
  readonly copyFolder: string;
  readonly gate: string | undefined;
}

type CopiedEpochs = ReadonlyMap<number, { readonly acked: number; readonly rows: ReadonlyMap<number, StoredEntry> }>;

/** Returns the second copy's rows by epoch, of an epoch by number. */
function copiedEpochs(folder: string, gate: string | undefined): CopiedEpochs {
  if (gate === undefined) return new Map();
  const { rows, acked } = readRowCopy(folder, gate);
  const epochs = [...new Set(rows.map(({ epoch }) => epoch))].sort((a, b) => a - b);
  const entriesOf = (wanted: number) =>
    rows
      .filter(({ epoch }) => epoch === wanted)
      .map(({ entry }) => [entry.seq, entry] as const)
      .sort(([a], [b]) => a - b);
  return new Map(epochs.map((epoch) => [epoch, { acked: acked.get(epoch) ?? 0, rows: new Map(entriesOf(epoch)) }]));
}

function readable({ path, db, copyFolder, gate: givenGate }: Source, close: () => void): OfflineLedger {
  const all = <R>(sql: string): readonly R[] => attempt(() => db?.prepare<[], R>(sql).all()) ?? [];
  const epochs = all<Epoch>('SELECT epoch, first_id, acked_seq FROM epochs ORDER BY epoch');
  const gate = all<{ value: string }>("SELECT value FROM meta WHERE key = 'ledger'")[0]?.value ?? null;
  const copied = copiedEpochs(copyFolder, gate ?? givenGate);
  let unreadable = 0;

  function* salvaged(): IterableIterator<OfflineRow> {
    for (const { epoch, seq, entry } of all<{ epoch: number; seq: number; entry: string }>('SELECT epoch, seq, entry FROM salvaged ORDER BY epoch, seq')) {
      const parsed = parse(entry);
      if (parsed !== null && parsed.seq === seq) yield { epoch, seq, acked: false, entry: parsed };
      else unreadable++;
    }
  }

  function* own(): IterableIterator<OfflineRow> {
    const one = attempt(() => db?.prepare<[number], { entry: string }>('SELECT entry FROM rows WHERE id = ?'));
    const first = all<{ id: number | null }>('SELECT min(id) AS id FROM rows')[0]?.id ?? 1;
    const last = all<{ id: number | null }>('SELECT max(id) AS id FROM rows')[0]?.id ?? null;
    for (const [at, { epoch, first_id, acked_seq }] of epochs.entries()) {
      const next = epochs[at + 1]?.first_id;
      const until = next !== undefined ? next - 1 : (last ?? Number.MAX_SAFE_INTEGER);
      const copy = copied.get(epoch);
      const acked = Math.max(acked_seq, copy?.acked ?? 0);
      let previous: string | null = null;
      let lastSeq = 0;
      for (let id = Math.max(first, first_id), missing = 0; id <= until && missing < MAX_UNREADABLE_RUN; id++) {
        const seq = id - first_id + 1;
        const text = attempt(() => one?.get(id))?.entry;
        const entry = [text === undefined ? null : parse(text), copy?.rows.get(seq)].find((one) => one?.seq === seq && follows(previous, one));
        if (entry === undefined || entry === null) {
          missing++;
          // Where the end is not known, what cannot be read may never have been there.
          if (last !== null || next !== undefined) unreadable++;
          previous = null;
          continue;
        }
        missing = 0;
        previous = entry.hash;
        lastSeq = seq;
        yield { epoch, seq, acked: seq <= acked, entry };
      }
      yield* copiedAfter(epoch, lastSeq, previous);
    }
  }

  /** Yields the copied rows of an epoch behind the last one that the database gave. */
  function* copiedAfter(epoch: number, lastSeq: number, lastHash: string | null): IterableIterator<OfflineRow> {
    const copy = copied.get(epoch);
    let previous = { seq: lastSeq, hash: lastHash };
    for (const [seq, entry] of copy?.rows ?? []) {
      if (seq <= lastSeq) continue;
      if (!follows(seq === previous.seq + 1 ? previous.hash : null, entry)) {
        unreadable++;
        continue;
      }
      previous = { seq, hash: entry.hash };
      yield { epoch, seq, acked: seq <= (copy?.acked ?? 0), entry };
    }
  }

  return {
    path,
    gate,
    epochs: epochs.map(({ epoch }) => epoch),
    *rows() {
      unreadable = 0;
      yield* salvaged();
      yield* own();
      if (epochs.length === 0) for (const epoch of copied.keys()) yield* copiedAfter(epoch, 0, null);
    },
    unreadable: () => unreadable,
    manifests: () =>
      all<{ event_id: string; version: number; overlay_version: number }>(
        'SELECT event_id, version, overlay_version FROM manifests WHERE active = 1 ORDER BY event_id',
      ).map((row) => ({ eventId: row.event_id, version: row.version, overlayVersion: row.overlay_version })),
    close,
  };
}

/** Returns whether a row's hash continues the one before it; true where that one is not known. */
const follows = (previous: string | null, entry: StoredEntry): boolean => previous === null || hashAfter(previous, entry) === entry.hash;
const hashAfter = (previous: string, entry: StoredEntry): string | undefined => attempt(() => entryHash(sha256Text, previous, entry));
const parse = (text: string): StoredEntry | null => attempt(() => JSON.parse(text) as StoredEntry) ?? null;

/** Returns the bytes of a database with its log. */
export const ledgerBytes = (path: string): number =>
  ['', '-wal'].reduce((sum, suffix) => sum + (statSync(path + suffix, { throwIfNoEntry: false })?.size ?? 0), 0);

function attempt<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}
