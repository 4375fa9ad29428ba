/** Takes signed codes back by their ticket ids, whether the cloud knows the tickets or not: gates refuse them as `revoked`. */
import type { DatabaseClient } from '../database.ts';
import { applyAction } from './actions.ts';
import { ticketRef } from './codes.ts';
import { bury, lockEvent, raiseVersion, tellGates } from './write.ts';

/** Codes of one call. */
export const MAX_REVOKED_AT_ONCE = 10_000;

export type RevokedCodes =
  | { readonly ok: true; readonly tickets: number; readonly refs: number }
  | { readonly ok: false; readonly code: string; readonly message: string };

/**
 * In the caller's transaction; of several ids all or none. A known ticket is revoked as by `POST /tickets/:id/revoke`; of an unknown
 * one the ref goes into the event's revoked list, whose version rises. The same again changes nothing.
 */
export async function revokeCodes(
  client: DatabaseClient,
  tenantId: string,
  eventId: string,
  ticketIds: readonly string[],
  by: { readonly actor: string; readonly reason: string },
): Promise<RevokedCodes> {
  const event = await lockEvent(client, eventId);
  if (event === null) return { ok: false, code: 'NO_SUCH_EVENT', message: `there is no event ${eventId}` };
  const ids = [...new Set(ticketIds)].sort();
  const { rows } = await client.query<{ ticket_id: string }>('SELECT ticket_id FROM tickets WHERE event_id = $1 AND ticket_id = ANY ($2)', [eventId, ids]);
  const known = new Set(rows.map(({ ticket_id }) => ticket_id));
  let tickets = 0;
  for (const ticketId of known) {
    const result = await applyAction(client, tenantId, { ticketId, eventId, action: 'revoke', ...by });
    if (!result.ok) return result;
    if (result.changed) tickets += 1;
  }
  const unknown = ids.filter((id) => !known.has(id)).map((ticketId) => ({ ticketId, ref: ticketRef(event.salt, ticketId).toString('hex') }));
  const before = await client.query<{ ref: string }>(
    "SELECT encode(ticket_ref, 'hex') AS ref FROM ticket_tombstones WHERE event_id = $1 AND reason = 'revoked' AND ticket_ref = ANY ($2)",
    [eventId, unknown.map(({ ref }) => Buffer.from(ref, 'hex'))],
  );
  const fresh = unknown.filter(({ ref }) => !before.rows.some((row) => row.ref === ref));
  if (fresh.length === 0) return { ok: true, tickets, refs: 0 };
  const now = await lockEvent(client, eventId);
  if (now === null) return { ok: false, code: 'NO_SUCH_EVENT', message: `event ${eventId} went away` };
  await bury(client, tenantId, now, fresh);
  await client.query(
    `INSERT INTO ticket_actions (tenant_id, event_id, ticket_id, action, actor, reason) SELECT $1, $2, t, 'revoke', $4, $5 FROM unnest($3::text[]) AS t`,
    [tenantId, eventId, fresh.map(({ ticketId }) => ticketId), by.actor, by.reason],
  );
  await raiseVersion(client, now);
  await tellGates(client, tenantId, eventId, false);
  return { ok: true, tickets, refs: fresh.length };
}
