/** Makes the forerunner's JSON of a manifest, whole or as a delta (contract: OfflineManifest), signed. */
import { createHash } from 'node:crypto';
import type { LedgerVector } from '../../contract/ids.ts';
import type { OfflineManifest, OfflineTicket, PublicKey } from '../../contract/manifest.ts';
import type { DatabaseClient } from '../db/database.ts';
import { type EventRow, gatePolicies, type ReadUsage, revokedRefs } from './build.ts';
import { codeKeys } from './code-keys.ts';
import { overlayChain, readChanges } from './messages.ts';
import type { Signer } from './signing-key.ts';
import { manifestTicket, rightOf, TICKET_COLUMNS, type TicketRow, type TombstoneRow } from './ticket-rights.ts';

/** Tickets of a whole manifest in JSON; beyond it the client needs the ready-made file. */
export const MAX_JSON_TICKETS = 200_000;
/** Changes of one delta; beyond it a new file is built. */
const MAX_DELTA_CHANGES = 100_000;
/** Part of its life for which an unchanged answer keeps its ETag; afterwards it is made anew, with a later expiry. */
const ETAG_LIFE_PARTS = 8;

export interface OfflineOptions {
  readonly signer: Signer;
  readonly keys: readonly PublicKey[];
  readonly readUsage: ReadUsage;
  readonly ttlHours: number;
}

/** Returns a tag that changes with the tickets, their usage, and, slowly, with the time. */
export function offlineEtag(event: Pick<EventRow, 'event_id' | 'version'>, since: number | null, upto: LedgerVector, ttlHours: number, nowMs: number): string {
  const bucket = Math.floor(nowMs / ((ttlHours * 3_600_000) / ETAG_LIFE_PARTS));
  const positions = Object.entries(upto).sort(([a], [b]) => (a < b ? -1 : 1));
  return `"${createHash('sha256')
    .update(JSON.stringify([event.event_id, event.version, since, positions, bucket]))
    .digest('base64url')
    .slice(0, 27)}"`;
}

/** Returns the whole manifest; null: too many tickets for JSON. On one snapshot. */
export async function wholeManifest(client: DatabaseClient, options: OfflineOptions, event: EventRow, nowMs: number): Promise<OfflineManifest | null> {
  const { rows } = await client.query<TicketRow>(
    `SELECT ${TICKET_COLUMNS} FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 ORDER BY ticket_id LIMIT $2`,
    [event.event_id, MAX_JSON_TICKETS + 1],
  );
  if (rows.length > MAX_JSON_TICKETS) return null;
  const { upto, usage } = await options.readUsage(client, event.event_id);
  const tickets = rows.flatMap((row) => offlineTicket(row) ?? []);
  return sign(options, {
    ...(await common(client, options, event, nowMs)),
    tickets,
    salt: event.salt.toString('hex'),
    upto,
    usage: [...usage],
    keys: [...options.keys, ...(await codeKeys(client, event.event_id))],
    revoked: { version: event.version, refs: await revokedRefs(client, event.event_id) },
  });
}

/** Returns the changes after `since`; null: too many, a new file is due. */
export async function deltaManifest(
  client: DatabaseClient,
  options: OfflineOptions,
  event: EventRow,
  since: number,
  nowMs: number,
): Promise<OfflineManifest | null> {
  const changes = await readChanges(client, event.event_id, since, MAX_DELTA_CHANGES);
  const overlays = changes.complete ? await overlayChain(client, options.signer, event.event_id, since, event.version) : null;
  if (overlays === null) return null;
  const tickets = [
    ...changes.tombstones.map(removedTicket),
    ...changes.tickets.map((row) => offlineTicket(row) ?? removedTicket({ ticket_ref: row.ticket_ref, ticket_id: row.ticket_id, reason: 'invalid' })),
  ];
  return sign(options, { ...(await common(client, options, event, nowMs)), tickets, since, overlays });
}

async function common(client: DatabaseClient, options: OfflineOptions, event: EventRow, nowMs: number) {
  return {
    eventId: event.event_id,
    version: event.version,
    generatedAt: new Date(nowMs).toISOString(),
    expiresAt: new Date(nowMs + options.ttlHours * 3_600_000).toISOString(),
    policies: await gatePolicies(client, event),
    name: event.name,
    startsAt: event.starts_at?.toISOString() ?? null,
    endsAt: event.ends_at?.toISOString() ?? null,
    timeZone: event.time_zone,
  };
}

const sign = (options: OfflineOptions, manifest: Omit<OfflineManifest, 'keyId' | 'signature'>): OfflineManifest =>
  options.signer.sign({ ...manifest, keyId: options.signer.keyId }) as OfflineManifest;

function offlineTicket(row: TicketRow): OfflineTicket | null {
  const ticket = manifestTicket(row);
  if (ticket === null) return null;
  return {
    ticketId: ticket.ticket_id,
    ticketRef: ticket.ticket_ref,
    tier: ticket.tier,
    zone: ticket.zone,
    maxScans: ticket.max_scans,
    currentScans: row.scan_count,
    status: rightOf(row) ?? 'revoked',
    units: ticket.units,
    validFrom: ticket.valid_from,
    validUntil: ticket.valid_until,
    vip: ticket.vip,
    note: ticket.note,
  };
}

/** Returns a revoked ref. Its tier no longer matters; the field must be present. */
function removedTicket(row: TombstoneRow): OfflineTicket {
  const ref = row.ticket_ref.toString('hex');
  return {
    ticketId: row.ticket_id ?? ref,
    ticketRef: ref,
    tier: 'removed',
    zone: null,
    maxScans: null,
    currentScans: 0,
    status: row.reason === 'canceled' ? 'canceled' : 'revoked',
    removed: true,
    reason: row.reason,
  };
}
