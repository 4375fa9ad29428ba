/** Revokes codes by their ticket ids or by themselves, whether or not the cloud knows the tickets: gates refuse them as `revoked`. */
import { recogniseCode, withoutMarks } from '../../../rules/code.ts';
import type { DatabaseClient } from '../../db/database.ts';
import { applyAction } from '../actions.ts';
import { bury, type LockedEvent, lockEvent, notifyGates, raiseVersion } from '../write-tickets.ts';
import { ticketRef } from './code-hash.ts';

/** Codes of one call; more are refused. */
export const MAX_REVOKED_AT_ONCE = 10_000;

export type RevokedCodes =
  | {
      readonly ok: true;
      readonly tickets: number;
      readonly refs: number;
      /** Places in the list that could not be revoked, with the cause. */
      readonly unable: readonly { readonly at: number; readonly why: string }[];
    }
  | { readonly ok: false; readonly code: string; readonly message: string };

/** A ticket by its id, with its printed code where it is known. */
export interface TakenBack {
  readonly ticketId: string;
  readonly code?: string;
}

/**
 * Revokes in the caller's transaction; of several all or none. A known ticket is revoked as by `POST /tickets/:id/revoke`. The text that gates look
 * up enters the event's revoked list, whose version rises: of Stile's signed code the ticket id, of any other code (pretix's too) the code itself.
 * A repeat changes nothing.
 */
export async function revokeCodes(
  client: DatabaseClient,
  tenantId: string,
  eventId: string,
  given: readonly TakenBack[],
  by: { readonly actor: string; readonly reason: string },
): Promise<RevokedCodes> {
  const event = await lockEvent(client, eventId);
  if (event === null) return { ok: false, code: 'NO_SUCH_EVENT', message: `there is no event ${eventId}` };
  const ids = [...new Set(given.map(({ ticketId }) => ticketId))].sort();
  const { rows } = await client.query<{ ticket_id: string }>('SELECT ticket_id FROM tickets WHERE event_id = $1 AND ticket_id = ANY ($2)', [eventId, ids]);
  const known = new Set(rows.map(({ ticket_id }) => ticket_id));
  let tickets = 0;
  for (const ticketId of known) {
    const result = await applyAction(client, tenantId, { ticketId, eventId, action: 'revoke', ...by });
    if (!result.ok) return result;
    if (result.changed) tickets += 1;
  }
  const { refs, unable } = await refsOf(client, event, given, known);
  const fresh = await notBuriedYet(client, eventId, refs);
  if (fresh.length === 0) return { ok: true, tickets, refs: 0, unable };
  const now = await lockEvent(client, eventId);
  if (now === null) return { ok: false, code: 'NO_SUCH_EVENT', message: `event ${eventId} went away` };
  await bury(client, tenantId, now, fresh);
  await client.query(
    `INSERT INTO ticket_actions (tenant_id, event_id, ticket_id, action, actor, reason) SELECT $1, $2, t, 'revoke', $4, $5 FROM unnest($3::text[]) AS t`,
    [tenantId, eventId, fresh.map(({ ticketId }) => ticketId), by.actor, by.reason],
  );
  await raiseVersion(client, now);
  await notifyGates(client, tenantId, eventId, false);
  return { ok: true, tickets, refs: fresh.length, unable };
}

type Ref = { readonly ticketId: string; readonly ref: string };

/** Returns the lookup texts of every code without a ticket of the event. */
async function refsOf(client: DatabaseClient, event: LockedEvent, given: readonly TakenBack[], known: ReadonlySet<string>) {
  const keys = await client.query<{ use: string }>('SELECT DISTINCT use FROM code_keys WHERE event_id = $1 AND revoked_at IS NULL', [event.eventId]);
  const onlyPretix = keys.rows.length > 0 && keys.rows.every(({ use }) => use === 'pretix');
  const refs = new Map<string, Ref>();
  const unable: { at: number; why: string }[] = [];
  for (const [at, { ticketId, code }] of given.entries()) {
    const form = code === undefined ? null : recogniseCode(withoutMarks(code));
    const add = (text: string) => {
      const ref = ticketRef(event.salt, text).toString('hex');
      refs.set(ref, { ticketId, ref });
    };
    if (form?.form === 'stile' && form.eventId !== event.eventId) unable.push({ at, why: `the code is signed for the event ${form.eventId}` });
    else if (form !== null) add(code as string);
    else if (onlyPretix && !known.has(ticketId))
      unable.push({ at, why: `no ticket ${ticketId} is known, and a code of pretix's is found by the code alone: give the file that holds it with --file` });
    else if (!known.has(ticketId)) add(ticketId);
  }
  const held = await client.query<{ ref: string; ticket_id: string }>(
    "SELECT encode(ticket_ref, 'hex') AS ref, ticket_id FROM tickets WHERE tenant_id = current_tenant_id() AND event_id = $1 AND ticket_ref = ANY ($2)",
    [event.eventId, [...refs.keys()].map((ref) => Buffer.from(ref, 'hex'))],
  );
  for (const { ref, ticket_id } of held.rows) {
    const wanted = refs.get(ref);
    refs.delete(ref);
    if (wanted !== undefined && wanted.ticketId !== ticket_id) {
      const at = given.findIndex(({ ticketId }) => ticketId === wanted.ticketId);
      unable.push({ at, why: `the code is the one of ticket ${ticket_id}: revoke that one by its id` });
    }
  }
  return { refs: [...refs.values()], unable };
}

async function notBuriedYet(client: DatabaseClient, eventId: string, refs: readonly Ref[]): Promise<Ref[]> {
  const before = await client.query<{ ref: string }>(
    "SELECT encode(ticket_ref, 'hex') AS ref FROM ticket_tombstones WHERE event_id = $1 AND reason = 'revoked' AND ticket_ref = ANY ($2)",
    [eventId, refs.map(({ ref }) => Buffer.from(ref, 'hex'))],
  );
  const known = new Set(before.rows.map(({ ref }) => ref));
  return refs.filter(({ ref }) => !known.has(ref));
}
