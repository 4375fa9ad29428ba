/** Applies an action of the ticketing side or an operator to one ticket: transfer, revoke, block, unblock, refund. */
import type { z } from 'zod';
import type { TicketAction as TicketActionSchema } from '../../contract/http.ts';
import type { TicketState } from '../../contract/manifest.ts';
import { recogniseCode, withoutMarks } from '../../rules/code.ts';
import type { DatabaseClient } from '../db/database.ts';
import { notACode, tooPlain } from './codes/code-floor.ts';
import { codeBits, MIN_CODE_BITS, ticketRef } from './codes/code-hash.ts';
import { bury, lockEvent, notifyGates, raiseVersion } from './write-tickets.ts';

export type TicketActionName = z.infer<typeof TicketActionSchema>;

export interface TicketAction {
  readonly ticketId: string;
  /** Needed where several events use the same id. */
  readonly eventId?: string | undefined;
  readonly action: TicketActionName;
  readonly actor: string;
  readonly reason: string;
  /** For transfer: the new holder's code; the old one is revoked. */
  readonly code?: string | undefined;
  readonly toUserId?: string | undefined;
}

export type ActionResult =
  | {
      readonly ok: true;
      readonly eventId: string;
      readonly status: TicketState;
      readonly blocked: boolean;
      readonly version: number;
      readonly changed: boolean;
    }
  | { readonly ok: false; readonly code: 'NO_SUCH_TICKET' | 'AMBIGUOUS_TICKET' | 'NOT_ALLOWED' | 'WEAK_CODE' | 'CODE_TAKEN'; readonly message: string };

interface Row {
  readonly ticket_ref: Buffer;
  readonly status: TicketState;
  readonly blocked: boolean;
}

/** Final states. */
const ENDED: ReadonlySet<TicketState> = new Set(['revoked', 'refunded', 'cancelled', 'expired']);
const TRANSFERABLE: ReadonlySet<TicketState> = new Set(['sold', 'minted', 'active', 'transferred']);

/** Applies the action in the caller's transaction. A repeat changes nothing, and no version. */
export async function applyAction(client: DatabaseClient, tenantId: string, action: TicketAction): Promise<ActionResult> {
  const { ticketId } = action;
  const found = await client.query<{ event_id: string }>(
    'SELECT event_id FROM tickets WHERE tenant_id = $1 AND ticket_id = $2 AND ($3::text IS NULL OR event_id = $3) LIMIT 2',
    [tenantId, ticketId, action.eventId ?? null],
  );
  if (found.rows.length === 0)
    return { ok: false, code: 'NO_SUCH_TICKET', message: `there is no ticket ${ticketId}${action.eventId === undefined ? '' : ` in ${action.eventId}`}` };
  if (found.rows.length > 1) return { ok: false, code: 'AMBIGUOUS_TICKET', message: `${ticketId} is a ticket of several events: say which with event_id` };
  const { event_id: eventId } = found.rows[0] as { event_id: string };
  const event = await lockEvent(client, eventId);
  const row = (
    await client.query<Row>('SELECT ticket_ref, status, blocked FROM tickets WHERE tenant_id = $1 AND event_id = $2 AND ticket_id = $3 FOR UPDATE', [
      tenantId,
      eventId,
      ticketId,
    ])
  ).rows[0];
  if (event === null || row === undefined) return { ok: false, code: 'NO_SUCH_TICKET', message: `there is no ticket ${ticketId} any more` };

  const next = nextOf(row, action.action);
  if (typeof next === 'string') return { ok: false, code: 'NOT_ALLOWED', message: `${ticketId} ${next}` };
  // A signed code is found by its ticket id: under another ticket it would make that bare id a code.
  if (action.action === 'transfer' && action.code !== undefined && recogniseCode(withoutMarks(action.code)).form === 'stile')
    return { ok: false, code: 'NOT_ALLOWED', message: 'a signed code belongs to one ticket id: revoke this ticket and issue a new one' };
  const ref = action.action === 'transfer' && action.code !== undefined ? ticketRef(event.salt, action.code) : row.ticket_ref;
  const newCode = !ref.equals(row.ticket_ref);
  if (newCode) {
    const problem = notACode(action.code as string) ?? tooPlain(action.code as string);
    if (problem !== null) return { ok: false, code: 'WEAK_CODE', message: `the new code ${problem.what}: ${problem.hint}` };
    if (codeBits(action.code as string) < MIN_CODE_BITS)
      return { ok: false, code: 'WEAK_CODE', message: `the new code has fewer than ${MIN_CODE_BITS} random bits: issue a longer one` };
    if ((await client.query('SELECT 1 FROM tickets WHERE tenant_id = $1 AND event_id = $2 AND ticket_ref = $3', [tenantId, eventId, ref])).rowCount > 0)
      return { ok: false, code: 'CODE_TAKEN', message: 'another ticket has this code: issue a new one' };
  }
  const changed = newCode || next.status !== row.status || next.blocked !== row.blocked;
  if (!changed && action.action !== 'transfer') return { ok: true, eventId, status: row.status, blocked: row.blocked, version: event.version, changed: false };

  if (newCode) {
    await bury(client, tenantId, event, [{ ticketId, ref: row.ticket_ref.toString('hex') }]);
    await client.query('DELETE FROM ticket_tombstones WHERE tenant_id = $1 AND event_id = $2 AND ticket_ref = $3', [tenantId, eventId, ref]);
  }
  await client.query("SELECT set_status_change_context($1, 'user', $2, $3)", [action.actor, action.reason, action.action]);
  // The staff at the gate sees the reason of a block.
  await client.query(
    'UPDATE tickets SET ticket_ref = $4, status = $5, blocked = $6, note = CASE WHEN $7 THEN $8 WHEN $9 THEN NULL ELSE note END, changed_version = $10, row_version = row_version + 1, updated_at = now() WHERE tenant_id = $1 AND event_id = $2 AND ticket_id = $3',
    [tenantId, eventId, ticketId, ref, next.status, next.blocked, action.action === 'block', action.reason, action.action === 'unblock', event.nextVersion],
  );
  await client.query('INSERT INTO ticket_actions (tenant_id, event_id, ticket_id, action, actor, reason, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)', [
    tenantId,
    eventId,
    ticketId,
    action.action,
    action.actor,
    action.reason,
    JSON.stringify({ from: row.status, to: next.status, new_code: newCode, ...(action.toUserId === undefined ? {} : { to_user_id: action.toUserId }) }),
  ]);
  await raiseVersion(client, event);
  await notifyGates(client, tenantId, eventId, false);
  return { ok: true, eventId, ...next, version: event.nextVersion, changed: true };
}

/** Returns the ticket's next state, or the cause of a refusal. */
function nextOf(row: Pick<Row, 'status' | 'blocked'>, action: TicketActionName): { readonly status: TicketState; readonly blocked: boolean } | string {
  const { status, blocked } = row;
  switch (action) {
    case 'block':
      return ENDED.has(status) ? `is ${status}: there is nothing to block` : { status, blocked: true };
    case 'unblock':
      return { status, blocked: false };
    case 'revoke':
      return ENDED.has(status) && status !== 'revoked' ? `is ${status} already` : { status: 'revoked', blocked };
    case 'refund':
      return status === 'refunded'
        ? { status, blocked }
        : status === 'cancelled' || status === 'available'
          ? `is ${status}: there is nothing to refund`
          : { status: 'refunded', blocked };
    case 'transfer':
      return TRANSFERABLE.has(status)
        ? blocked
          ? 'is blocked: unblock it first'
          : { status: 'transferred', blocked }
        : `is ${status}: only a ticket that is valid and unused can be transferred`;
  }
}
