/**
 * The cloud's account as a gate meets it, in memory: it stores a row only if it follows, keeps forks apart, counts an admission by its original, and
 * acknowledges by content. Written from the account's rules, without the cloud's code.
 */
import { entryHash, firstPredecessor } from '../../../contract/hash-chain.ts';
import type { AckMessage } from '../../../contract/ledger.ts';
import { type StoredEntry, sha256Text } from '../../store/ledger.ts';

export type Original = readonly [epoch: number, seq: number, hash: string];
export interface AccountRow {
  readonly epoch: number;
  readonly entry: StoredEntry;
}

export interface Account {
  /** Takes a ledger message. */
  take(payload: Uint8Array): void;
  ack(atMs: number): AckMessage;
  /** Stored rows, in order; of two with one original the one that counts alone. */
  counted(): readonly AccountRow[];
  rows(): readonly AccountRow[];
  /** Rows that did not follow and whose original is not counted. */
  openForks(): readonly AccountRow[];
  /** Ledger messages with the rows after a position, as the site's ledger is served. */
  after(position: readonly [number, number]): readonly { readonly epoch: number; readonly entries: readonly StoredEntry[] }[];
  /** A dump, and what becomes of the database when it is restored: another life. */
  dump(): Account;
}

interface State {
  /** Declared gone: epoch and seq to the hash, where it is known. */
  readonly gone: Map<string, string | null>;
  readonly ledgers: Map<number, Map<number, StoredEntry>>;
  readonly forks: Map<string, AccountRow>;
}

export const originalOf = ({ epoch, entry }: AccountRow): Original => (entry['again'] as Original | undefined) ?? [epoch, entry.seq, entry.hash];

export function createAccount(gate: string, state: State = { ledgers: new Map(), forks: new Map(), gone: new Map() }, since = { life: 1 }): Account {
  const { ledgers, forks, gone } = state;
  const life = since.life;
  const rowsOf = (epoch: number): Map<number, StoredEntry> => {
    const known = ledgers.get(epoch) ?? new Map<number, StoredEntry>();
    ledgers.set(epoch, known);
    return known;
  };
  const predecessor = (epoch: number, seq: number): string | null =>
    seq === 1 ? firstPredecessor(sha256Text, gate, epoch) : (ledgers.get(epoch)?.get(seq - 1)?.hash ?? gone.get(`${epoch} ${seq - 1}`) ?? null);
  const follows = (epoch: number, entry: StoredEntry): boolean => {
    const before = predecessor(epoch, entry.seq);
    return before === null || entryHash(sha256Text, before, entry) === entry.hash;
  };
  const fork = (epoch: number, entry: StoredEntry): void => void forks.set(entry.hash, { epoch, entry });
  const prefix = (epoch: number, rows: ReadonlyMap<number, StoredEntry>): number => {
    let seq = 0;
    while (rows.has(seq + 1) || gone.has(`${epoch} ${seq + 1}`)) seq++;
    return seq;
  };
  const all = (): AccountRow[] =>
    [...ledgers].sort(([a], [b]) => a - b).flatMap(([epoch, rows]) => [...rows].sort(([a], [b]) => a - b).map(([, entry]): AccountRow => ({ epoch, entry })));

  const account: Account = {
    take(payload) {
      const message = JSON.parse(Buffer.from(payload).toString()) as {
        epoch: number;
        entries: StoredEntry[];
        gone?: [number, number, number, string | null][];
      };
      const { epoch, entries } = message;
      for (const [of, from, to, hash] of message.gone ?? [])
        for (let seq = from; seq <= to; seq++) if (!rowsOf(of).has(seq) && !gone.has(`${of} ${seq}`)) gone.set(`${of} ${seq}`, seq === to ? hash : null);
      const rows = rowsOf(epoch);
      let parted = false;
      for (const entry of entries) {
        const known = rows.get(entry.seq);
        if (!parted && known !== undefined && known.hash === entry.hash) continue;
        parted ||= known !== undefined || !follows(epoch, entry);
        if (parted) {
          fork(epoch, entry);
          continue;
        }
        rows.set(entry.seq, entry);
        gone.delete(`${epoch} ${entry.seq}`);
        // A gap was filled: what stands above it and does not follow leaves.
        let seq = entry.seq + 1;
        const next = rows.get(seq);
        if (next === undefined || follows(epoch, next)) continue;
        for (let one = rows.get(seq); one !== undefined; one = rows.get(++seq)) {
          rows.delete(seq);
          fork(epoch, one);
        }
      }
    },
    ack: (atMs) => ({
      schema: 1,
      since: `life-${life}`,
      cloud_time: new Date(atMs).toISOString(),
      epochs: [...ledgers]
        .filter(([epoch, rows]) => rows.size > 0 || [...gone.keys()].some((key) => key.startsWith(`${epoch} `)))
        .sort(([a], [b]) => a - b)
        .map(([epoch, rows]) => {
          const upto_seq = prefix(epoch, rows);
          const last = Math.max(upto_seq, ...rows.keys());
          const missing: [number, number][] = [];
          for (let seq = upto_seq + 1; seq < last; seq++) {
            if (rows.has(seq) || gone.has(`${epoch} ${seq}`)) continue;
            const range = missing.at(-1);
            if (range !== undefined && range[1] === seq - 1) range[1] = seq;
            else missing.push([seq, seq]);
          }
          const named = [...gone.keys()]
            .map((key) => key.split(' ').map(Number))
            .flatMap(([of, seq]): [number, number][] => (of === epoch ? [[seq as number, seq as number]] : []));
          return { epoch, upto_seq, hash: rows.get(upto_seq)?.hash ?? gone.get(`${epoch} ${upto_seq}`) ?? null, last, missing, gone: named };
        }),
    }),
    rows: all,
    counted() {
      const found = new Map<string, AccountRow>();
      for (const row of all()) {
        const key = originalOf(row).join(' ');
        if (row.entry['again'] === undefined || !found.has(key)) found.set(key, row);
      }
      return [...found.values()];
    },
    openForks() {
      const counted = new Set(account.counted().map((row) => originalOf(row)[2]));
      return [...forks.values()].filter((row) => !counted.has(originalOf(row)[2]));
    },
    after: ([fromEpoch, fromSeq]) =>
      [...ledgers]
        .sort(([a], [b]) => a - b)
        .map(([epoch, rows]) => ({
          epoch,
          entries: [...rows.values()].filter((entry) => epoch > fromEpoch || (epoch === fromEpoch && entry.seq > fromSeq)).sort((a, b) => a.seq - b.seq),
        }))
        .filter(({ entries }) => entries.length > 0),
    dump() {
      since.life++;
      return createAccount(
        gate,
        { ledgers: new Map([...ledgers].map(([epoch, rows]) => [epoch, new Map(rows)])), forks: new Map(forks), gone: new Map(gone) },
        since,
      );
    },
  };
  return account;
}
