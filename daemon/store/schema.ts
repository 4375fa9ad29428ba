/**
 * The tables of the gate's own databases. Changes are additive alone: the previous release must be able to open what a newer one
 * wrote, so a higher `user_version` is never an error and never damage.
 */
import { type Sqlite, storeError } from './sqlite.ts';

/** "StL1": the account. */
export const LEDGER_APPLICATION_ID = 0x53744c31;
/** "StU1": usage derived from ledgers, which can be fetched again. */
export const USAGE_APPLICATION_ID = 0x53745531;

/** Step n brings a database from user_version n to n + 1. Never edit one that was released: add another. */
const LEDGER_STEPS: readonly string[] = [
  `
  CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
  -- Append only. id rises by one a row over all epochs; seq = id - first_id of its epoch + 1. One page of one tree is written a row.
  CREATE TABLE rows (id INTEGER PRIMARY KEY, entry TEXT NOT NULL);
  -- kept_hash: hash of the last pruned row of the epoch, the predecessor of the first kept one.
  CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, first_id INTEGER NOT NULL, acked_seq INTEGER NOT NULL DEFAULT 0, kept_hash TEXT);
  -- Unacknowledged rows of a database that was set aside: sent like any other, never chained to.
  CREATE TABLE salvaged (epoch INTEGER NOT NULL, seq INTEGER NOT NULL, entry TEXT NOT NULL, PRIMARY KEY (epoch, seq)) WITHOUT ROWID;
  CREATE TABLE salvaged_epochs (epoch INTEGER PRIMARY KEY, acked_seq INTEGER NOT NULL);
  CREATE TABLE modes (direction TEXT PRIMARY KEY, mode TEXT NOT NULL, until_ms INTEGER, from_mode TEXT) WITHOUT ROWID;
  CREATE TABLE transactions (id TEXT PRIMARY KEY, expires_at_ms INTEGER NOT NULL) WITHOUT ROWID;
  -- Which file of an event is in force. active 0: no longer wanted; kept so that its version never goes back.
  CREATE TABLE manifests (event_id TEXT PRIMARY KEY, version INTEGER NOT NULL, previous_version INTEGER, overlay_version INTEGER NOT NULL, active INTEGER NOT NULL, wanted TEXT NOT NULL, head TEXT) WITHOUT ROWID;
  -- Rights changed since the manifest file, the latest change of each ticket.
  CREATE TABLE overlays (event_id TEXT NOT NULL, ref BLOB NOT NULL, version INTEGER NOT NULL, change TEXT NOT NULL, PRIMARY KEY (event_id, ref)) WITHOUT ROWID;
  `,
];

const USAGE_STEPS: readonly string[] = [
  `
  -- How far each ledger is known without a hole (seq), of that from manifests alone, unread (base), with excused holes (reach), and the highest row met (high).
  CREATE TABLE seen (gate TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, base INTEGER NOT NULL, reach INTEGER NOT NULL, high INTEGER NOT NULL, PRIMARY KEY (gate, epoch)) WITHOUT ROWID;
  -- One row a grant, words and all. ref is empty while only its key is known.
  CREATE TABLE grants (ref BLOB NOT NULL, gate TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, event_id TEXT, state TEXT NOT NULL, PRIMARY KEY (ref, gate, epoch, seq)) WITHOUT ROWID;
  CREATE INDEX grants_by_row ON grants (gate, epoch, seq);
  CREATE TABLE totals (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
  `,
  `
  -- The cloud's latest verdict on an own grant (epoch, seq), and the row of its ledger that says it (told).
  CREATE TABLE conflicts (epoch INTEGER NOT NULL, seq INTEGER NOT NULL, told_epoch INTEGER NOT NULL, told_seq INTEGER NOT NULL, verdict TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (epoch, seq)) WITHOUT ROWID;
  CREATE INDEX conflicts_by_told ON conflicts (told_epoch, told_seq);
  `,
  `
  -- By the grant's original: two stores of a gate that parted may have written rows of one number. hash: its first 16 digits; empty: what names the grant does not say it.
  CREATE TABLE admissions (ref BLOB NOT NULL, gate TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, hash TEXT NOT NULL, event_id TEXT, state TEXT NOT NULL, PRIMARY KEY (ref, gate, epoch, seq, hash)) WITHOUT ROWID;
  CREATE INDEX admissions_by_row ON admissions (gate, epoch, seq, hash);
  DROP TABLE grants;
  -- Derived data: the own rows are read again from the ledger, the others are fetched.
  DELETE FROM seen;
  DELETE FROM totals;
  `,
];

/** Brings a database to the newest schema that this release knows, in one transaction. Throws StoreError. */
function migrate(db: Sqlite, path: string, applicationId: number, steps: readonly string[]): void {
  try {
    const found = db.pragma('application_id', { simple: true }) as number;
    const version = db.pragma('user_version', { simple: true }) as number;
    if (found !== applicationId && (found !== 0 || version !== 0)) {
      throw Object.assign(new Error("this is another program's database"), { code: 'SQLITE_NOTADB' });
    }
    if (version >= steps.length) return;
    db.transaction(() => {
      for (const step of steps.slice(version)) db.exec(step);
      db.pragma(`application_id = ${applicationId}`);
      db.pragma(`user_version = ${steps.length}`);
    })();
  } catch (error) {
    throw storeError(`prepare ${path}`, error);
  }
}

export const migrateLedger = (db: Sqlite, path: string): void => migrate(db, path, LEDGER_APPLICATION_ID, LEDGER_STEPS);
export const migrateUsage = (db: Sqlite, path: string): void => migrate(db, path, USAGE_APPLICATION_ID, USAGE_STEPS);
