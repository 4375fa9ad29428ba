/** Serves the ticketing side's writes over HTTP: `PUT /tickets` and actions on one ticket. */
import { z } from 'zod';
import { TicketAction, TicketActionRequest, TicketsWrite } from '../../contract/http.ts';
import { ActorId, EventId, TicketId } from '../../contract/ids.ts';
import type { Database, DatabaseClient } from '../db/database.ts';
import { type App, actorOf, HttpProblem, type HttpReply, operatorOf, UPLOAD_BYTES } from '../http/server.ts';
import { applyAction } from './actions.ts';
import { notACode, tooPlain } from './codes/code-floor.ts';
import { codeBits, MIN_CODE_BITS } from './codes/code-hash.ts';
import { type Answer, once } from './idempotency.ts';
import { readTicketFields, type TicketFields } from './ticket-fields.ts';
import { lockEvent, notifyGates, writeTickets } from './write-tickets.ts';

const Headers = z.looseObject({ 'idempotency-key': z.string().min(1).max(128).optional() });
const STATUS = { NO_SUCH_TICKET: 404, AMBIGUOUS_TICKET: 409, NOT_ALLOWED: 409, WEAK_CODE: 400, CODE_TAKEN: 409 } as const;
/** Problems that one answer names; further ones are left out. */
const MAX_NAMED = 20;

export function registerTicketRoutes(app: App, { database }: { readonly database: Database }): void {
  app.put(
    '/tickets',
    {
      bodyLimit: UPLOAD_BYTES,
      config: { who: 'operator' },
      schema: { tags: ['ticketing'], summary: 'Makes or changes tickets, all or none; codes are hashed on arrival', headers: Headers, body: TicketsWrite },
    },
    async (request, reply) => {
      const { tenantId } = operatorOf(request);
      const tickets = request.body.tickets.map((ticket, index) => ({ eventId: ticket.event_id, fields: checked(ticket, index) }));
      return answered(
        reply,
        await database.withTenant(tenantId, (client) =>
          once(client, tenantId, { key: request.headers['idempotency-key'], operation: 'PUT /tickets', body: request.body }, () =>
            putTickets(client, tenantId, tickets),
          ),
        ),
      );
    },
  );

  app.post(
    '/tickets/:id/:action',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['ticketing'],
        summary: 'Transfers, revokes, blocks, unblocks or refunds a ticket',
        params: z.object({ id: TicketId, action: TicketAction }),
        headers: Headers,
        body: TicketActionRequest.safeExtend({ event_id: EventId.optional(), actor: ActorId.optional() }),
      },
    },
    async (request, reply) => {
      const operator = operatorOf(request);
      const { id, action } = request.params;
      const { reason, code, to_user_id, event_id } = request.body;
      const actor = actorOf(operator, request.body.actor);
      return answered(
        reply,
        await database.withTenant(operator.tenantId, (client) =>
          once(
            client,
            operator.tenantId,
            { key: request.headers['idempotency-key'], operation: `POST /tickets/${id}/${action}`, body: request.body },
            async () => {
              const result = await applyAction(client, operator.tenantId, {
                ticketId: id,
                eventId: event_id,
                action,
                actor,
                reason,
                code,
                toUserId: to_user_id,
              });
              if (!result.ok) throw new HttpProblem(STATUS[result.code], result.code, result.message);
              return {
                status: 200,
                body: {
                  success: true,
                  ticket_id: id,
                  event_id: result.eventId,
                  status: result.status,
                  blocked: result.blocked,
                  version: result.version,
                  changed: result.changed,
                },
              };
            },
          ),
        ),
      );
    },
  );
}

function checked(ticket: Readonly<Record<string, unknown>> & { readonly event_id: string }, index: number): TicketFields {
  const read = readTicketFields(ticket, ticket.event_id);
  if (!read.ok)
    throw new HttpProblem(400, 'BAD_REQUEST', read.problems.map(({ field, what, hint }) => `tickets.${index}.${field}: ${what}: ${hint}`).join('; '));
  const { code } = read.ticket;
  const problem = code === undefined ? null : (notACode(code) ?? tooPlain(code));
  if (problem !== null) throw new HttpProblem(400, 'WEAK_CODE', `tickets.${index}.code: ${problem.what}: ${problem.hint}`);
  if (code !== undefined && codeBits(code) < MIN_CODE_BITS)
    throw new HttpProblem(400, 'WEAK_CODE', `tickets.${index}.code: fewer than ${MIN_CODE_BITS} random bits: issue longer random codes`);
  return read.ticket;
}

/** Returns events in the order of their ids, so that two such writes never deadlock. */
async function putTickets(
  client: DatabaseClient,
  tenantId: string,
  tickets: readonly { readonly eventId: string; readonly fields: TicketFields }[],
): Promise<Answer> {
  const totals = { created: 0, updated: 0, unchanged: 0 };
  const versions: Record<string, number> = {};
  const groups = [
    ...Map.groupBy(
      tickets.map((ticket, index) => ({ ...ticket, index })),
      ({ eventId }) => eventId,
    ),
  ].sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [eventId, group] of groups) {
    const event = await lockEvent(client, eventId);
    if (event === null) throw new HttpProblem(404, 'NO_SUCH_EVENT', `there is no event ${eventId}: PUT /events/${eventId} first`);
    const result = await writeTickets(
      client,
      tenantId,
      event,
      group.map(({ fields }) => fields),
    );
    if (result.problems.size > 0) {
      const named = [...result.problems].slice(0, MAX_NAMED).map(([at, { field, what, hint }]) => `tickets.${group[at]?.index}.${field}: ${what}: ${hint}`);
      throw new HttpProblem(409, 'CONFLICT', named.join('; '));
    }
    const changed = result.created + result.updated > 0;
    if (changed) await notifyGates(client, tenantId, eventId, false);
    versions[eventId] = changed ? event.nextVersion : event.version;
    totals.created += result.created;
    totals.updated += result.updated;
    totals.unchanged += result.unchanged;
  }
  return { status: 200, body: { success: true, ...totals, versions } };
}

function answered(reply: HttpReply, result: Awaited<ReturnType<typeof once>>) {
  if (result.kind === 'other_body')
    throw new HttpProblem(409, 'IDEMPOTENCY_KEY_REUSED', 'this Idempotency-Key was used with another body: use a new key for a new write');
  if (result.kind === 'replayed') reply.header('idempotency-replayed', 'true');
  return reply.code(result.answer.status).send(result.answer.body);
}
