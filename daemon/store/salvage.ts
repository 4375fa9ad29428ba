/**
 * Reads what can still be read of a quarantined database: rows, each judged by its own hash, and the settings that a gate must not lose.
 */
import { copyFileSync } from 'node:fs';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import { Direction } from '../../contract/ids.ts';
import { Mode } from '../../contract/ledger.ts';
import { type StoredEntry, sha256Text } from './ledger.ts';
import { countDamagedPages } from './page-checksums.ts';
import type { CopiedRows } from './row-copy.ts';
import { openForSalvage, type Sqlite } from './sqlite.ts';
import { rechecksumWal } from './wal-salvage.ts';

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
  /** Damaged pages of its file, and damaged frames of its log whose pages no later frame holds again: rows behind the newest known one may be missing. */
  readonly unread: number;
  readonly modes: readonly { readonly direction: Direction; readonly mode: Mode; readonly until_ms: number | null; readonly from_mode: Mode | null }[];
  readonly transactions: readonly { readonly id: string; readonly expires_at_ms: number }[];
}

/**
 * Reads what can still be read of the quarantined database `path`, row by row, behind damaged places of the log as well, and completes it by the
 * copy of the rows. Total: a file that says nothing gives nothing.
 */
export function salvage(path: string, copied: CopiedRows): Salvage {
  const pages = attempt(() => countDamagedPages(path)) ?? 0;
  const { changed, unread: frames } = attempt(() => rechecksumWal(path)) ?? { changed: false, unread: 0 };
  const unread = pages + frames;
  let saved = { ...readable(path, unread > 0 ? copied : null), unread };
  if (changed && saved.rows.length === 0) {
    // The log as it was may say more than the rechecksummed one.
    attempt(() => copyFileSync(`${path}-wal.asis`, `${path}-wal`));
    saved = { ...readable(path, unread > 0 ? copied : null), unread };
  }
  return withCopiedRows(saved, copied);
}

/** Adds the rows of the copy: one stands where it follows from the row before it, or that row is not known. */
function withCopiedRows(saved: Salvage, copied: CopiedRows): Salvage {
  const acked = new Map(copied.acked);
  for (const { epoch, seq } of saved.acked) acked.set(epoch, Math.max(acked.get(epoch) ?? 0, seq));
  const rows = new Map(saved.rows.map((row) => [`${row.epoch}/${row.seq}`, row]));
  for (const { epoch, entry, text } of copied.rows) {
    if (entry.seq <= (acked.get(epoch) ?? 0)) continue;
    const before = rows.get(`${epoch}/${entry.seq - 1}`)?.entry;
    if (before !== undefined && entryHash(sha256Text, (JSON.parse(before) as StoredEntry).hash, entry) !== entry.hash) continue;
    rows.set(`${epoch}/${entry.seq}`, { epoch, seq: entry.seq, entry: text });
  }
  const epochs = [...new Set([...acked.keys(), ...copied.rows.map(({ epoch }) => epoch)])].sort((a, b) => a - b);
  return {
    ...saved,
    // Of a database that says nothing, the copy may not hold the newest rows.
    unread: saved.lastEpoch === 0 && epochs.length > 0 ? Math.max(1, saved.unread) : saved.unread,
    lastEpoch: Math.max(saved.lastEpoch, ...epochs),
    rows: [...rows.values()].sort((a, b) => a.epoch - b.epoch || a.seq - b.seq).slice(0, MAX_SALVAGED_ROWS),
    acked: epochs.map((epoch) => ({ epoch, seq: acked.get(epoch) ?? 0 })),
  };
}

/** `copied`: pages are damaged, so that an acknowledgement is believed only as far as the copy has it; null: none are. */
function readable(path: string, copied: CopiedRows | null): Omit<Salvage, 'unread'> {
  const nothing = { path, lastEpoch: 0, rows: [], acked: [], ends: [], modes: [], transactions: [] };
  let db: Sqlite;
  try {
    db = openForSalvage(path);
  } catch {
    return nothing;
  }
  try {
    const believed = <Row extends { readonly epoch: number; readonly acked_seq: number }>(row: Row): Row =>
      copied === null ? row : { ...row, acked_seq: Math.min(row.acked_seq, copied.acked.get(row.epoch) ?? 0) };
    const epochs = epochsOf(db).map(believed);
    const earlier = attempt(() => db.prepare<[], { epoch: number; acked_seq: number }>('SELECT epoch, acked_seq FROM salvaged_epochs').all()) ?? [];
    const modes = attempt(() => db.prepare<[], Salvage['modes'][number]>('SELECT direction, mode, until_ms, from_mode FROM modes').all()) ?? [];
    return {
      path,
      lastEpoch: epochs.at(-1)?.epoch ?? 0,
      rows: [...salvageEarlier(db), ...salvageRows(db, epochs)].slice(0, MAX_SALVAGED_ROWS),
      acked: [...earlier.map(believed), ...epochs].map((own) => ({ epoch: own.epoch, seq: own.acked_seq })),
      ends: endsOf(db, epochs),
      modes: modes.filter(isMode),
      transactions: attempt(() => db.prepare<[], Salvage['transactions'][number]>('SELECT id, expires_at_ms FROM transactions').all()) ?? [],
    };
  } finally {
    attempt(() => db.close());
  }
}

const isMode = ({ direction, mode, until_ms, from_mode }: Salvage['modes'][number]): boolean =>
  Direction.safeParse(direction).success &&
  Mode.safeParse(mode).success &&
  (until_ms === null || Number.isSafeInteger(until_ms)) &&
  (from_mode === null || Mode.safeParse(from_mode).success);

/** Returns the rows that this database had itself saved from an earlier one. */
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
