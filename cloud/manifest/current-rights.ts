/** Reads the current event and ticket for a decision in the cloud: the facts that its gates find in their manifest. */
import type { PublicKey, Tombstone } from '../../contract/manifest.ts';
import type { TicketFacts } from '../../rules/facts.ts';
import type { EventPolicies } from '../../rules/policy.ts';
import type { DatabaseClient } from '../db/database.ts';
import { gatePolicies, readEvent } from './build.ts';
import { codeKeys } from './code-keys.ts';
import { manifestTicket, TICKET_COLUMNS, type TicketRow } from './ticket-rights.ts';

export interface EventRights {
  readonly eventId: string;
  readonly startsAtMs: number | null;
  readonly endsAtMs: number | null;
  readonly timeZone: string;
  readonly version: number;
  readonly salt: Buffer;
  /** With what each gate serves. As stored: readPolicies checks them. */
  readonly policies: EventPolicies;
  /** Keys of signed codes. */
  readonly keys: readonly PublicKey[];
}

/** Returns null for an unknown event of this tenant. */
export async function eventRights(client: DatabaseClient, eventId: string): Promise<EventRights | null> {
  const event = await readEvent(client, eventId);
  if (event === null) return null;
  return {
    eventId,
    startsAtMs: event.starts_at?.getTime() ?? null,
    endsAtMs: event.ends_at?.getTime() ?? null,
    timeZone: event.time_zone,
    version: event.version,
    salt: event.salt,
    policies: await gatePolicies(client, event),
    keys: await codeKeys(client, eventId),
  };
}

/** Returns a ticket by its ref (hex), the reason of a revoked ref, or null for an unknown one. */
export async function ticketRight(client: DatabaseClient, eventId: string, ref: string): Promise<TicketFacts | Tombstone['reason'] | null> {
  const key = [eventId, Buffer.from(ref, 'hex')];
  const row = (
    await client.query<TicketRow>(`SELECT ${TICKET_COLUMNS} FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND ticket_ref = $2`, key)
  ).rows[0];
  if (row === undefined) {
    const gone = await client.query<{ reason: Tombstone['reason'] }>(
      'SELECT reason FROM ticket_tombstones WHERE tenant_id = current_tenant_id() AND event_id = $1 AND ticket_ref = $2',
      key,
    );
    return gone.rows[0]?.reason ?? null;
  }
  const ticket = manifestTicket(row);
  if (ticket === null) return 'invalid';
  return {
    eventId,
    ticketId: ticket.ticket_id,
    ticketRef: ticket.ticket_ref,
    tier: ticket.tier,
    zone: ticket.zone,
    status: ticket.status,
    maxScans: ticket.max_scans,
    units: ticket.units,
    validFromMs: row.valid_from?.getTime() ?? null,
    validUntilMs: row.valid_until?.getTime() ?? null,
    vip: ticket.vip,
    note: ticket.note,
    source: 'cloud',
  };
}
