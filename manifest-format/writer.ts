/** Writes ready-made SQLite manifest files (contract/manifest.ts defines their content). The only file of the cloud that imports better-sqlite3. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import BetterSqlite from 'better-sqlite3';
import { MANIFEST_APPLICATION_ID, MANIFEST_TABLES, type ManifestHead, type ManifestTicket, TICKET_RIGHTS, type UsageEntry } from '../contract/manifest.ts';

/** A page of the file, bytes: what cards and readers of the file like. */
const PAGE_BYTES = 4096;
const LOWERCASE_UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export interface ManifestFile {
  /**
   * Adds tickets. In a new file in the order of their ticket_ref, so that it is written from front to back. In one that is changed they take the place of what
   * was there.
   */
  addTickets(tickets: readonly ManifestTicket[]): void;
  removeTickets(refs: readonly Buffer[]): void;
  addUsage(entries: readonly UsageEntry[]): void;
  ticketCount(): number;
  /** Writes the head, closes the file and returns its size and hash. */
  finish(head: ManifestHead): Promise<{ readonly sha256: string; readonly sizeBytes: number }>;
  /** Closes without finishing; the file is unusable. */
  abandon(): void;
}

/** Creates a new file. Throws where the path exists or cannot be written. */
export function createManifestFile(path: string): ManifestFile {
  const db = new BetterSqlite(path);
  db.pragma(`page_size = ${PAGE_BYTES}`);
  const file = begin(db, path);
  db.pragma(`application_id = ${MANIFEST_APPLICATION_ID}`);
  for (const table of MANIFEST_TABLES) db.exec(table);
  return file();
}

/** Continues a finished file: its tickets stay until they are removed or replaced; usage and head are written anew. */
export function changeManifestFile(path: string): ManifestFile {
  const db = new BetterSqlite(path, { fileMustExist: true });
  const file = begin(db, path);
  db.exec('DELETE FROM usage; DELETE FROM head');
  return file();
}

function begin(db: BetterSqlite.Database, path: string): () => ManifestFile {
  // The file is unusable until it is finished: nothing needs a rollback.
  db.pragma('journal_mode = OFF');
  db.pragma('synchronous = OFF');
  db.exec('BEGIN');
  return () => writer(db, path);
}

function writer(db: BetterSqlite.Database, path: string): ManifestFile {
  const insertTicket = db.prepare('INSERT OR REPLACE INTO tickets VALUES (?,?,?,?,?,?,?,?,?,?,?)');
  const removeTicket = db.prepare('DELETE FROM tickets WHERE ref = ?');
  const insertUsage = db.prepare('INSERT INTO usage VALUES (?,?,?,?,?,?,?,?,?)');
  const tiers = numbered(db, 'tier', 'tiers');
  const zones = numbered(db, 'zone', 'zones');

  return {
    addTickets(tickets) {
      for (const ticket of tickets) {
        insertTicket.run(
          Buffer.from(ticket.ticket_ref, 'hex'),
          idValue(ticket.ticket_id),
          tiers(ticket.tier),
          ticket.zone === null ? null : zones(ticket.zone),
          TICKET_RIGHTS.indexOf(ticket.status),
          ticket.max_scans,
          ticket.units === 1 ? null : ticket.units,
          milliseconds(ticket.valid_from),
          milliseconds(ticket.valid_until),
          ticket.vip ? 1 : null,
          ticket.note,
        );
      }
    },
    removeTickets(refs) {
      for (const ref of refs) removeTicket.run(ref);
    },
    ticketCount: () => (db.prepare('SELECT count(*) AS n FROM tickets').get() as { n: number }).n,
    addUsage(entries) {
      for (const entry of entries) {
        insertUsage.run(
          Buffer.from(entry.ticket_ref, 'hex'),
          entry.gate,
          entry.epoch,
          entry.seq,
          Date.parse(entry.at),
          entry.direction === 'in' ? 0 : 1,
          entry.units,
          entry.outcome,
          Buffer.from(entry.hash8 ?? '', 'hex'),
        );
      }
    },
    async finish(head) {
      const insert = db.prepare('INSERT INTO head VALUES (?,?)');
      for (const [key, value] of Object.entries(head)) insert.run(key, JSON.stringify(value));
      db.exec('COMMIT');
      db.close();
      const hash = createHash('sha256');
      for await (const piece of createReadStream(path)) hash.update(piece as Buffer);
      return { sha256: hash.digest('hex'), sizeBytes: (await stat(path)).size };
    },
    abandon() {
      db.close();
    },
  };
}

/** Returns 16 bytes for a lowercase UUID, else the id's text. */
function idValue(id: string): Buffer | string {
  return LOWERCASE_UUID.test(id) ? Buffer.from(id.replaceAll('-', ''), 'hex') : id;
}

const milliseconds = (time: string | null): number | null => (time === null ? null : Date.parse(time));

/** Assigns small numbers to names, in order of appearance, from 1 or from the file's last one. */
function numbered(db: BetterSqlite.Database, column: 'tier' | 'zone', names: 'tiers' | 'zones'): (name: string) => number {
  const rows = db.prepare(`SELECT name, ${column} AS number FROM ${names}`).all() as { name: string; number: number }[];
  const known = new Map(rows.map(({ name, number }) => [name, number]));
  const insert = db.prepare(`INSERT INTO ${names} VALUES (?,?)`);
  return (name) => {
    let number = known.get(name);
    if (number === undefined) {
      number = known.size + 1;
      known.set(name, number);
      insert.run(number, name);
    }
    return number;
  };
}
