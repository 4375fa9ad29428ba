/**
 * Writes tickets of one event, in sets: what is new is added, what differs is changed, the rest is left
 * as it is. Raises the event's version when anything changed; the caller marks the outbox (`tellGates`).
 * Locks: the event, then its tickets, sorted.
 */
import type { DatabaseClient } from '../database.ts';
import { ticketRef } from './codes.ts';
import type { FieldProblem, TicketFields } from './fields.ts';

export interface LockedEvent {
  readonly eventId: string;
  readonly salt: Buffer;
  readonly version: number;
  /** What the event's version becomes when something changes. */
  readonly nextVersion: number;
}

export interface WriteResult {
  readonly created: number;
  readonly updated: number;
  readonly unchanged: number;
  /** Tickets that were left out, by their place in the list. */
  readonly problems: ReadonlyMap<number, FieldProblem>;
}

/** Holds the event against other writers until the transaction ends; null: no such event. */
export async function lockEvent(client: DatabaseClient, eventId: string): Promise<LockedEvent | null> {
  const { rows } = await client.query<{ salt: Buffer; version: number; next: number }>('SELECT salt, version, next_event_version(version) AS next FROM events WHERE event_id = $1 FOR UPDATE', [eventId]);
  const row = rows[0];
  return row === undefined ? null : { eventId, salt: row.salt, version: row.version, nextVersion: row.next };
}

/** Has the gates of the event told. `build`: with a new manifest file. In the transaction of the change. */
export async function tellGates(client: DatabaseClient, tenantId: string, eventId: string, build: boolean): Promise<void> {
  await client.query("INSERT INTO outbox (tenant_id, kind, key, build) VALUES ($1, 'event', $2, $3)", [tenantId, eventId, build]);
}

const WRITE = `
WITH given AS (
  SELECT j, j->>'ticket_id' AS ticket_id, decode(j->>'ref', 'hex') AS ref FROM jsonb_array_elements($3::jsonb) AS j
), wanted AS (
  SELECT g.ticket_id, coalesce(g.ref, t.ticket_ref) AS ticket_ref, coalesce(j->>'tier', t.tier, 'standard') AS tier,
    CASE WHEN j ? 'zone' THEN j->>'zone' ELSE t.zone END AS zone,
    -- The ticketing side's "sold" is older news than the gates' "used".
    CASE WHEN j->>'status' IN ('sold', 'minted', 'active', 'transferred') AND t.status IN ('checked_in', 'used') THEN t.status
      ELSE coalesce((j->>'status')::ticket_status, t.status, 'sold') END AS status,
    coalesce((j->>'blocked')::boolean, t.blocked, false) AS blocked, coalesce((j->>'approved')::boolean, t.approved, true) AS approved,
    CASE WHEN j ? 'max_scans' THEN (j->>'max_scans')::integer ELSE t.max_scans END AS max_scans, coalesce((j->>'units')::integer, t.units, 1) AS units,
    CASE WHEN j ? 'valid_from' THEN (j->>'valid_from')::timestamptz ELSE t.valid_from END AS valid_from,
    CASE WHEN j ? 'valid_until' THEN (j->>'valid_until')::timestamptz ELSE t.valid_until END AS valid_until,
    coalesce((j->>'vip')::boolean, t.vip, false) AS vip, CASE WHEN j ? 'note' THEN j->>'note' ELSE t.note END AS note
  FROM given g LEFT JOIN tickets t ON t.tenant_id = $1 AND t.event_id = $2 AND t.ticket_id = g.ticket_id
), written AS (
  INSERT INTO tickets AS o (tenant_id, event_id, ticket_id, ticket_ref, tier, zone, status, blocked, approved, max_scans, units, valid_from, valid_until, vip, note, changed_version)
  SELECT $1, $2, ticket_id, ticket_ref, tier, zone, status, blocked, approved, max_scans, units, valid_from, valid_until, vip, note, $4 FROM wanted ORDER BY ticket_id
  ON CONFLICT (tenant_id, event_id, ticket_id) DO UPDATE SET ticket_ref = excluded.ticket_ref, tier = excluded.tier, zone = excluded.zone, status = excluded.status, blocked = excluded.blocked,
    approved = excluded.approved, max_scans = excluded.max_scans, units = excluded.units, valid_from = excluded.valid_from, valid_until = excluded.valid_until, vip = excluded.vip, note = excluded.note,
    changed_version = excluded.changed_version, row_version = o.row_version + 1, updated_at = now()
  WHERE (o.ticket_ref, o.tier, o.zone, o.status, o.blocked, o.approved, o.max_scans, o.units, o.valid_from, o.valid_until, o.vip, o.note)
    IS DISTINCT FROM (excluded.ticket_ref, excluded.tier, excluded.zone, excluded.status, excluded.blocked, excluded.approved, excluded.max_scans, excluded.units, excluded.valid_from, excluded.valid_until, excluded.vip, excluded.note)
  RETURNING (xmax = 0) AS created
)
SELECT count(*) FILTER (WHERE created) AS created, count(*) FILTER (WHERE NOT created) AS updated FROM written`;

/** The codes are hashed here and go no further. `event` must have been locked in this transaction. At most some thousands at once. */
export async function writeTickets(client: DatabaseClient, tenantId: string, event: LockedEvent, tickets: readonly TicketFields[]): Promise<WriteResult> {
  const rows = tickets.map(({ code, ...rest }) => ({ ...rest, ...(code === undefined ? {} : { ref: ticketRef(event.salt, code).toString('hex') }) }) as Omit<TicketFields, 'code'> & { readonly ref?: string });
  const problems = await findProblems(client, tenantId, event.eventId, rows);
  const good = rows.filter((_, index) => !problems.has(index));
  if (good.length === 0) return { created: 0, updated: 0, unchanged: 0, problems };
  const json = JSON.stringify(good);
  const key = [tenantId, event.eventId, json];

  const tiers = [...new Set(good.map(({ tier }) => tier ?? 'standard'))].sort();
  await client.query('INSERT INTO ticket_types (tenant_id, event_id, tier) SELECT $1, $2, tier FROM unnest($3::text[]) AS tier ON CONFLICT DO NOTHING', [tenantId, event.eventId, tiers]);
  // The old code of a ticket that has a new one opens nothing any more; a code that is used again is no tombstone.
  await client.query(
    `INSERT INTO ticket_tombstones (tenant_id, event_id, ticket_ref, ticket_id, reason, changed_version)
     SELECT $1, $2, t.ticket_ref, t.ticket_id, 'revoked', $4 FROM jsonb_array_elements($3::jsonb) AS j JOIN tickets t ON t.tenant_id = $1 AND t.event_id = $2 AND t.ticket_id = j->>'ticket_id'
     WHERE j ? 'ref' AND t.ticket_ref <> decode(j->>'ref', 'hex') ORDER BY t.ticket_ref
     ON CONFLICT (tenant_id, event_id, ticket_ref) DO UPDATE SET reason = excluded.reason, ticket_id = excluded.ticket_id, changed_version = excluded.changed_version`, [...key, event.nextVersion],
  );
  await client.query("DELETE FROM ticket_tombstones s USING jsonb_array_elements($3::jsonb) AS j WHERE s.tenant_id = $1 AND s.event_id = $2 AND s.ticket_ref = decode(j->>'ref', 'hex')", key);
  const { created = 0, updated = 0 } = (await client.query<{ created: number; updated: number }>(WRITE, [...key, event.nextVersion])).rows[0] ?? {};
  if (created + updated > 0) await raiseVersion(client, event);
  return { created, updated, unchanged: good.length - created - updated, problems };
}

export async function raiseVersion(client: DatabaseClient, event: LockedEvent): Promise<void> {
  await client.query('UPDATE events SET version = $2, updated_at = now() WHERE event_id = $1', [event.eventId, event.nextVersion]);
}

/** Locks the tickets that are there, sorted, and finds what Postgres would refuse the whole set for. */
async function findProblems(client: DatabaseClient, tenantId: string, eventId: string, rows: readonly { readonly ticket_id: string; readonly ref?: string }[]): Promise<Map<number, FieldProblem>> {
  const problems = new Map<number, FieldProblem>();
  const known = new Set((await client.query<{ ticket_id: string }>('SELECT ticket_id FROM tickets WHERE tenant_id = $1 AND event_id = $2 AND ticket_id = ANY($3) ORDER BY ticket_id FOR UPDATE', [tenantId, eventId, rows.map(({ ticket_id }) => ticket_id)])).rows.map(({ ticket_id }) => ticket_id));
  const refs = rows.flatMap(({ ref }) => (ref === undefined ? [] : [ref]));
  const holders = new Map((await client.query<{ ref: string; ticket_id: string }>("SELECT encode(ticket_ref, 'hex') AS ref, ticket_id FROM tickets WHERE tenant_id = $1 AND event_id = $2 AND ticket_ref IN (SELECT decode(r, 'hex') FROM unnest($3::text[]) AS r)", [tenantId, eventId, refs])).rows.map(({ ref, ticket_id }) => [ref, ticket_id]));
  const ids = new Set<string>();
  const seen = new Map<string, string>();
  rows.forEach(({ ticket_id, ref }, index) => {
    const holder = ref === undefined ? undefined : holders.get(ref) ?? seen.get(ref);
    if (ids.has(ticket_id)) problems.set(index, { field: 'ticket_id', what: `${JSON.stringify(ticket_id)} was given before`, mend: 'name each ticket once' });
    else if (ref === undefined && !known.has(ticket_id)) problems.set(index, { field: 'code', what: 'is missing', mend: 'a new ticket needs the code that its QR says' });
    else if (holder !== undefined && holder !== ticket_id) problems.set(index, { field: 'code', what: `is already the code of ticket ${JSON.stringify(holder)}`, mend: 'give every ticket a code of its own' });
    ids.add(ticket_id);
    if (ref !== undefined && !problems.has(index)) seen.set(ref, ticket_id);
  });
  return problems;
}
