/**
 * The ledger: append-only rows (gate, epoch, seq), each with the hash of the one before. Nothing here knows what a row means.
 *
 * Numbers and the last hash live in memory and move only after the commit: a commit that fails leaves the ledger as it was.
 */
import { hash as digest } from 'node:crypto';
import { existsSync } from 'node:fs';
import { canonicalJson, entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import type { RowPosition } from '../../contract/ids.ts';
import { plainData } from '../../contract/text.ts';
import { deleteChecksums, openPageChecksums, type PageChecksums } from './page-checksums.ts';
import { migrateLedger } from './schema.ts';
import { createCheckpointer, damagedPage, openDatabase, readAlone, type Sqlite, StoreError, storeError } from './sqlite.ts';
import { inspectWal, type WalEnd } from './wal-inspect.ts';
import { preallocateWal } from './wal-preallocate.ts';

/** The time as the gate knows it; taken on the loop's thread and sent with each call. */
export interface Stamp {
  readonly boottimeMs: number;
  readonly wallMs: number;
  readonly bootId: string;
  readonly offset: { readonly offsetMs: number; readonly boundMs: number } | null;
  readonly trusted: boolean;
}

/** A row's content: `kind` and its own fields. Fields that are undefined are left out. */
export type RowBody = { readonly kind: string } & Readonly<Record<string, unknown>>;
export type StoredEntry = { readonly seq: number; readonly kind: string; readonly hash: string } & Readonly<Record<string, unknown>>;
export interface AppendedRow {
  readonly position: RowPosition;
  readonly entry: StoredEntry;
}

/** Rows whose hashes are checked before the first decision; the others are checked while the lane is idle. */
export const VERIFY_AT_OPEN_ROWS = 100;

/** About as many rows as fit a page: both are checked at the same pace. */
const ROWS_A_PAGE = 8;
/** Setting of a ledger that stands in for one that was quarantined, as long as not all was taken over from that. */
export const TAKING_OVER = 'taking_over';

export const sha256Text = (text: string): string => digest('sha256', text, 'hex');

/** Returns the error of a chain that does not hold: the ledger is quarantined. */
export function brokenChain(path: string, epoch: number, seq: number): StoreError {
  return new StoreError(
    {
      operation: `check the hash chain of ${path}`,
      cause: `row ${epoch}/${seq} does not follow from the row before it`,
      hint: 'The database is set aside under a dated name and a new epoch begins; keep the file, and look at the card.',
      healsItself: true,
    },
    'STORE_CHAIN',
    true,
  );
}

/** Returns the content of a row that was read. Throws StoreError (damaged) where it is none. */
export function parseEntry(ledger: Pick<Ledger, 'name'>, epoch: number, row: { readonly seq: number; readonly entry: string }): StoredEntry {
  try {
    return JSON.parse(row.entry) as StoredEntry;
  } catch {
    throw brokenChain(`the ledger of ${ledger.name}`, epoch, row.seq);
  }
}

export interface LedgerOptions {
  readonly path: string;
  /** `<site>/<gate>`. */
  readonly name: string;
  readonly stamp: Stamp;
  /**
   * Asked only where the file is new: the own last epoch of a database that was quarantined (every new one lies above it), and whether its rows
   * are still to be taken over. That is written together with the first epoch, so that a power cut cannot come between.
   */
  readonly first?: () => { readonly aboveEpoch: number; readonly takingOver: boolean };
}

export interface Ledger {
  readonly db: Sqlite;
  readonly name: string;
  /** True where this file had no rows of this gate before: new, or rebuilt. */
  readonly fresh: boolean;
  epoch(): number;
  lastSeq(): number;
  /** Returns every own epoch that has rows here, ascending: its first kept and its last seq. */
  epochs(): readonly { readonly epoch: number; readonly firstSeq: number; readonly lastSeq: number }[];
  /** Returns the last seq of an own epoch, pruned or not; 0: it has no rows; null: not an epoch of this file. */
  lastSeqOf(epoch: number): number | null;
  /** Appends rows in one transaction, with what else must stand or fall with them. Durable when it returns. Throws StoreError. */
  append(bodies: readonly RowBody[], stamp: Stamp, also?: (rows: readonly AppendedRow[]) => void): readonly AppendedRow[];
  /**
   * Does everything that `append` does but the commit: what a row needs of memory and processor is at hand for the one that follows. Nothing is written.
   * Throws StoreError.
   */
  rehearse(body: RowBody, stamp: Stamp): void;
  /** Runs a change of other tables of this database, durable when it returns. Throws StoreError. */
  change<T>(operation: string, work: () => T): T;
  /** Returns the rows of an own epoch in order, as text, at most `limit`. */
  read(epoch: number, fromSeq: number, limit: number): readonly { readonly seq: number; readonly entry: string }[];
  /** Returns the hash of a row that is kept, or of the last one that was pruned of its epoch; null: it is not known here. Throws StoreError. */
  hashOf(epoch: number, seq: number): string | null;
  /** Begins another epoch above `ackedEpoch`, the own last one and the Unix seconds, in one transaction with `also`. Throws StoreError. */
  startEpoch(ackedEpoch: number, stamp: Stamp, also?: (epoch: number) => void): number;
  /** Deletes rows of an epoch up to `uptoSeq`; the newest row always stays. Answers how many. */
  prune(epoch: number, uptoSeq: number, limit: number): number;
  /** Checks up to `rows` more rows of the chain, oldest first; false: all are checked. Throws StoreError (damaged). */
  verifyNext(rows: number): boolean;
  meta(key: string): string | undefined;
  setMeta(key: string, value: string): void;
  /** Does the same within a transaction that is under way: `also` of `append` and `startEpoch`, or `change`. */
  putMeta(key: string, value: string): void;
  /** Checkpoints the write-ahead log: when idle from CHECKPOINT_AFTER_COMMITS on, when busy only past WAL_LIMIT_BYTES (then it is cut as well). */
  maybeCheckpoint(when: 'idle' | 'busy'): void;
  /**
   * Takes one step of making the log as long as it will get, so that no guest's commit makes it longer; false: done, or not possible now. Throws StoreError.
   */
  preallocateWal(): boolean;
  /** The log ended in a commit that is not whole: cut short by a power cut before anybody was told of it, or damaged. It was dropped. */
  readonly endTruncated: boolean;
  /** Checkpoints the whole log. Throws StoreError. */
  checkpointAll(): void;
  close(): void;
}

interface EpochRow {
  epoch: number;
  first_id: number;
  kept_hash: string | null;
}

/** Opens or makes the ledger; a new one begins its first epoch. Throws StoreError, `damaged` where the file must be quarantined. */
export function openLedger(options: LedgerOptions): Ledger {
  const { path, name } = options;
  let db: Sqlite | undefined;
  try {
    if (!existsSync(path)) deleteChecksums(path);
    // Before anything is read: what a page says now may not be what was written.
    const checksums = openPageChecksums({
      path,
      markOf: () => readAlone(path, 'SELECT max(id) FROM rows'),
      onDamage: (page) => damagedPage(path, page, 'ledger'),
    });
    const end = inspectWal(path);
    if (end.headless || end.commitsBehind > 1) throw brokenLog(path, end);
    db = openDatabase(path, { synchronous: 'full' });
    migrateLedger(db, path);
    const ledger = ledgerOn(db, options, checksums, end);
    // The log begins anew, so that what was cut short is never met again.
    if (end.commitsBehind > 0) ledger.checkpointAll();
    return ledger;
  } catch (error) {
    db?.close();
    throw storeError(`open the ledger of ${name}`, error);
  }
}

function brokenLog(path: string, { headless, commitsBehind }: WalEnd): StoreError {
  return new StoreError(
    {
      operation: `check the log of ${path}`,
      cause: headless ? "the log's header is damaged" : `${commitsBehind} commits lie behind a damaged place of the log`,
      hint: 'The database is set aside under a dated name and a new epoch begins; keep the file, and look at the card.',
      healsItself: true,
    },
    'STORE_LOG',
    true,
  );
}

function ledgerOn(db: Sqlite, { path, name, stamp, first }: LedgerOptions, checksums: PageChecksums, end: WalEnd): Ledger {
  const insert = db.prepare<[number, string]>('INSERT INTO rows (id, entry) VALUES (?, ?)');
  const range = db.prepare<[number, number, number], { id: number; entry: string }>(
    'SELECT id, entry FROM rows WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ? + 0',
  );
  const metaGet = db.prepare<[string], { value: string }>('SELECT value FROM meta WHERE key = ?');
  const metaSet = db.prepare<[string, string]>('INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value');
  const begin = db.prepare('BEGIN IMMEDIATE');
  const commit = db.prepare('COMMIT');
  const rollback = db.prepare('ROLLBACK');

  const beginLog = (): void => void transact('begin the log anew', () => metaSet.run('folded', String(lastId)));
  let preallocated = false;
  const log = createCheckpointer(db, path, {
    checksums,
    mark: () => lastId,
    checkpointed: beginLog,
    cut: () => {
      preallocated = false;
    },
  });
  /** SQLite itself rolls back after a full disk or an I/O error; then there is nothing left to roll back. */
  const transact = <T>(operation: string, work: () => T): T => {
    try {
      begin.run();
      const result = work();
      commit.run();
      log.wrote();
      return result;
    } catch (error) {
      if (db.inTransaction) rollback.run();
      throw storeError(operation, error);
    }
  };

  const ownName = metaGet.get('ledger')?.value;
  if (ownName !== undefined && ownName !== name) {
    throw new StoreError(
      {
        operation: `open ${path}`,
        cause: `this is the ledger of ${ownName}, not of ${name}`,
        hint: 'A gate with another name needs a store of its own: choose another store path, or give the gate its old name.',
        healsItself: false,
      },
      'STORE_OTHER_GATE',
      false,
    );
  }
  const epochs: { epoch: number; firstId: number; keptHash: string | null }[] = db
    .prepare<[], EpochRow>('SELECT epoch, first_id, kept_hash FROM epochs ORDER BY epoch')
    .all()
    .map((row) => ({ epoch: row.epoch, firstId: row.first_id, keptHash: row.kept_hash }));
  const bounds = db.prepare<[], { first: number | null; last: number | null }>('SELECT min(id) AS first, max(id) AS last FROM rows').get();
  let firstId = bounds?.first ?? 0;
  let lastId = bounds?.last ?? 0;
  const fresh = epochs.length === 0;
  let epoch = 0;
  let previous = '';

  const addEpoch = (above: number, at: Stamp, also: (epoch: number) => void = () => {}): number => {
    const next = Math.max(above, epoch, Math.floor(at.wallMs / 1000)) + 1;
    // An epoch without rows is renamed rather than left behind: its first id would be the next one's too.
    transact('begin an epoch', () => {
      metaSet.run('ledger', name);
      also(next);
      db.prepare('DELETE FROM epochs WHERE first_id > ?').run(lastId);
      db.prepare('INSERT INTO epochs (epoch, first_id) VALUES (?, ?)').run(next, lastId + 1);
    });
    while ((epochs.at(-1)?.firstId ?? 0) > lastId) epochs.pop();
    epochs.push({ epoch: next, firstId: lastId + 1, keptHash: null });
    epoch = next;
    previous = firstPredecessor(sha256Text, name, next);
    return next;
  };

  const epochOfId = (id: number) => epochs.findLast((candidate) => candidate.firstId <= id);
  const hashBefore = (id: number): string | undefined => {
    const own = epochOfId(id);
    if (own === undefined) return undefined;
    if (id === own.firstId) return firstPredecessor(sha256Text, name, own.epoch);
    const before = range.get(id - 1, id - 1, 1);
    return before === undefined ? (own.keptHash ?? undefined) : (JSON.parse(before.entry) as StoredEntry).hash;
  };
  /** Checks rows from `fromId` on; answers the id to go on from. A hole in the ids is damage too. */
  const verifyFrom = (fromId: number, limit: number): number => {
    let expected = fromId;
    let hash = hashBefore(fromId);
    for (const row of range.iterate(fromId, lastId, limit)) {
      const own = epochOfId(row.id);
      if (own === undefined || row.id !== expected) throw brokenChain(path, own?.epoch ?? 0, expected - (own?.firstId ?? 0) + 1);
      if (row.id === own.firstId) hash = firstPredecessor(sha256Text, name, own.epoch);
      const seq = row.id - own.firstId + 1;
      let entry: StoredEntry;
      try {
        entry = JSON.parse(row.entry) as StoredEntry;
      } catch {
        throw brokenChain(path, own.epoch, seq);
      }
      if (entry.seq !== seq || (hash !== undefined && entryHash(sha256Text, hash, entry) !== entry.hash)) throw brokenChain(path, own.epoch, seq);
      hash = entry.hash;
      expected++;
    }
    if (expected === fromId && fromId <= lastId) throw brokenChain(path, epochOfId(fromId)?.epoch ?? 0, fromId - (epochOfId(fromId)?.firstId ?? 0) + 1);
    return expected;
  };

  const current = epochs.at(-1);
  if (current === undefined) {
    const { aboveEpoch, takingOver } = first?.() ?? { aboveEpoch: 0, takingOver: false };
    addEpoch(aboveEpoch, stamp, () => takingOver && metaSet.run(TAKING_OVER, '1'));
  } else {
    epoch = current.epoch;
    if (lastId > 0) verifyFrom(Math.max(firstId, lastId - VERIFY_AT_OPEN_ROWS + 1), VERIFY_AT_OPEN_ROWS);
    previous = lastId >= current.firstId ? (hashBefore(lastId + 1) ?? '') : firstPredecessor(sha256Text, name, epoch);
  }
  let verifiedTo = firstId;
  const verifyUntil = lastId;

  const insertAll = (texts: readonly string[]): void => {
    texts.forEach((text, n) => {
      insert.run(lastId + 1 + n, text);
    });
  };
  /** Returns the rows as they would follow the newest one. */
  const follow = (bodies: readonly RowBody[], at: Stamp) => {
    const start = epochs.at(-1)?.firstId ?? 1;
    let id = lastId;
    let hash = previous;
    const texts: string[] = [];
    const rows = bodies.map((body) => {
      const { bare, canonical } = written({ seq: ++id - start + 1, ...timesOf(at), ...defined(body) });
      hash = sha256Text(hash + canonical);
      texts.push(`${canonical.slice(0, -1)},"hash":"${hash}"}`);
      return { position: [epoch, bare.seq] as RowPosition, entry: { ...bare, hash } as StoredEntry };
    });
    return { id, hash, texts, rows };
  };

  return {
    db,
    name,
    fresh,
    epoch: () => epoch,
    lastSeq: () => lastId - (epochs.at(-1)?.firstId ?? 1) + 1,
    epochs: () =>
      epochs
        .map((own, at) => {
          const end = (epochs[at + 1]?.firstId ?? lastId + 1) - 1;
          return { epoch: own.epoch, firstSeq: Math.max(firstId, own.firstId) - own.firstId + 1, lastSeq: end - own.firstId + 1 };
        })
        .filter((own) => own.lastSeq >= own.firstSeq && own.lastSeq > 0),
    lastSeqOf(wanted) {
      const at = epochs.findIndex((own) => own.epoch === wanted);
      const own = epochs[at];
      return own === undefined ? null : (epochs[at + 1]?.firstId ?? lastId + 1) - own.firstId;
    },
    append(bodies, at, also) {
      const { id, hash, texts, rows } = follow(bodies, at);
      if (rows.length === 1 && also === undefined) {
        // A single statement is its own transaction: one round less.
        try {
          insertAll(texts);
        } catch (error) {
          throw storeError('write to the ledger', error);
        }
      } else {
        transact('write to the ledger', () => {
          insertAll(texts);
          also?.(rows);
        });
      }
      if (firstId === 0 && rows.length > 0) firstId = lastId + 1;
      lastId = id;
      previous = hash;
      log.wrote();
      return rows;
    },
    rehearse(body, at) {
      const { texts } = follow([body], at);
      try {
        begin.run();
        insertAll(texts);
      } catch (error) {
        throw storeError('rehearse a row', error);
      } finally {
        if (db.inTransaction) rollback.run();
      }
    },
    change: transact,
    read(wanted, fromSeq, limit) {
      const at = epochs.findIndex((own) => own.epoch === wanted);
      const own = epochs[at];
      if (own === undefined) return [];
      const end = (epochs[at + 1]?.firstId ?? lastId + 1) - 1;
      try {
        return range.all(own.firstId + fromSeq - 1, end, limit).map((row) => ({ seq: row.id - own.firstId + 1, entry: row.entry }));
      } catch (error) {
        throw storeError('read the ledger', error);
      }
    },
    hashOf(wanted, seq) {
      const own = epochs.find((candidate) => candidate.epoch === wanted);
      if (own === undefined || seq < 1) return null;
      const id = own.firstId + seq - 1;
      if (id > lastId || epochOfId(id) !== own) return null;
      try {
        const row = range.get(id, id, 1);
        if (row !== undefined) return (JSON.parse(row.entry) as StoredEntry).hash;
      } catch (error) {
        throw storeError('read the ledger', error);
      }
      return id === firstId - 1 || (id < firstId && epochOfId(id + 1) !== own) ? own.keptHash : null;
    },
    startEpoch: (ackedEpoch, at, also) => addEpoch(ackedEpoch, at, also),
    prune(wanted, uptoSeq, limit) {
      const own = epochs.find((candidate) => candidate.epoch === wanted);
      // Only from the front, so that what is kept stays one chain.
      if (own === undefined || epochOfId(firstId) !== own) return 0;
      const until = Math.min(own.firstId + uptoSeq - 1, lastId - 1, firstId + limit - 1);
      if (until < firstId) return 0;
      const hash = (JSON.parse(range.get(until, until, 1)?.entry ?? '{}') as Partial<StoredEntry>).hash ?? null;
      transact('prune the ledger', () => {
        db.prepare('DELETE FROM rows WHERE id <= ?').run(until);
        db.prepare('UPDATE epochs SET kept_hash = ? WHERE epoch = ?').run(hash, own.epoch);
      });
      const count = until - firstId + 1;
      own.keptHash = hash;
      firstId = until + 1;
      verifiedTo = Math.max(verifiedTo, firstId);
      return count;
    },
    verifyNext(limit) {
      if (checksums.checkSome(Math.ceil(limit / ROWS_A_PAGE))) return true;
      if (verifiedTo === 0 || verifiedTo > verifyUntil) return false;
      try {
        verifiedTo = verifyFrom(verifiedTo, limit);
      } catch (error) {
        throw storeError('check the ledger', error);
      }
      return verifiedTo <= verifyUntil;
    },
    meta: (key) => metaGet.get(key)?.value,
    setMeta(key, value) {
      transact('keep a setting', () => metaSet.run(key, value));
    },
    putMeta(key, value) {
      metaSet.run(key, value);
    },
    preallocateWal() {
      if (preallocated) return false;
      // Without a beginning there is no log yet, and the first guest's commit would sync twice.
      if (!log.begun()) beginLog();
      const more = preallocateWal(db, path);
      preallocated = !more;
      return more;
    },
    endTruncated: end.commitsBehind > 0,
    maybeCheckpoint: log.maybeCheckpoint,
    checkpointAll: log.checkpointAll,
    close: () => {
      try {
        // SQLite would checkpoint the log itself, and the page checksums would not know.
        log.checkpointAll();
      } catch {
        // The checksums are void then; a damaged file is quarantined as it is.
      }
      db.close();
    },
  };
}

function timesOf(at: Stamp): Record<string, unknown> {
  const times = { ts: new Date(at.wallMs).toISOString(), boot_id: at.bootId, boottime_ms: Math.round(at.boottimeMs * 1000) / 1000 };
  return at.offset === null ? times : { ...times, clock_offset_ms: at.offset.offsetMs, clock_bound_ms: at.offset.boundMs };
}

/** Longer words would not be read by anybody: only where a row's own cannot be written. */
const MAX_REPLACED_CHARS = 512;
/**
 * Returns the row as it is hashed. One whose words no canonical JSON holds (half a character, a number that is none) is written without what cannot be said,
 * rather than not at all.
 */
function written<Row extends object>(row: Row): { readonly bare: Row; readonly canonical: string } {
  try {
    return { bare: row, canonical: canonicalJson(row) };
  } catch {
    const bare = plainData(row, MAX_REPLACED_CHARS) as Row;
    return { bare, canonical: canonicalJson(bare) };
  }
}
const defined = (body: RowBody): Record<string, unknown> => Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined));
