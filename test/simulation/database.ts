/**
 * The database of the simulated cloud: rows that follow, forks beside them, which of two rows counts, acknowledgements by content, and copies of all
 * that, which can be put back. Written from ACCOUNT.md ("nothing is lost when a store, a database or a clock goes back"), without a look at the SQL.
 */
import { createHash } from 'node:crypto';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import { compareClaims, identityKey, identityOf, originalOf } from '../../contract/identity.ts';
import type { LedgerMessage, StoredRow, Taken } from './cloud-api.ts';
import { type Row, rowKey } from './counts.ts';
import type { MutantName } from './types.ts';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const MAX_MISSING_RANGES = 100;

type Ledgers = Map<string, Map<number, Map<number, StoredRow>>>;

export interface CloudDatabase {
  readonly ledgers: ReadonlyMap<string, ReadonlyMap<number, ReadonlyMap<number, StoredRow>>>;
  /** Rows that did not follow, by hash: counted nowhere. */
  readonly forks: ReadonlyMap<string, StoredRow>;
  /** Every copy that is put back begins another life. */
  readonly life: number;
  readonly taken: Taken[];
  /** Stores a message of one ledger, in order. */
  store(ledger: string, epoch: number, entries: LedgerMessage['entries']): void;
  upto(ledger: string, epoch: number): number;
  rows(): StoredRow[];
  /** The row that counts for each identity. */
  counted(): ReadonlyMap<string, StoredRow>;
  /** The same as rows under their originals' keys: what verdicts and sums are made of. */
  originals(): Row[];
  /** The epochs of an acknowledgement. */
  epochs(ledger: string): readonly Readonly<Record<string, unknown>>[];
  /** A copy as it is now. */
  copy(life: number): CloudDatabase;
}

interface State {
  readonly ledgers: Ledgers;
  readonly forks: Map<string, StoredRow>;
  readonly taken: Taken[];
}

export function createCloudDatabase(
  mutant: () => MutantName | null,
  life: number,
  state: State = { ledgers: new Map(), forks: new Map(), taken: [] },
): CloudDatabase {
  const { ledgers, forks, taken } = state;
  const uptos = new Map<string, number>();
  const highests = new Map<string, number>();
  const seenTicketTimes = new Set<string>();
  let known = new Map<string, StoredRow>();
  let stale = true;

  const rowsOf = (ledger: string, epoch: number): Map<number, StoredRow> => {
    const epochs = ledgers.get(ledger) ?? new Map<number, Map<number, StoredRow>>();
    ledgers.set(ledger, epochs);
    const rows = epochs.get(epoch) ?? new Map<number, StoredRow>();
    epochs.set(epoch, rows);
    return rows;
  };
  const identity = (row: StoredRow): string => (mutant() === 'again-without-identity' ? identityKey(rowKey(row)) : identityOf(rowKey(row)));
  const count = (row: StoredRow): void => {
    const key = identity(row);
    const other = known.get(key);
    if (other === undefined || compareClaims(rowKey(row), rowKey(other)) < 0) known.set(key, row);
  };
  /** The hash of a row recomputed from its stored predecessor; true also where that is not stored yet. */
  const follows = (ledger: string, epoch: number, rows: ReadonlyMap<number, StoredRow>, row: StoredRow): boolean => {
    if (mutant() === 'fork-stored') return true;
    const before = row.seq === 1 ? firstPredecessor(sha256, ledger, epoch) : rows.get(row.seq - 1)?.hash;
    return before === undefined || entryHash(sha256, before, row.entry) === row.hash;
  };
  const measure = (ledger: string, epoch: number, from: number): void => {
    const rows = rowsOf(ledger, epoch);
    let upto = from;
    while (rows.has(upto + 1)) upto += 1;
    uptos.set(`${ledger} ${epoch}`, upto);
  };
  /** A gap was filled: the rows above that do not follow leave. */
  const recheck = (ledger: string, epoch: number, seq: number): void => {
    const rows = rowsOf(ledger, epoch);
    const next = rows.get(seq);
    if (next === undefined || follows(ledger, epoch, rows, next)) return;
    for (let at = seq, row = rows.get(at); row !== undefined; row = rows.get(++at)) {
      rows.delete(at);
      forks.set(row.hash, row);
    }
    stale = true;
    highests.set(`${ledger} ${epoch}`, Math.max(0, ...rows.keys()));
  };
  /** Returns whether the row stands under its key now. */
  const put = (ledger: string, epoch: number, entry: LedgerMessage['entries'][number]): boolean => {
    const rows = rowsOf(ledger, epoch);
    const { hash, ...rest } = entry;
    const row: StoredRow = { gate: ledger, epoch, seq: entry.seq, hash, entry: rest };
    const key = `${ledger} ${epoch}`;
    const there = rows.get(entry.seq);
    if (there !== undefined) return there.hash === hash;
    if (mutant() === 'duplicates-by-ticket-and-time' && entry['ticket_id'] !== undefined && entry['again'] === undefined) {
      const ticketTime = `${entry['ticket_id']} ${entry['ts']}`;
      if (seenTicketTimes.has(ticketTime)) {
        // Taken for a repeat: acknowledged like any other, and its number counted as there.
        uptos.set(key, Math.max(uptos.get(key) ?? 0, entry.seq));
        return true;
      }
      seenTicketTimes.add(ticketTime);
    }
    if (!follows(ledger, epoch, rows, row)) return false;
    rows.set(entry.seq, row);
    if (!stale) count(row);
    highests.set(key, Math.max(highests.get(key) ?? 0, entry.seq));
    recheck(ledger, epoch, entry.seq + 1);
    measure(ledger, epoch, uptos.get(key) ?? 0);
    return true;
  };
  for (const [ledger, epochs] of ledgers)
    for (const [epoch, rows] of epochs) {
      highests.set(`${ledger} ${epoch}`, Math.max(0, ...rows.keys()));
      measure(ledger, epoch, 0);
    }

  const database: CloudDatabase = {
    ledgers,
    forks,
    life,
    taken,
    store(ledger, epoch, entries) {
      let parted = false;
      for (const entry of entries) {
        if (parted || !put(ledger, epoch, entry)) {
          parted = mutant() !== 'fork-stored';
          const { hash, ...rest } = entry;
          forks.set(hash, { gate: ledger, epoch, seq: entry.seq, hash, entry: rest });
        }
      }
    },
    upto: (ledger, epoch) => uptos.get(`${ledger} ${epoch}`) ?? 0,
    rows: () => [...ledgers.values()].flatMap((epochs) => [...epochs.values()].flatMap((rows) => [...rows.values()])),
    counted() {
      if (stale) {
        known = new Map();
        for (const row of database.rows()) count(row);
        stale = false;
      }
      return known;
    },
    originals: () =>
      [...database.counted().values()].map((row): Row => {
        const { ledger, epoch, seq, hash } = mutant() === 'again-without-identity' ? rowKey(row) : originalOf(rowKey(row));
        return { gate: ledger, epoch, seq, hash, entry: row.entry };
      }),
    epochs: (ledger) =>
      [...(ledgers.get(ledger) ?? [])]
        .filter(([, rows]) => rows.size > 0)
        .sort(([a], [b]) => a - b)
        .map(([epoch, rows]) => {
          const upto = uptos.get(`${ledger} ${epoch}`) ?? 0;
          const last = highests.get(`${ledger} ${epoch}`) ?? 0;
          const missing: [number, number][] = [];
          for (let seq = upto + 1; seq < last && missing.length < MAX_MISSING_RANGES; seq++) {
            if (rows.has(seq)) continue;
            const range = missing.at(-1);
            if (range !== undefined && range[1] === seq - 1) range[1] = seq;
            else missing.push([seq, seq]);
          }
          const named = mutant() === 'ack-above-a-hole' ? last : upto;
          return { epoch, upto_seq: named, hash: rows.get(named)?.hash ?? null, last, missing };
        }),
    copy: (next) =>
      createCloudDatabase(mutant, next, {
        ledgers: new Map([...ledgers].map(([ledger, epochs]) => [ledger, new Map([...epochs].map(([epoch, rows]) => [epoch, new Map(rows)]))])),
        forks: new Map(forks),
        taken: [...taken],
      }),
  };
  return database;
}
