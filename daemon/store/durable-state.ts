/**
 * Stores what must survive a restart besides the ledger's rows: the fire latch, the modes, the transactions of requests that were carried out.
 */
import { closeSync, existsSync, fsyncSync, openSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { Direction } from '../../contract/ids.ts';
import type { Mode } from '../../contract/ledger.ts';
import type { Ledger } from './ledger.ts';
import { storeError } from './sqlite.ts';

/** Requests remembered at once; more are refused as a fault, because forgetting one early would allow a replay. */
export const MAX_TRANSACTIONS = 10_000;
/** Its presence is the latch: a file by itself, so that it outlives a damaged database and can be seen without one. */
export const FIRE_LATCH_FILE = 'fire-latched';

export interface Standing {
  modes(nowMs: number): Readonly<Record<Direction, { readonly mode: Mode; readonly untilMs: number | null; readonly from?: Mode }>>;
  /** Stores the mode, as part of the transaction that appends its row. */
  keepMode(direction: Direction, mode: Mode, untilMs: number | null, from: Mode | null): void;
  /** Remembers a transaction and returns true once. Durable when it returns. `nowMs` null: the clock is not trusted, so none is forgotten as expired. */
  remember(transaction: string, expiresAtMs: number, nowMs: number | null): boolean;
}

export function createStanding(ledger: Ledger): Standing {
  const { db } = ledger;
  const modeRows = db.prepare<[], { direction: Direction; mode: Mode; until_ms: number | null; from_mode: Mode | null }>(
    'SELECT direction, mode, until_ms, from_mode FROM modes',
  );
  const putMode = db.prepare<[string, string, number | null, string | null]>(
    'INSERT INTO modes (direction, mode, until_ms, from_mode) VALUES (?, ?, ?, ?) ON CONFLICT (direction) DO UPDATE SET mode = excluded.mode, until_ms = excluded.until_ms, from_mode = excluded.from_mode',
  );
  const forgetOld = db.prepare<[number]>('DELETE FROM transactions WHERE expires_at_ms < ?');
  const count = db.prepare<[], { n: number }>('SELECT count(*) AS n FROM transactions');
  const put = db.prepare<[string, number]>('INSERT INTO transactions (id, expires_at_ms) VALUES (?, ?) ON CONFLICT DO NOTHING');
  return {
    modes(nowMs) {
      const found: Record<Direction, { mode: Mode; untilMs: number | null; from?: Mode }> = {
        in: { mode: 'controlled', untilMs: null },
        out: { mode: 'controlled', untilMs: null },
      };
      for (const row of modeRows.all()) {
        if (row.until_ms !== null && row.until_ms <= nowMs) continue;
        found[row.direction] = { mode: row.mode, untilMs: row.until_ms, ...(row.from_mode === null ? {} : { from: row.from_mode }) };
      }
      return found;
    },
    keepMode(direction, mode, untilMs, from) {
      putMode.run(direction, mode, untilMs, from);
    },
    remember(transaction, expiresAtMs, nowMs) {
      return ledger.change('remember a request', () => {
        if (nowMs !== null) forgetOld.run(nowMs);
        if ((count.get()?.n ?? 0) >= MAX_TRANSACTIONS)
          throw Object.assign(new Error(`${MAX_TRANSACTIONS} requests have not expired yet`), { code: 'STORE_TRANSACTIONS_FULL' });
        return put.run(transaction, expiresAtMs).changes === 1;
      });
    },
  };
}

export const fireLatched = (folder: string): boolean => existsSync(join(folder, FIRE_LATCH_FILE));

/** Stores the fire latch, durable when it returns. Throws StoreError. */
export function setFireLatch(folder: string, latched: boolean): void {
  const path = join(folder, FIRE_LATCH_FILE);
  try {
    if (latched) {
      const file = openSync(path, 'w', 0o640);
      try {
        writeSync(file, 'fire\n');
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
    } else if (existsSync(path)) {
      unlinkSync(path);
    }
    syncFolder(folder);
  } catch (error) {
    throw storeError(latched ? 'keep the fire latch' : 'take the fire latch back', error);
  }
}

/** Makes a rename, a new or a removed name durable. */
export function syncFolder(folder: string): void {
  const handle = openSync(folder, 'r');
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}
