/**
 * Writes ready-made SQLite manifest files (contract/manifest.ts says what is in them). The only file
 * of the cloud that imports better-sqlite3.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import BetterSqlite from 'better-sqlite3';
import { MANIFEST_APPLICATION_ID, MANIFEST_TABLES, type ManifestHead, type ManifestTicket, TICKET_RIGHTS, type UsageEntry } from '../../contract/manifest.ts';

/** A page of the file, bytes: what cards and readers of the file like. */
const PAGE_BYTES = 4096;
const LOWERCASE_UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export interface ManifestFile {
  /** In the order of their ticket_ref, so that the file is written from front to back. */
  addTickets(tickets: readonly ManifestTicket[]): void;
  addUsage(entries: readonly UsageEntry[]): void;
  /** Writes the head, closes the file and tells what it has become. */
  finish(head: ManifestHead): Promise<{ readonly sha256: string; readonly sizeBytes: number }>;
  /** Closes without finishing; the file is rubbish. */
  abandon(): void;
}

/** Begins a new file. Throws where the path exists or cannot be written. */
export function createManifestFile(path: string): ManifestFile {
  const db = new BetterSqlite(path);
  db.pragma(`page_size = ${PAGE_BYTES}`);
  db.pragma('journal_mode = OFF');
  db.pragma('synchronous = OFF');
  db.pragma(`application_id = ${MANIFEST_APPLICATION_ID}`);
  db.exec('BEGIN');
  for (const table of MANIFEST_TABLES) db.exec(table);
  const insertTicket = db.prepare('INSERT INTO tickets VALUES (?,?,?,?,?,?,?,?,?,?,?)');
  const insertUsage = db.prepare('INSERT INTO usage VALUES (?,?,?,?,?,?,?,?)');
  const tiers = numbered(db.prepare('INSERT INTO tiers VALUES (?,?)'));
  const zones = numbered(db.prepare('INSERT INTO zones VALUES (?,?)'));

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

/** 16 bytes where the id is a lowercase UUID, else its text. */
function idValue(id: string): Buffer | string {
  return LOWERCASE_UUID.test(id) ? Buffer.from(id.replaceAll('-', ''), 'hex') : id;
}

const milliseconds = (time: string | null): number | null => (time === null ? null : Date.parse(time));

/** Small numbers for names, in the order in which they appear, from 1. */
function numbered(insert: BetterSqlite.Statement): (name: string) => number {
  const known = new Map<string, number>();
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
