/**
 * One manifest file: immutable, read by ticket_ref. Checked before it is ever used, in slices, so that a decision never waits for it.
 */
import { createHash, hash as digest } from 'node:crypto';
import { open as openFile, stat } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { MANIFEST_APPLICATION_ID, ManifestHead, TICKET_RIGHTS } from '../../contract/manifest.ts';
import type { Entry, TicketFacts } from '../../rules/facts.ts';
import { openImmutable, type Sqlite, storeError } from './sqlite.ts';
import type { SnapshotEntry } from './usage-merge.ts';

/** A manifest file larger than this is refused before it is read, in bytes: about 20 million tickets. */
export const MAX_MANIFEST_BYTES = 1024 * 1024 * 1024;
/** Read, hashed and written at a time, in bytes. */
const SLICE_BYTES = 256 * 1024;
/** Written between two syncs, in bytes: a decision's own sync waits for no more than this. */
const SYNC_EVERY_BYTES = 1024 * 1024;
/** The refs are counted in so many ranges of their first byte. */
const COUNT_RANGES = 256;

export interface ManifestFile {
  readonly path: string;
  readonly head: ManifestHead;
  /** SHA-256, hex, of the head as it stands in the file. */
  readonly headSha256: string;
  /**
   * known: these very bytes were checked before, the policies too, and nothing was read anew. plain: checked now, and the schema filled in
   * nothing. filled: checked now; the head is not word for word what the file says.
   */
  readonly headChecked: 'known' | 'plain' | 'filled';
  /** Prefix of every code of this event before it is hashed. */
  readonly salt: Buffer;
  readonly generatedAtMs: number;
  readonly expiresAtMs: number;
  find(ref: Buffer): TicketFacts | null;
  usageOf(ref: Buffer): readonly SnapshotEntry[];
  /** Refs (hex) of used tickets above this one, in order, at most `limit`. */
  usedRefs(after: Buffer, limit: number): readonly string[];
  /** Counts the tickets in the file, a range at a time. */
  count(): Promise<number>;
  /** Tells whether this ref is among the revoked or blocked signed codes. */
  revoked(ticketRef: string): boolean;
  close(): void;
}

interface TicketRow {
  id: string | Buffer;
  tier: number;
  zone: number | null;
  status: number;
  max_scans: number | null;
  units: number | null;
  valid_from_ms: number | null;
  valid_until_ms: number | null;
  vip: number | null;
  note: string | null;
}
interface UsageRow {
  gate: string;
  epoch: number;
  seq: number;
  at_ms: number;
  direction: number;
  units: number;
  outcome: Entry['outcome'];
  hash8: Buffer;
}

/**
 * Opens a file that was checked before. `known`: heads, by SHA-256, that are taken without their schema, which takes longer to make than
 * all the rest of a start. Throws StoreError, or an Error saying what about the file is not a manifest.
 */
export function openManifestFile(path: string, known: readonly string[] = []): ManifestFile {
  const db = openImmutable(path);
  try {
    return readerOn(db, path, known);
  } catch (error) {
    db.close();
    throw error;
  }
}

function readHead(db: Sqlite, known: readonly string[]): Pick<ManifestFile, 'head' | 'headSha256' | 'headChecked'> {
  const fields = db.prepare<[], { key: string; value: string }>('SELECT key, value FROM head ORDER BY key').all();
  const headSha256 = digest('sha256', JSON.stringify(fields), 'hex');
  const written = Object.fromEntries(fields.map((field) => [field.key, JSON.parse(field.value) as unknown]));
  if (known.includes(headSha256)) return { head: written as ManifestHead, headSha256, headChecked: 'known' };
  const parsed = ManifestHead.safeParse(written);
  if (!parsed.success) throw new Error(`the head is malformed: ${parsed.error.issues[0]?.path.join('.') ?? ''} ${parsed.error.issues[0]?.message ?? ''}`);
  return { head: parsed.data, headSha256, headChecked: isDeepStrictEqual(parsed.data, written) ? 'plain' : 'filled' };
}

function readerOn(db: Sqlite, path: string, known: readonly string[]): ManifestFile {
  if (db.pragma('application_id', { simple: true }) !== MANIFEST_APPLICATION_ID) throw new Error('not a manifest file (application_id)');
  const { head, headSha256, headChecked } = readHead(db, known);
  const names = (table: 'tiers' | 'zones', column: 'tier' | 'zone') =>
    new Map(
      db
        .prepare<[], { id: number; name: string }>(`SELECT ${column} AS id, name FROM ${table}`)
        .all()
        .map((row) => [row.id, row.name]),
    );
  const tiers = names('tiers', 'tier');
  const zones = names('zones', 'zone');
  const revoked = new Set(head.revoked.refs);
  const one = db.prepare<[Buffer], TicketRow>(
    'SELECT id, tier, zone, status, max_scans, units, valid_from_ms, valid_until_ms, vip, note FROM tickets WHERE ref = ?',
  );
  const used = db.prepare<[Buffer], UsageRow>(
    'SELECT gate, epoch, seq, at_ms, direction, units, outcome, hash8 FROM usage WHERE ref = ? ORDER BY gate, epoch, seq, hash8',
  );
  const usedAfter = db.prepare<[Buffer, number], { ref: Buffer }>('SELECT DISTINCT ref FROM usage WHERE ref > ? ORDER BY ref LIMIT ? + 0');
  const range = db.prepare<[Buffer, Buffer], { n: number }>('SELECT count(*) AS n FROM tickets WHERE ref >= ? AND ref < ?');
  const last = db.prepare<[Buffer], { n: number }>('SELECT count(*) AS n FROM tickets WHERE ref >= ?');

  const anyUsed = db.prepare('SELECT 1 FROM usage LIMIT 1').get() !== undefined;
  const read = <T>(work: () => T): T => {
    try {
      return work();
    } catch (error) {
      throw storeError(`read ${path}`, error, 'manifest', path);
    }
  };

  return {
    path,
    head,
    headSha256,
    headChecked,
    salt: Buffer.from(head.salt, 'hex'),
    generatedAtMs: Date.parse(head.generated_at),
    expiresAtMs: Date.parse(head.expires_at),
    find(ref) {
      const row = read(() => one.get(ref));
      if (row === undefined) return null;
      const status = TICKET_RIGHTS[row.status];
      const tier = tiers.get(row.tier);
      const zone = row.zone === null ? null : zones.get(row.zone);
      if (status === undefined || tier === undefined || zone === undefined)
        throw new Error('the manifest file names a tier, zone or right that it does not hold');
      return {
        eventId: head.event_id,
        ticketId: typeof row.id === 'string' ? row.id : uuidText(row.id),
        ticketRef: ref.toString('hex'),
        tier,
        zone,
        status,
        maxScans: row.max_scans,
        units: row.units ?? 1,
        validFromMs: row.valid_from_ms,
        validUntilMs: row.valid_until_ms,
        vip: row.vip === 1,
        note: row.note,
        source: 'manifest',
      };
    },
    usageOf: (ref) =>
      !anyUsed
        ? []
        : read(() => used.all(ref)).map((row) => ({
            gate: row.gate,
            epoch: row.epoch,
            seq: row.seq,
            atMs: row.at_ms,
            direction: row.direction === 1 ? 'out' : 'in',
            units: row.units,
            outcome: row.outcome,
            ...(row.hash8.length > 0 ? { hash: row.hash8.toString('hex') } : {}),
          })),
    usedRefs: (after, limit) => (!anyUsed ? [] : read(() => usedAfter.all(after, limit)).map(({ ref }) => ref.toString('hex'))),
    async count() {
      let sum = 0;
      for (let first = 0; first < COUNT_RANGES; first++) {
        const next = first + 1 < COUNT_RANGES ? range.get(Buffer.of(first), Buffer.of(first + 1)) : last.get(Buffer.of(first));
        sum += next?.n ?? 0;
        await nextTurn();
      }
      return sum;
    },
    revoked: (ticketRef) => revoked.has(ticketRef),
    close: () => {
      db.close();
    },
  };
}

export function uuidText(bytes: Buffer): string {
  const hex = bytes.toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/** Copies a file in slices, each synced soon, and answers the SHA-256 of what was written. Stops at `maxBytes`. Errors are the file system's. */
export async function copyHashed(source: string, target: string, maxBytes: number): Promise<{ readonly sha256: string; readonly size: number }> {
  const hash = createHash('sha256');
  const from = await openFile(source, 'r');
  try {
    const to = await openFile(target, 'w', 0o640);
    try {
      const slice = Buffer.allocUnsafe(SLICE_BYTES);
      let size = 0;
      for (let unsynced = 0; ; ) {
        const { bytesRead } = await from.read(slice, 0, SLICE_BYTES);
        if (bytesRead === 0) break;
        size += bytesRead;
        if (size > maxBytes) throw Object.assign(new Error(`the file is larger than the ${maxBytes} bytes it should have`), { code: 'STORE_TOO_LARGE' });
        const part = slice.subarray(0, bytesRead);
        hash.update(part);
        for (let written = 0; written < bytesRead; ) written += (await to.write(part, written)).bytesWritten;
        unsynced += bytesRead;
        if (unsynced >= SYNC_EVERY_BYTES) {
          await to.datasync();
          unsynced = 0;
        }
      }
      await to.sync();
      return { sha256: hash.digest('hex'), size };
    } finally {
      await to.close();
    }
  } finally {
    await from.close();
  }
}

/** Returns the SHA-256 of a file, in slices. */
export async function hashFile(path: string): Promise<{ readonly sha256: string; readonly size: number }> {
  const hash = createHash('sha256');
  const file = await openFile(path, 'r');
  try {
    const slice = Buffer.allocUnsafe(SLICE_BYTES);
    for (;;) {
      const { bytesRead } = await file.read(slice, 0, SLICE_BYTES);
      if (bytesRead === 0) break;
      hash.update(slice.subarray(0, bytesRead));
    }
  } finally {
    await file.close();
  }
  return { sha256: hash.digest('hex'), size: (await stat(path)).size };
}
