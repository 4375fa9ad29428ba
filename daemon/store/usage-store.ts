/**
 * Usage on disk: what the rows of every ledger of the site say about each grant, found by ticket, and how far each ledger is known.
 *
 * Derived data in a database of its own, without a sync per commit: the gate's own rows are read again from its ledger, peers' rows are
 * fetched again. Changes are held in memory and written when the lane is idle, so that they never stand in a decision's way.
 */
import { closeSync, existsSync, fdatasyncSync, openSync } from 'node:fs';
import { maySay } from '../../contract/authority.ts';
import type { LedgerVector } from '../../contract/ids.ts';
import { type Conflicts, createConflicts } from './conflicts.ts';
import { deleteChecksums, openPageChecksums, type PageChecksums } from './page-checksums.ts';
import { migrateUsage } from './schema.ts';
import { createCheckpointer, damagedPage, openDatabase, readAlone, type Sqlite, StoreError, storeError } from './sqlite.ts';
import { covered, type GrantKey, type GrantState, isGrantCounted, isWordCounted, keyText, mergeStates, readRow, withWordsJoined } from './usage-merge.ts';
import { inspectWal } from './wal-inspect.ts';

/** Changed grants held in memory before they are written, idle or not. */
export const MAX_DIRTY_GRANTS = 2_000;
/** Grants looked at in one step of `forget`. */
const FORGET_STEP = 500;
/** Lies before every key. */
const FIRST_KEY: GrantKey = { gate: '', epoch: 0, seq: 0, hash: '' };

/** The known part of an epoch: 1..seq without a hole, of which 1..base from manifests alone; 1..reach with holes that the cloud has too; the highest row met. */
interface Seen {
  seq: number;
  base: number;
  reach: number;
  high: number;
}

export interface Totals {
  admissions: number;
  refusals: number;
  passages: number;
}

export interface UsageStore {
  /** Every grant of a ticket that rows tell of, covered by a manifest or not. */
  ofTicket(ticketRef: string): readonly GrantState[];
  /** The ticket that a row says something about, by its ref; null: none, or it is not known yet. */
  ticketOf(ledger: string, epoch: number, entry: Readonly<Record<string, unknown>>): string | null;
  /** Refs (hex) of written tickets above this one, in order, at most `limit`. */
  refs(after: Buffer, limit: number): readonly string[];
  /** Takes in one row of the gate's own ledger, in order. Never fails. */
  applyOwn(epoch: number, entry: Readonly<Record<string, unknown>>): void;
  /** Takes in rows of another ledger (or of an own epoch that was lost). Rows met before change nothing. `gap`: rows are missing before the last of these. */
  applyPeer(
    ledger: string,
    epoch: number,
    entries: readonly (Readonly<Record<string, unknown>> & { readonly seq: number })[],
  ): { readonly applied: number; readonly gap: boolean };
  /** The own ledger's numbers prove nothing for now (true), or what was written again does (false). */
  doubtOwn(doubted: boolean): void;
  /** Returns the part of a manifest's snapshot that its numbers prove. */
  proven(upto: LedgerVector): LedgerVector;
  /** Up to which own row this store has taken in. */
  ownMark(epoch: number): number;
  /** Begins to count from the manifests in force: rows that only some of them count are read. `isOwn`: rows that the gate's own ledger holds. */
  countFrom(uptos: readonly LedgerVector[], isOwn: (ledger: string, epoch: number) => boolean): void;
  readonly conflicts: Omit<Conflicts, 'take'>;
  gaps(): boolean;
  /** Holes below the highest row met no longer count as gaps. */
  excuse(): void;
  /** Newest known position of each ledger, `seen` of grants. */
  vector(): LedgerVector;
  /** Newest position of a ledger in epochs below this one; null: none. */
  newestBefore(ledger: string, epoch: number): readonly [number, number] | null;
  /** Positions that changed since the last call that was confirmed. */
  seenSince(): { readonly changed: LedgerVector; readonly confirm: () => void };
  totals(): Readonly<Totals>;
  dirty(): number;
  /** Tells whether memory holds something that came from other ledgers. What the own one says is read from it again after a kill. */
  holdsOthers(): boolean;
  /** Writes what is held in memory. Throws StoreError; what could not be written is kept. */
  flush(): void;
  /** Drops grants that `isCovered` says are counted, words and all, by every manifest kept; a bounded step, false when through. */
  forget(isCovered: (state: GrantState) => boolean): boolean;
  maybeCheckpoint(when: 'idle' | 'busy'): void;
  /** Syncs what was written since the last time, when nobody is at the lane: a power cut then loses what peers said since, and no more. Throws StoreError. */
  settle(): void;
  /** Rows of other ledgers were known once and are not here any more: a power cut or damage took them. They are to be fetched again. */
  forgotten(): boolean;
  /** Checks up to `pages` more pages of the file; false: all are checked. Throws StoreError (damaged). */
  verifyNext(pages: number): boolean;
  close(): void;
  /** Closes without writing what is held in memory: as a crash would. */
  abandon(): void;
}

interface Row {
  gate: string;
  epoch: number;
  seq: number;
  hash: string;
  state: string;
}

/** Opens or makes the usage database. `own`: name of the gate's ledger. Throws StoreError. */
export function openUsageStore(path: string, own: string): UsageStore {
  let db: Sqlite | undefined;
  try {
    if (!existsSync(path)) deleteChecksums(path);
    const checksums = openPageChecksums({
      path,
      markOf: () => readAlone(path, 'SELECT sum(high) FROM seen'),
      onDamage: (page) => damagedPage(path, page, 'usage'),
    });
    const end = inspectWal(path);
    db = openDatabase(path, { synchronous: 'normal' });
    migrateUsage(db, path);
    return usageOn(db, path, own, checksums, end.headless || end.commitsBehind > 0);
  } catch (error) {
    db?.close();
    throw storeError(`open ${path}`, error, 'usage');
  }
}

function usageOn(db: Sqlite, path: string, own: string, checksums: PageChecksums, logLost: boolean): UsageStore {
  const byTicket = db.prepare<[Buffer], Row>('SELECT gate, epoch, seq, hash, state FROM admissions WHERE ref = ?');
  const byRow = db.prepare<[string, number, number, string], Row>(
    'SELECT gate, epoch, seq, hash, state FROM admissions WHERE gate = ? AND epoch = ? AND seq = ? AND hash = ?',
  );
  const atNumber = db.prepare<[string, number, number], Row>(
    'SELECT gate, epoch, seq, hash, state FROM admissions WHERE gate = ? AND epoch = ? AND seq = ? ORDER BY hash DESC',
  );
  const drop = db.prepare<[string, number, number, string]>('DELETE FROM admissions WHERE gate = ? AND epoch = ? AND seq = ? AND hash = ?');
  const put = db.prepare<[Buffer, string, number, number, string, string | null, string]>(
    'INSERT INTO admissions (ref, gate, epoch, seq, hash, event_id, state) VALUES (?, ?, ?, ?, ?, ?, ?)',
  );
  const putSeen = db.prepare<[string, number, number, number, number, number]>(
    'INSERT INTO seen (gate, epoch, seq, base, reach, high) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (gate, epoch) DO UPDATE SET seq = excluded.seq, base = excluded.base, reach = excluded.reach, high = excluded.high',
  );
  const putTotal = db.prepare<[string, number]>('INSERT INTO totals (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value');
  const refsAfter = db.prepare<[Buffer, number], { ref: Buffer }>('SELECT DISTINCT ref FROM admissions WHERE ref > ? ORDER BY ref LIMIT ? + 0');
  const page = db.prepare<[string, number, number, string, number], Row>(
    'SELECT gate, epoch, seq, hash, state FROM admissions WHERE (gate, epoch, seq, hash) > (?, ?, ?, ?) ORDER BY gate, epoch, seq, hash LIMIT ? + 0',
  );

  const conflicts = createConflicts(db, own);
  const markNow = db.prepare<[], number | null>('SELECT sum(high) FROM seen').pluck();
  const log = createCheckpointer(db, path, { checksums, mark: () => Number(markNow.get() ?? 0) });
  /** Something was written that no sync has reached. */
  let unsettled = false;
  /** Something in memory came from another ledger. */
  let others = false;
  let forgotten = logLost;
  const dirty = new Map<string, GrantState>();
  const dirtyOfTicket = new Map<string, Set<string>>();
  const seen = new Map<string, Map<number, Seen>>();
  const changedSeen = new Set<string>();
  const unconfirmed = new Map<string, readonly [number, number]>();
  for (const row of db.prepare<[], { gate: string; epoch: number } & Seen>('SELECT gate, epoch, seq, base, reach, high FROM seen').all()) {
    epochsOf(row.gate).set(row.epoch, { seq: row.seq, base: row.base, reach: row.reach, high: row.high });
  }
  const totals: Totals = { admissions: 0, refusals: 0, passages: 0 };
  for (const row of db.prepare<[], { key: keyof Totals; value: number }>('SELECT key, value FROM totals').all()) totals[row.key] = row.value;
  let forgetFrom: GrantKey = FIRST_KEY;
  /** The own ledger's numbers prove nothing: its store went back in time, and not every row was written again. */
  let ownDoubted = false;

  function epochsOf(ledger: string): Map<number, Seen> {
    const known = seen.get(ledger);
    if (known !== undefined) return known;
    const made = new Map<number, Seen>();
    seen.set(ledger, made);
    return made;
  }
  function seenOf(ledger: string, epoch: number): Seen {
    const epochs = epochsOf(ledger);
    const known = epochs.get(epoch);
    if (known !== undefined) return known;
    const made = { seq: 0, base: 0, reach: 0, high: 0 };
    epochs.set(epoch, made);
    return made;
  }
  const parse = (row: Row): GrantState => {
    try {
      return { ...(JSON.parse(row.state) as GrantState), gate: row.gate, epoch: row.epoch, seq: row.seq, hash: row.hash };
    } catch {
      throw brokenState(path, row);
    }
  };
  const read = <T>(work: () => T): T => {
    try {
      return work();
    } catch (error) {
      throw storeError('read usage', error, 'usage');
    }
  };
  const stored = (key: GrantKey): GrantState | null => {
    const row = byRow.get(key.gate, key.epoch, key.seq, key.hash);
    return row === undefined ? null : parse(row);
  };
  const joined = (a: GrantState, b: GrantState | null | undefined): GrantState => (b == null ? a : mergeStates(a, b));
  /** Held as told, and joined with what is stored only when it is read or written: taking a row in asks nothing of the disk, so it cannot fail. */
  const hold = (state: GrantState): void => {
    const key = keyText(state);
    const known = dirty.get(key);
    const merged = known === undefined ? state : mergeStates(known, state);
    dirty.set(key, merged);
    if (merged.ticketRef === null) return;
    const keys = dirtyOfTicket.get(merged.ticketRef);
    if (keys === undefined) dirtyOfTicket.set(merged.ticketRef, new Set([key]));
    else keys.add(key);
  };
  const take = (ledger: string, epoch: number, entry: Readonly<Record<string, unknown>>): void => {
    const state = readRow(ledger, epoch, entry);
    if (state !== null) hold(state);
  };
  /** Stored grants under a key's number, whatever their hash. */
  const grantsAt = (key: GrantKey): GrantState[] => atNumber.all(key.gate, key.epoch, key.seq).map(parse);
  /** Adds words that name these grants without their hash and without a ticket. */
  const withBareWords = (states: readonly GrantState[]): GrantState[] => {
    const keys = new Set(states.map(keyText));
    const bare = states.flatMap((state): GrantState[] => {
      const key = { ...state, hash: '' };
      if (state.hash === '' || keys.has(keyText(key))) return [];
      keys.add(keyText(key));
      const held = dirty.get(keyText(key));
      const known = stored(key);
      return held === undefined ? (known === null ? [] : [known]) : [joined(held, known)];
    });
    return [...states, ...bare];
  };
  const markSeen = (ledger: string, epoch: number): void => {
    changedSeen.add(`${ledger} ${epoch}`);
  };
  const count = (entry: Readonly<Record<string, unknown>>): void => {
    if (entry['kind'] === 'refusal') totals.refusals++;
    if (entry['kind'] !== 'passage') return;
    const outcome = entry['outcome'];
    if (outcome === 'passed' || outcome === 'free' || outcome === 'forced') totals.passages++;
    if (outcome === 'passed' && typeof entry['ticket_ref'] === 'string' && entry['direction'] === 'in') totals.admissions++;
  };
  /**
   * Remembers the rows of other ledgers that an own grant had counted. A power cut may have taken them: then they are a gap like
   * any other, and usage is not complete until they were fetched again.
   */
  const rememberSeen = (vector: unknown): void => {
    if (typeof vector !== 'object' || vector === null) return;
    for (const [ledger, position] of Object.entries(vector)) {
      if (ledger === own || !Array.isArray(position)) continue;
      const [epoch, seq] = position as [unknown, unknown];
      if (typeof epoch !== 'number' || typeof seq !== 'number') continue;
      const at = seenOf(ledger, epoch);
      if (seq <= at.high) continue;
      at.high = seq;
      markSeen(ledger, epoch);
      forgotten = true;
    }
  };
  const newest = (epochs: ReadonlyMap<number, Seen>): readonly [number, number] | null => {
    let epoch = 0;
    for (const candidate of epochs.keys()) if (candidate > epoch) epoch = candidate;
    return epoch === 0 ? null : [epoch, epochs.get(epoch)?.seq ?? 0];
  };

  const writeDirty = db.transaction(() => {
    for (const held of dirty.values()) {
      const state = joined(held, stored(held));
      const { gate, epoch, seq, hash, ...rest } = state;
      drop.run(gate, epoch, seq, hash);
      put.run(Buffer.from(state.ticketRef ?? '', 'hex'), gate, epoch, seq, hash, state.eventId, JSON.stringify(rest));
    }
    for (const name of changedSeen) {
      const [ledger = '', epoch = '0'] = name.split(' ');
      const at = seenOf(ledger, Number(epoch));
      putSeen.run(ledger, Number(epoch), at.seq, at.base, at.reach, at.high);
    }
    for (const [key, value] of Object.entries(totals)) putTotal.run(key, value);
  });
  const flush = (): void => {
    if (dirty.size === 0 && changedSeen.size === 0) return;
    try {
      writeDirty();
    } catch (error) {
      throw storeError('write usage', error, 'usage');
    }
    dirty.clear();
    dirtyOfTicket.clear();
    changedSeen.clear();
    others = false;
    log.wrote();
    unsettled = true;
  };

  return {
    ofTicket(ticketRef) {
      return read(() => {
        const found = byTicket.all(Buffer.from(ticketRef, 'hex')).map((row) => joined(parse(row), dirty.get(keyText(row))));
        const keys = new Set(found.map(keyText));
        for (const key of dirtyOfTicket.get(ticketRef) ?? []) {
          const held = dirty.get(key);
          // Stored without its ticket, where a word came before its grant.
          if (held !== undefined && !keys.has(key)) found.push(joined(held, stored(held)));
        }
        return withWordsJoined(withBareWords(found));
      });
    },
    ticketOf(ledger, epoch, entry) {
      const state = readRow(ledger, epoch, entry);
      if (state === null || state.ticketRef !== null) return state?.ticketRef ?? null;
      return dirty.get(keyText(state))?.ticketRef ?? read(() => stored(state) ?? grantsAt(state)[0])?.ticketRef ?? null;
    },
    refs: (after, limit) => read(() => refsAfter.all(after, limit)).map(({ ref }) => ref.toString('hex')),
    applyOwn(epoch, entry) {
      const at = seenOf(own, epoch);
      const seq = entry['seq'] as number;
      if (seq <= at.seq) return;
      take(own, epoch, entry);
      count(entry);
      rememberSeen(entry['seen']);
      at.seq = seq;
      at.reach = seq;
      at.high = seq;
      markSeen(own, epoch);
    },
    applyPeer(ledger, epoch, entries) {
      const at = seenOf(ledger, epoch);
      let applied = 0;
      for (const entry of [...entries].sort((a, b) => a.seq - b.seq)) {
        // A number that was met says nothing of the content: a store that went back writes it again. The same row once more changes nothing.
        if (entry.seq <= at.seq) {
          take(ledger, epoch, entry);
          others = true;
          continue;
        }
        // A row after a gap counts at once; only the prefix waits for the rows before it.
        take(ledger, epoch, entry);
        if (maySay(ledger, entry)) conflicts.take(epoch, entry);
        applied++;
        if (entry.seq === at.seq + 1) at.seq++;
        if (entry.seq === at.reach + 1) at.reach++;
        at.reach = Math.max(at.reach, at.seq);
        at.high = Math.max(at.high, entry.seq);
      }
      if (applied > 0) {
        others = true;
        markSeen(ledger, epoch);
        unconfirmed.set(ledger, newest(epochsOf(ledger)) ?? [epoch, at.seq]);
      }
      if (dirty.size >= MAX_DIRTY_GRANTS) flush();
      return { applied, gap: at.high > at.reach };
    },
    doubtOwn(doubted) {
      ownDoubted = doubted;
    },
    proven(upto) {
      if (!ownDoubted) return upto;
      const { [own]: _own, ...others } = upto;
      return others;
    },
    ownMark: (epoch) => seen.get(own)?.get(epoch)?.seq ?? 0,
    countFrom(uptos, isOwn) {
      if (uptos.length === 0) return;
      for (const ledger of new Set([...seen.keys(), ...uptos.flatMap(Object.keys)])) {
        const named = uptos.flatMap((upto) => upto[ledger]?.[0] ?? []);
        for (const epoch of new Set([...(seen.get(ledger)?.keys() ?? []), ...named])) {
          if (isOwn(ledger, epoch)) continue;
          const floor = Math.min(...uptos.map((upto) => positionIn(upto, ledger, epoch)));
          const known = seen.get(ledger)?.get(epoch);
          if (floor > (known?.seq ?? 0)) {
            const at = seenOf(ledger, epoch);
            // What a manifest counts of an epoch that has ended is whole.
            at.seq = at.base = floor === Number.POSITIVE_INFINITY ? at.high : floor;
            at.reach = Math.max(at.reach, at.seq);
            at.high = Math.max(at.high, at.seq);
            unconfirmed.set(ledger, newest(epochsOf(ledger)) ?? [epoch, at.seq]);
          } else if (known !== undefined && floor < known.base) {
            // A manifest that counts less: the rows between were never read here, and must be fetched.
            known.seq = known.base = known.reach = floor;
          } else {
            continue;
          }
          markSeen(ledger, epoch);
        }
      }
    },
    conflicts,
    gaps() {
      for (const epochs of seen.values()) for (const at of epochs.values()) if (at.high > at.reach) return true;
      return false;
    },
    excuse() {
      for (const [ledger, epochs] of seen) {
        for (const [epoch, at] of epochs) {
          if (at.reach >= at.high) continue;
          at.reach = at.high;
          markSeen(ledger, epoch);
        }
      }
    },
    vector() {
      return Object.fromEntries(
        [...seen].flatMap(([ledger, epochs]) => {
          const position = newest(epochs);
          return position === null ? [] : [[ledger, [...position]]];
        }),
      );
    },
    newestBefore: (ledger, epoch) => newest(new Map([...(seen.get(ledger) ?? [])].filter(([other]) => other < epoch))),
    seenSince() {
      const changed = Object.fromEntries(
        [...unconfirmed].filter(([ledger]) => ledger !== own).map(([ledger, position]) => [ledger, [...position]]),
      ) as LedgerVector;
      return {
        changed,
        confirm() {
          for (const [ledger, position] of Object.entries(changed)) if (unconfirmed.get(ledger)?.[1] === position[1]) unconfirmed.delete(ledger);
        },
      };
    },
    totals: () => totals,
    dirty: () => dirty.size + changedSeen.size,
    holdsOthers: () => others,
    flush,
    forget(isCovered) {
      flush();
      try {
        const rows = page.all(forgetFrom.gate, forgetFrom.epoch, forgetFrom.seq, forgetFrom.hash, FORGET_STEP);
        const gone = rows.filter((row) => isCovered(parse(row)));
        if (gone.length > 0) {
          db.transaction(() => {
            for (const row of gone) drop.run(row.gate, row.epoch, row.seq, row.hash);
          })();
          log.wrote();
        }
        forgetFrom = rows.length < FORGET_STEP ? FIRST_KEY : (rows.at(-1) as Row);
        return rows.length === FORGET_STEP;
      } catch (error) {
        throw storeError('forget counted usage', error, 'usage');
      }
    },
    maybeCheckpoint: log.maybeCheckpoint,
    settle() {
      if (!unsettled || !existsSync(`${path}-wal`)) return;
      try {
        syncFile(`${path}-wal`);
      } catch (error) {
        throw storeError('write usage', error, 'usage');
      }
      unsettled = false;
    },
    forgotten: () => forgotten,
    verifyNext: (pages) => checksums.checkSome(pages),
    abandon() {
      db.close();
    },
    close() {
      try {
        flush();
        // SQLite would checkpoint the log itself, and the page checksums would not know.
        log.checkpointAll();
      } finally {
        db.close();
      }
    },
  };
}

function syncFile(path: string): void {
  const file = openSync(path, 'r+');
  try {
    fdatasyncSync(file);
  } finally {
    closeSync(file);
  }
}

function brokenState(path: string, row: Row): StoreError {
  const fault = {
    operation: `read ${path}`,
    cause: `what is known of ${row.gate}/${row.epoch}/${row.seq} cannot be read`,
    hint: 'Usage is set aside and fetched again; look at the card.',
    healsItself: true,
  };
  return new StoreError(fault, 'STORE_USAGE', true, undefined, 'usage');
}

/** Last row of one epoch that a vector counts: none, some, or all of an epoch that has ended. */
function positionIn(upto: LedgerVector, ledger: string, epoch: number): number {
  const [known, seq] = upto[ledger] ?? [0, 0];
  return known > epoch ? Number.POSITIVE_INFINITY : known === epoch ? seq : 0;
}

/** Tells whether a snapshot counts everything that a grant's rows say. */
export function wholeCovered(upto: LedgerVector, state: GrantState): boolean {
  const { verdict } = state;
  if (verdict !== null && !covered(upto, verdict.ledger, verdict.epoch, verdict.seq)) return false;
  return isGrantCounted(upto, state) && state.words.every((word) => isWordCounted(upto, word));
}
