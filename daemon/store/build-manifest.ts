/**
 * Writes a manifest file from its head and tickets: for a gate that got a manifest as JSON, for tests, benches and the demo.
 */
import { closeSync, fsyncSync, openSync, rmSync } from 'node:fs';
import { MANIFEST_APPLICATION_ID, MANIFEST_TABLES, type ManifestHead, type ManifestTicket, TICKET_RIGHTS, type UsageEntry } from '../../contract/manifest.ts';
import { hashFile } from './manifest-file.ts';
import { openForBuilding, type Sqlite, storeError } from './sqlite.ts';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export interface BuiltManifest {
  readonly sha256: string;
  readonly size: number;
  readonly ticketCount: number;
}

/** `ticket_count` of the head is filled in from the tickets. */
export interface ManifestContent {
  readonly head: Omit<ManifestHead, 'ticket_count'>;
  readonly tickets: Iterable<ManifestTicket>;
  readonly usage?: Iterable<UsageEntry>;
}

/** Builds the file at `path`, replacing what is there; synced when it returns. Tickets may come in any order; the file is packed by key. Throws StoreError. */
export async function buildManifestFile(path: string, content: ManifestContent): Promise<BuiltManifest> {
  rmSync(path, { force: true });
  let ticketCount: number;
  try {
    const db = openForBuilding(path);
    try {
      ticketCount = fill(db, content);
    } finally {
      db.close();
    }
    const file = openSync(path, 'r+');
    try {
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  } catch (error) {
    throw storeError(`build ${path}`, error);
  }
  return { ...(await hashFile(path)), ticketCount };
}

function fill(db: Sqlite, { head, tickets, usage = [] }: ManifestContent): number {
  for (const table of MANIFEST_TABLES) db.exec(table);
  // Ordered by key before they are stored: the tree's pages come out full, and each is written once.
  db.exec('CREATE TEMP TABLE incoming AS SELECT * FROM tickets');
  const tiers = numbered(db, 'tiers');
  const zones = numbered(db, 'zones');
  const ticket = db.prepare(
    'INSERT INTO incoming (ref, id, tier, zone, status, max_scans, units, valid_from_ms, valid_until_ms, vip, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
  );
  const entry = db.prepare('INSERT INTO usage (ref, gate, epoch, seq, at_ms, direction, units, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?)');
  const field = db.prepare('INSERT INTO head (key, value) VALUES (?, ?)');
  let count = 0;
  db.transaction(() => {
    for (const one of tickets) {
      const id = UUID.test(one.ticket_id) ? Buffer.from(one.ticket_id.replaceAll('-', ''), 'hex') : one.ticket_id;
      ticket.run(
        Buffer.from(one.ticket_ref, 'hex'),
        id,
        tiers(one.tier),
        one.zone === null ? null : zones(one.zone),
        TICKET_RIGHTS.indexOf(one.status),
        one.max_scans,
        one.units === 1 ? null : one.units,
        milliseconds(one.valid_from),
        milliseconds(one.valid_until),
        one.vip ? 1 : null,
        one.note,
      );
      count++;
    }
    db.exec('INSERT INTO tickets SELECT * FROM incoming ORDER BY ref');
    for (const one of usage) {
      entry.run(Buffer.from(one.ticket_ref, 'hex'), one.gate, one.epoch, one.seq, Date.parse(one.at), one.direction === 'out' ? 1 : 0, one.units, one.outcome);
    }
    for (const [key, value] of Object.entries({ ...head, ticket_count: count })) field.run(key, JSON.stringify(value));
  })();
  db.exec('DROP TABLE incoming');
  db.pragma(`application_id = ${MANIFEST_APPLICATION_ID}`);
  return count;
}

/** Small numbers for names, from 1, written as they come. */
function numbered(db: Sqlite, table: 'tiers' | 'zones'): (name: string) => number {
  const known = new Map<string, number>();
  const insert = db.prepare(`INSERT INTO ${table} VALUES (?, ?)`);
  return (name) => {
    const number = known.get(name);
    if (number !== undefined) return number;
    known.set(name, known.size + 1);
    insert.run(known.size, name);
    return known.size;
  };
}

const milliseconds = (time: string | null | undefined): number | null => (time == null ? null : Date.parse(time));
