/**
 * Builds an event's manifest file: tickets, policies and usage of one moment, ready-made in SQLite, stored in pieces in Postgres, where every
 * serving machine finds it.
 */
import { createHash } from 'node:crypto';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LedgerVector } from '../../contract/ids.ts';
import { SCHEMA_VERSION } from '../../contract/limits.ts';
import type { ManifestHead, ManifestTicket, PublicKey, UsageEntry } from '../../contract/manifest.ts';
import { changeManifestFile, createManifestFile, type ManifestFile } from '../../manifest-format/writer.ts';
import type { EventPolicies } from '../../rules/policy.ts';
import type { Database, DatabaseClient } from '../db/database.ts';
import { codeKeys } from './code-keys.ts';
import { manifestTicket, TICKET_COLUMNS, type TicketRow } from './ticket-rights.ts';

/** Tickets read and written at once; other work runs between two such steps. */
const TICKETS_AT_ONCE = 5_000;
/** Bytes of one row of manifest_pieces. */
export const PIECE_BYTES = 512 * 1024;
/** Largest part of changed tickets for which a file is made from the one before it: split pages are never joined again. */
const MAX_CHANGED_PART = 1 / 20;
/** Files kept of an event: the newest, and those that gates may still be fetching; older ones are deleted. */
const KEPT_MANIFESTS = 3;
/** Refs in `revoked` (ManifestHead allows 100,000); of more, the newest. All are in overlays and deltas anyway. */
const MAX_REVOKED_REFS = 100_000;

/** Reads the usage of the event's tickets, and the row of each ledger up to which it counts. Called on the build's own snapshot. */
export type ReadUsage = (client: DatabaseClient, eventId: string) => Promise<{ readonly upto: LedgerVector; readonly usage: readonly UsageEntry[] }>;

export interface BuiltManifest {
  readonly eventId: string;
  readonly version: number;
  readonly sha256: string;
  readonly sizeBytes: number;
  readonly tickets: number;
  /** The version that it was made from; null: from the tickets alone. */
  readonly from: number | null;
}

export interface BuildOptions {
  readonly database: Database;
  readonly readUsage: ReadUsage;
  /** Manifest keys; they travel in the manifest, with the event's keys of signed codes. */
  readonly keys: readonly PublicKey[];
  readonly ttlHours: number;
}

export interface EventRow {
  readonly event_id: string;
  readonly name: string;
  readonly starts_at: Date | null;
  readonly ends_at: Date | null;
  readonly time_zone: string;
  readonly salt: Buffer;
  readonly policies: EventPolicies;
  readonly version: number;
}
export const EVENT_COLUMNS = 'event_id, name, starts_at, ends_at, time_zone, salt, policies, version';

/**
 * Raises the event's version, then builds the file of that version or a later one, from the last one and the changes since where they are few.
 * Returns null for an unknown event. Two builds at once cost time and nothing else. `whole`: from the tickets alone.
 */
export async function buildManifest(options: BuildOptions, tenantId: string, eventId: string, whole = false): Promise<BuiltManifest | null> {
  const raised = await options.database.withTenant(tenantId, (client) =>
    client.query('UPDATE events SET version = next_event_version(version) WHERE event_id = $1', [eventId]),
  );
  if (raised.rowCount === 0) return null;
  const folder = await mkdtemp(join(tmpdir(), 'stile-manifest-'));
  try {
    const path = join(folder, 'manifest.sqlite');
    const { file, head, from } = await options.database.readSnapshot(tenantId, async (client) => {
      const changed = whole ? null : await fillFrom(path, client, options, eventId);
      return changed ?? (await fill(path, client, options, eventId));
    });
    const { sha256, sizeBytes } = await file.finish(head);
    await keep(options.database, tenantId, head, path, sha256, sizeBytes);
    return { eventId, version: head.version, sha256, sizeBytes, tickets: head.ticket_count, from };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

interface Filled {
  readonly file: ManifestFile;
  readonly head: ManifestHead;
  readonly from: number | null;
}

/**
 * Builds from the last file and the changes since. Returns null where there is none, it is damaged, too much has changed, or the result would not
 * hold as many tickets as there are.
 */
async function fillFrom(path: string, client: DatabaseClient, options: BuildOptions, eventId: string): Promise<Filled | null> {
  const last = await manifestRow(client, eventId);
  if (last === null) return null;
  const [counted] = (
    await client.query<{ changes: number; tickets: number }>(
      `SELECT (SELECT count(*) FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND changed_version > $2)
         + (SELECT count(*) FROM ticket_tombstones WHERE tenant_id = current_tenant_id() AND event_id = $1 AND changed_version > $2) AS changes,
       (SELECT count(*) FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND status <> 'available') AS tickets`,
      [eventId, last.version],
    )
  ).rows;
  if (counted === undefined || counted.changes > counted.tickets * MAX_CHANGED_PART) return null;
  const target = await open(path, 'wx');
  const hash = createHash('sha256');
  try {
    for (let piece = 0; piece * PIECE_BYTES < last.size_bytes; piece++) {
      const { rows } = await client.query<{ bytes: Buffer }>('SELECT bytes FROM manifest_pieces WHERE event_id = $1 AND version = $2 AND piece = $3', [
        eventId,
        last.version,
        piece,
      ]);
      hash.update(rows[0]?.bytes ?? '');
      await target.write(rows[0]?.bytes ?? Buffer.alloc(0));
    }
  } finally {
    await target.close();
  }
  if (!hash.digest().equals(last.sha256)) {
    await rm(path);
    return null;
  }
  const file = changeManifestFile(path);
  try {
    const gone = await client.query<{ ticket_ref: Buffer }>(
      'SELECT ticket_ref FROM ticket_tombstones WHERE tenant_id = current_tenant_id() AND event_id = $1 AND changed_version > $2',
      [eventId, last.version],
    );
    file.removeTickets(gone.rows.map(({ ticket_ref }) => ticket_ref));
    const changed = await client.query<TicketRow>(
      `SELECT ${TICKET_COLUMNS} FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND changed_version > $2`,
      [eventId, last.version],
    );
    file.removeTickets(changed.rows.filter((row) => manifestTicket(row) === null).map(({ ticket_ref }) => ticket_ref));
    file.addTickets(changed.rows.map(manifestTicket).filter((ticket): ticket is ManifestTicket => ticket !== null));
    const count = file.ticketCount();
    if (count === counted.tickets) return { file, head: await addHead(file, client, options, eventId, count), from: last.version };
    // A ticket was written without its version: the file is built from all tickets.
    file.abandon();
    await rm(path, { force: true });
    return null;
  } catch (error) {
    file.abandon();
    throw error;
  }
}

async function fill(path: string, client: DatabaseClient, options: BuildOptions, eventId: string): Promise<Filled> {
  const file = createManifestFile(path);
  try {
    return { file, head: await addHead(file, client, options, eventId, await addEveryTicket(file, client, eventId)), from: null };
  } catch (error) {
    file.abandon();
    throw error;
  }
}

async function addEveryTicket(file: ManifestFile, client: DatabaseClient, eventId: string): Promise<number> {
  await client.query(
    `DECLARE building NO SCROLL CURSOR FOR SELECT ${TICKET_COLUMNS} FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = '${eventId.replaceAll("'", "''")}' ORDER BY ticket_ref`,
  );
  let count = 0;
  for (;;) {
    const { rows } = await client.query<TicketRow>(`FETCH ${TICKETS_AT_ONCE} FROM building`);
    if (rows.length === 0) break;
    const tickets = rows.map(manifestTicket).filter((ticket): ticket is ManifestTicket => ticket !== null);
    file.addTickets(tickets);
    count += tickets.length;
  }
  return count;
}

/** Writes usage and the file's head. */
async function addHead(file: ManifestFile, client: DatabaseClient, options: BuildOptions, eventId: string, count: number): Promise<ManifestHead> {
  const event = await readEvent(client, eventId);
  if (event === null) throw new Error(`event ${eventId} went away while its manifest was built`);
  const { upto, usage } = await options.readUsage(client, eventId);
  file.addUsage(usage);
  const now = Date.now();
  return {
    schema: SCHEMA_VERSION,
    event_id: event.event_id,
    version: event.version,
    generated_at: new Date(now).toISOString(),
    expires_at: new Date(now + options.ttlHours * 3_600_000).toISOString(),
    name: event.name,
    starts_at: event.starts_at?.toISOString() ?? null,
    ends_at: event.ends_at?.toISOString() ?? null,
    time_zone: event.time_zone,
    salt: event.salt.toString('hex'),
    policies: await gatePolicies(client, event),
    keys: [...options.keys, ...(await codeKeys(client, eventId))],
    revoked: { version: event.version, refs: await revokedRefs(client, eventId) },
    ticket_count: count,
    upto,
  };
}

/** Returns null for an unknown event of this tenant. */
export async function readEvent(client: DatabaseClient, eventId: string): Promise<EventRow | null> {
  return (await client.query<EventRow>(`SELECT ${EVENT_COLUMNS} FROM events WHERE event_id = $1`, [eventId])).rows[0] ?? null;
}

/**
 * Returns the event's policies with what each gate serves, from its assignment, in `gates`. An assignment without zones or tiers keeps the
 * policies' value.
 */
export async function gatePolicies(client: DatabaseClient, event: Pick<EventRow, 'event_id' | 'policies'>): Promise<EventPolicies> {
  const assigned = await client.query<{ gate: string; zones: string[] | null; tiers: string[] | null }>(
    'SELECT gate, zones, tiers FROM gate_assignments WHERE event_id = $1 AND (zones IS NOT NULL OR tiers IS NOT NULL) ORDER BY gate',
    [event.event_id],
  );
  if (assigned.rows.length === 0) return event.policies;
  const gates = { ...event.policies.gates };
  for (const { gate, zones, tiers } of assigned.rows)
    gates[gate] = { ...gates[gate], ...(zones === null ? {} : { zones }), ...(tiers === null ? {} : { tiers }) };
  return { ...event.policies, gates };
}

/** Returns replaced refs: a gate then refuses them as `revoked` rather than `invalid`. */
export async function revokedRefs(client: DatabaseClient, eventId: string): Promise<string[]> {
  const { rows } = await client.query<{ ref: string }>(
    "SELECT encode(ticket_ref, 'hex') AS ref FROM ticket_tombstones WHERE event_id = $1 AND reason = 'revoked' ORDER BY changed_version DESC, ticket_ref LIMIT $2",
    [eventId, MAX_REVOKED_REFS],
  );
  return rows.map(({ ref }) => ref);
}

async function keep(database: Database, tenantId: string, head: ManifestHead, path: string, sha256: string, sizeBytes: number): Promise<void> {
  await database.withTenant(tenantId, async (client) => {
    const added = await client.query(
      "INSERT INTO manifests (tenant_id, event_id, version, sha256, size_bytes, ticket_count, generated_at, expires_at, upto) VALUES ($1, $2, $3, decode($4, 'hex'), $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
      [tenantId, head.event_id, head.version, sha256, sizeBytes, head.ticket_count, head.generated_at, head.expires_at, JSON.stringify(head.upto)],
    );
    // Another build at the same moment made the same version: its file stays.
    if (added.rowCount === 0) return;
    const handle = await open(path);
    try {
      for (let piece = 0; piece * PIECE_BYTES < sizeBytes; piece++) {
        const bytes = Buffer.alloc(Math.min(PIECE_BYTES, sizeBytes - piece * PIECE_BYTES));
        await handle.read(bytes, 0, bytes.length, piece * PIECE_BYTES);
        await client.query('INSERT INTO manifest_pieces (tenant_id, event_id, version, piece, bytes) VALUES ($1, $2, $3, $4, $5)', [
          tenantId,
          head.event_id,
          head.version,
          piece,
          bytes,
        ]);
      }
    } finally {
      await handle.close();
    }
    await client.query(
      'DELETE FROM manifests WHERE event_id = $1 AND version NOT IN (SELECT version FROM manifests WHERE event_id = $1 ORDER BY version DESC LIMIT $2)',
      [head.event_id, KEPT_MANIFESTS],
    );
  });
}

export interface ManifestRow {
  readonly version: number;
  readonly sha256: Buffer;
  readonly size_bytes: number;
  readonly generated_at: Date;
  readonly expires_at: Date;
}

/** Returns the newest file of an event, or that of a given version; null where there is none (any more). */
export async function manifestRow(client: DatabaseClient, eventId: string, version?: number): Promise<ManifestRow | null> {
  const { rows } = await client.query<ManifestRow>(
    'SELECT version, sha256, size_bytes, generated_at, expires_at FROM manifests WHERE event_id = $1 AND ($2::bigint IS NULL OR version = $2) ORDER BY version DESC LIMIT 1',
    [eventId, version ?? null],
  );
  return rows[0] ?? null;
}
