/**
 * Makes the MQTT messages about rights: `manifest/want` (retained: the files and versions that a gate must hold) and `overlay` (changes). Reads and
 * signs; change-publisher.ts publishes.
 */
import { MAX_OVERLAY_TICKETS, MAX_PAYLOAD_BYTES, SCHEMA_VERSION } from '../../contract/limits.ts';
import type { OverlayMessage, TicketChange, WantedManifest, WantMessage } from '../../contract/manifest.ts';
import type { DatabaseClient } from '../db/database.ts';
import type { Signer } from './signing-key.ts';
import { TICKET_COLUMNS, type TicketRow, type TombstoneRow, ticketChange, tombstone } from './ticket-rights.ts';

/** Events that one gate can hold (contract: WantMessage); of more, those assigned first. */
const MAX_WANTED_EVENTS = 64;

/** The event's version that made the change. */
interface Versioned {
  readonly changed_version: number;
}

/** Changes after one version; `complete` is false where there are more than `limit`, and then it has none. */
export async function readChanges(
  client: DatabaseClient,
  eventId: string,
  after: number,
  limit: number,
): Promise<{ readonly complete: boolean; readonly tickets: (TicketRow & Versioned)[]; readonly tombstones: (TombstoneRow & Versioned)[] }> {
  const tickets = await client.query<TicketRow & Versioned>(
    `SELECT ${TICKET_COLUMNS}, changed_version FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND changed_version > $2 ORDER BY changed_version, ticket_id LIMIT $3`,
    [eventId, after, limit + 1],
  );
  const tombstones = await client.query<TombstoneRow & Versioned>(
    'SELECT ticket_ref, ticket_id, reason, changed_version FROM ticket_tombstones WHERE tenant_id = current_tenant_id() AND event_id = $1 AND changed_version > $2 ORDER BY changed_version, ticket_ref LIMIT $3',
    [eventId, after, limit + 1],
  );
  if (tickets.rows.length + tombstones.rows.length > limit) return { complete: false, tickets: [], tombstones: [] };
  return { complete: true, tickets: tickets.rows, tombstones: tombstones.rows };
}

/** Returns the signed overlay from one version to another; without tickets where they are too many or too large. */
export async function overlayMessage(client: DatabaseClient, signer: Signer, eventId: string, from: number, to: number): Promise<OverlayMessage> {
  const changes = await readChanges(client, eventId, from, MAX_OVERLAY_TICKETS);
  const versions = { schema: SCHEMA_VERSION, event_id: eventId, from_version: from, to_version: to, key_id: signer.keyId } as const;
  if (!changes.complete) return signer.sign(versions);
  const tickets: TicketChange[] = [...changes.tombstones.map(tombstone), ...changes.tickets.map(ticketChange)];
  const whole = signer.sign({ ...versions, tickets });
  return Buffer.byteLength(JSON.stringify(whole)) > MAX_PAYLOAD_BYTES ? signer.sign(versions) : whole;
}

/** Overlays of one delta, at most: beyond it a new file is cheaper. */
const MAX_DELTA_OVERLAYS = 200;

/**
 * Returns the changes after `since` as a chain of signed overlays, gapless up to `version`; null: they don't fit into overlays (too many in all, or
 * in one version), so a new file is due.
 */
export async function overlayChain(client: DatabaseClient, signer: Signer, eventId: string, since: number, version: number): Promise<OverlayMessage[] | null> {
  const changes = await readVersionedChanges(client, eventId, since, MAX_DELTA_OVERLAYS * MAX_OVERLAY_TICKETS);
  if (changes === null) return null;
  const chain: OverlayMessage[] = [];
  let tickets: TicketChange[] = [];
  let from = since;
  const close = (to: number) => {
    chain.push(signer.sign({ schema: SCHEMA_VERSION, event_id: eventId, from_version: from, to_version: to, key_id: signer.keyId, tickets }));
    from = to;
    tickets = [];
  };
  let last = since;
  for (const [at, changed] of changes) {
    if (changed.length > MAX_OVERLAY_TICKETS) return null;
    if (tickets.length > 0 && tickets.length + changed.length > MAX_OVERLAY_TICKETS) close(last);
    tickets.push(...changed);
    last = Math.min(at, version);
  }
  if (version > from) close(version);
  return chain.length > MAX_DELTA_OVERLAYS || chain.some((overlay) => Buffer.byteLength(JSON.stringify(overlay)) > MAX_PAYLOAD_BYTES) ? null : chain;
}

/** Returns changes by the version that made them, rising; null: more than `limit`. */
async function readVersionedChanges(client: DatabaseClient, eventId: string, since: number, limit: number): Promise<Map<number, TicketChange[]> | null> {
  const changes = await readChanges(client, eventId, since, limit);
  if (!changes.complete) return null;
  const dated = [
    ...changes.tombstones.map((row) => ({ at: row.changed_version, change: tombstone(row) as TicketChange })),
    ...changes.tickets.map((row) => ({ at: row.changed_version, change: ticketChange(row) })),
  ].sort((a, b) => a.at - b.at);
  return new Map([...Map.groupBy(dated, ({ at }) => at)].map(([at, group]) => [at, group.map(({ change }) => change)]));
}

export interface WantOptions {
  readonly signer: Signer;
  /** URL by which gates reach the cloud, without a slash at the end. */
  readonly publicUrl: string;
}

/**
 * Returns, for each gate, the events and files that it must hold: every assigned event whose file has been built. Signed as a whole, because a gate
 * drops events that are left out. Reads what all of them hold by one query, however many gates there are.
 */
export async function wantMessages(client: DatabaseClient, options: WantOptions, gates: readonly string[]): Promise<Map<string, WantMessage>> {
  // Read before the assignments: a message that includes a change is always younger than one that does not.
  const issued = (await client.query<{ at: Date }>('SELECT statement_timestamp() AS at')).rows[0] as { at: Date };
  const { rows } = await client.query<WantedRow>(
    `SELECT a.gate, a.event_id, e.version AS event_version, m.version, m.sha256, m.size_bytes
     FROM (SELECT x.gate, x.event_id, row_number() OVER (PARTITION BY x.gate ORDER BY x.assigned_at, x.event_id) AS place FROM gate_assignments x WHERE x.gate = ANY ($1)) AS a
     JOIN events e ON e.tenant_id = current_tenant_id() AND e.event_id = a.event_id
     JOIN (SELECT DISTINCT ON (f.event_id) f.event_id, f.version, f.sha256, f.size_bytes FROM manifests f ORDER BY f.event_id, f.version DESC) AS m ON m.event_id = a.event_id
     WHERE a.place <= $2 ORDER BY a.gate, a.place`,
    [gates, MAX_WANTED_EVENTS],
  );
  const held = Map.groupBy(rows, ({ gate }) => gate);
  return new Map(
    gates.map((gate) => [
      gate,
      options.signer.sign({
        schema: SCHEMA_VERSION,
        gate,
        issued_at: issued.at.toISOString(),
        key_id: options.signer.keyId,
        events: (held.get(gate) ?? []).map((row) => wantedManifest(options, row)),
      }),
    ]),
  );
}

interface WantedRow {
  readonly gate: string;
  readonly event_id: string;
  readonly event_version: number;
  readonly version: number;
  readonly sha256: Buffer;
  readonly size_bytes: number;
}

function wantedManifest({ signer, publicUrl }: WantOptions, row: WantedRow): WantedManifest {
  const url = new URL(`${publicUrl}/offline/manifest/${encodeURIComponent(row.event_id)}`);
  url.searchParams.set('device_id', row.gate);
  url.searchParams.set('version', String(row.version));
  return signer.sign({
    event_id: row.event_id,
    version: row.version,
    overlay_version: Math.max(row.event_version, row.version),
    sha256: row.sha256.toString('hex'),
    size: row.size_bytes,
    url: url.href,
    key_id: signer.keyId,
  });
}
