/** Serves the ledger over HTTP: rows for gates, lists and settlements for operators. */
import { z } from 'zod';
import {
  ConflictsResponse,
  OccupancyResponse,
  RefusalsResponse,
  SettleRequest,
  SiteLedgerQuery,
  type SiteLedgerResponse,
  UnsettledResponse,
} from '../../contract/http.ts';
import { Epoch, EventId, GateName, LedgerGateId, Seq, SiteId, TicketId } from '../../contract/ids.ts';
import { AnyVector } from '../../contract/references.ts';
import { endWarning } from '../../rules/validity.ts';
import type { Database } from '../db/database.ts';
import { type App, actorOf, HttpProblem, type Identity, operatorOf } from '../http/server.ts';
import { settle } from './cloud-ledger.ts';
import { conflicts, history, occupancy, refusals, siteLedger } from './queries.ts';
import { unsettled } from './unsettled.ts';

/** Age, in milliseconds, of the oldest listed refusal where no `since` is given. */
const DEFAULT_SINCE_MS = 24 * 3_600_000;

const VectorText = z
  .string()
  .max(64 * 1024)
  .optional()
  .transform((text, context) => {
    if (text === undefined || text === '') return {};
    try {
      const vector = AnyVector.safeParse(JSON.parse(text));
      if (vector.success) return vector.data;
    } catch {
      /* said below */
    }
    context.addIssue({ code: 'custom', message: 'is a vector in JSON, URL-encoded, such as {"arena/north-03":[1,17]}' });
    return z.NEVER;
  });
const Since = z.iso.datetime({ offset: true }).optional();

export function registerReconcileRoutes(app: App, { database }: { readonly database: Database }): void {
  app.get(
    '/sites/:site/ledger',
    {
      config: { who: 'any' },
      schema: {
        tags: ['gates'],
        summary: 'Every row of a site after a vector',
        params: z.object({ site: SiteId }),
        querystring: z.object({ after: VectorText, device_id: z.string().max(63).optional() }),
      },
    },
    async (request, reply) =>
      reply.type('application/json; charset=utf-8').send(await pageOf(database, request.identity, request.params.site, request.query.after)),
  );

  app.post(
    '/sites/:site/ledger/query',
    {
      config: { who: 'any' },
      schema: {
        tags: ['gates'],
        summary: 'Every row of a site after a vector that is too long for an address',
        params: z.object({ site: SiteId }),
        body: SiteLedgerQuery,
      },
    },
    async (request, reply) =>
      reply.type('application/json; charset=utf-8').send(await pageOf(database, request.identity, request.params.site, request.body.after)),
  );

  app.get(
    '/refusals',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['operators'],
        summary: 'Why guests were refused, newest first',
        querystring: z.object({ gate: GateName.optional(), since: Since }),
        response: { 200: RefusalsResponse },
      },
    },
    async (request) => {
      const since = new Date(request.query.since ?? Date.now() - DEFAULT_SINCE_MS);
      return {
        success: true as const,
        refusals: await database.withTenant(operatorOf(request).tenantId, (client) => refusals(client, request.query.gate ?? null, since)),
      };
    },
  );

  app.get(
    '/conflicts',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['operators'],
        summary: "Admissions beyond a ticket's right",
        querystring: z.object({ event_id: EventId.optional() }),
        response: { 200: ConflictsResponse },
      },
    },
    async (request) => ({
      success: true as const,
      conflicts: await database.withTenant(operatorOf(request).tenantId, (client) => conflicts(client, request.query.event_id ?? null)),
    }),
  );

  app.get(
    '/events/:id/occupancy',
    {
      config: { who: 'operator' },
      schema: { tags: ['operators'], summary: 'People inside, and how sure that is', params: z.object({ id: EventId }), response: { 200: OccupancyResponse } },
    },
    async (request) => {
      const { tenantId } = operatorOf(request);
      const { id } = request.params;
      return database.withTenant(tenantId, async (client) => {
        const [event] = (
          await client.query<{ starts_at: Date | null; ends_at: Date | null }>('SELECT starts_at, ends_at FROM events WHERE event_id = $1', [id])
        ).rows;
        if (event === undefined) throw new HttpProblem(404, 'NO_SUCH_EVENT', `there is no event ${id}`);
        const warning = endWarning({ startsAtMs: event.starts_at?.getTime() ?? null, endsAtMs: event.ends_at?.getTime() ?? null });
        return { success: true as const, ...(await occupancy(client, id)), ...(warning === null ? {} : { warnings: [`event ${id} ${warning}`] }) };
      });
    },
  );

  app.get(
    '/tickets/:id/history',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['operators'],
        summary: 'Everything that happened to a ticket',
        params: z.object({ id: TicketId }),
        querystring: z.object({ event_id: EventId.optional() }),
      },
    },
    async (request) => {
      const { tenantId } = operatorOf(request);
      const { id } = request.params;
      return database.withTenant(tenantId, async (client) => {
        const eventId = request.query.event_id ?? (await onlyEventOf(client, id));
        const found = await history(client, eventId, id);
        if (found === null) throw new HttpProblem(404, 'NO_SUCH_TICKET', `nobody knows a ticket ${id} of ${eventId}`);
        return {
          success: true as const,
          event_id: eventId,
          ticket_id: id,
          status: found.status,
          history: await withActions(client, eventId, id, found.history),
        };
      });
    },
  );

  app.get(
    '/unsettled',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['operators'],
        summary: 'Grants whose passage is not known, newest first: what `settle` is for',
        querystring: z.object({ event_id: EventId.optional() }),
        response: { 200: UnsettledResponse },
      },
    },
    async (request) => ({
      success: true as const,
      ...(await database.withTenant(operatorOf(request).tenantId, (client) => unsettled(client, request.query.event_id ?? null))),
    }),
  );

  app.post(
    '/grants/:site/:gate/:epoch/:seq/settle',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['operators'],
        summary: 'Settles a grant whose passage is not known; `force` overrules a measured one',
        params: z.object({ site: SiteId, gate: LedgerGateId, epoch: z.coerce.number().pipe(Epoch), seq: z.coerce.number().pipe(Seq) }),
        body: SettleRequest,
      },
    },
    async (request) => {
      const operator = operatorOf(request);
      const { site, gate, epoch, seq } = request.params;
      const settled = await database.withTenant(operator.tenantId, (client) =>
        settle(client, {
          of: [`${site}/${gate}`, epoch, seq],
          outcome: request.body.outcome,
          actor: actorOf(operator, request.body.actor),
          reason: request.body.reason,
          force: request.body.force ?? false,
        }),
      );
      if (!settled.ok) throw new HttpProblem(settled.code === 'NO_SUCH_GRANT' ? 404 : 409, settled.code, settled.message);
      return {
        success: true,
        of: [`${site}/${gate}`, epoch, seq],
        outcome: request.body.outcome,
        row: [settled.ledger, settled.epoch, settled.rows[0]?.seq ?? null],
      };
    },
  );
}

/** Returns one page of a site's ledgers, as JSON. */
async function pageOf(database: Database, identity: Identity | null, site: string, after: AnyVector): Promise<string> {
  if (identity?.kind === 'device' && !identity.device.startsWith(`${site}/`))
    throw new HttpProblem(403, 'OTHER_SITE', `${identity.device} reads the ledgers of its own site only`);
  const page = await database.withTenant(identity?.tenantId ?? '', (client) => siteLedger(client, site, after));
  return JSON.stringify({ success: true, ...page } satisfies z.infer<typeof SiteLedgerResponse>);
}

type Client = Parameters<typeof history>[0];

async function onlyEventOf(client: Client, ticketId: string): Promise<string> {
  const { rows } = await client.query<{ event_id: string }>(
    'SELECT event_id FROM tickets WHERE ticket_id = $1 UNION SELECT event_id FROM ticket_usage WHERE ticket_id = $1 LIMIT 2',
    [ticketId],
  );
  if (rows.length > 1) throw new HttpProblem(409, 'AMBIGUOUS_TICKET', `${ticketId} is a ticket of several events: say which with ?event_id=`);
  if (rows[0] === undefined) throw new HttpProblem(404, 'NO_SUCH_TICKET', `nobody knows a ticket ${ticketId}`);
  return rows[0].event_id;
}

/** Merges the ledgers' history with the actions of the ticketing side and operators, in the order of time. */
async function withActions(
  client: Client,
  eventId: string,
  ticketId: string,
  items: readonly { at: string; kind: string; gate: string | null; text: string }[],
) {
  const { rows } = await client.query<{ at: Date; action: string; actor: string | null; reason: string }>(
    'SELECT at, action, actor, reason FROM ticket_actions WHERE event_id = $1 AND ticket_id = $2 ORDER BY id DESC LIMIT 1000',
    [eventId, ticketId],
  );
  const actions = rows.map(({ at, action, actor, reason }) => ({
    at: at.toISOString(),
    kind: action,
    gate: null,
    text: `${action} by ${actor ?? 'system'}: ${reason}`,
  }));
  return [...items, ...actions].sort((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : 0));
}
