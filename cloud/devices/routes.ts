/** Serves gates over HTTP: assignment, status, requests. */
import { z } from 'zod';
import { AssignmentWrite, ClearAlertBody, GateRequestBody, GateRequestCommand, GatesResponse } from '../../contract/http.ts';
import { GateId, SiteId } from '../../contract/ids.ts';
import { AlertId } from '../../contract/messages.ts';
import type { Database } from '../db/database.ts';
import { type App, actorOf, HttpProblem, LIST_BYTES, operatorOf } from '../http/server.ts';
import { assignGate, ensureDevice, type Refusal, republishWant } from './assignment.ts';
import { clearAlert } from './clear-alert.ts';
import { listGates, MAX_GATES_ON_PAGE } from './gate-list.ts';
import type { GateRequests } from './requests.ts';

const STATUS: Readonly<Record<Refusal['code'], number>> = {
  BAD_REQUEST: 400,
  NOT_FOUND: 404,
  SITE_TAKEN: 409,
  OTHER_SITE: 409,
  UNACKNOWLEDGED_ROWS: 409,
  REVOKED: 409,
};
const GateParams = z.object({ site: SiteId, gate: GateId });

export interface DeviceRouteOptions {
  readonly database: Database;
  /** null: no broker was configured. */
  readonly requests: GateRequests | null;
}

/** Throws the refusal, so that its transaction leaves nothing behind. */
function taken<T extends { readonly ok: boolean }>(result: T): Extract<T, { readonly ok: true }> {
  const refused = result as T | Refusal;
  if ('code' in refused) throw new HttpProblem(STATUS[refused.code], refused.code, refused.message);
  return result as Extract<T, { readonly ok: true }>;
}

export function registerDeviceRoutes(app: App, { database, requests }: DeviceRouteOptions): void {
  app.get(
    '/gates',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['operators'],
        summary: 'Every gate, worst first; `total` gates on pages, the next by `cursor`',
        querystring: z.object({
          site: SiteId.optional(),
          cursor: z.string().max(80).optional(),
          limit: z.coerce.number().int().min(1).max(MAX_GATES_ON_PAGE).optional(),
        }),
        response: { 200: GatesResponse },
      },
    },
    async (request) => {
      const { tenantId } = operatorOf(request);
      return { success: true as const, ...(await database.withTenant(tenantId, (client) => listGates(client, request.query))) };
    },
  );

  app.put(
    '/gates/:site/:gate/assignment',
    {
      bodyLimit: LIST_BYTES,
      config: { who: 'operator' },
      schema: { tags: ['operators'], summary: 'Which events a gate is for, and what it serves', params: GateParams, body: AssignmentWrite },
    },
    async (request) => {
      const { tenantId } = operatorOf(request);
      const gate = `${request.params.site}/${request.params.gate}`;
      const { event_ids, zones, tiers } = request.body;
      const result = await database.withTenant(tenantId, async (client) => {
        const device = taken(await ensureDevice(client, tenantId, gate));
        const assigned = taken(await assignGate(client, tenantId, gate, { eventIds: [...new Set(event_ids)], zones, tiers }));
        return { ...assigned, created: device.created };
      });
      return {
        success: true,
        gate,
        event_ids: [...new Set(event_ids)],
        added: result.added,
        removed: result.removed,
        created: result.created,
        ...(result.warnings.length > 0 ? { warnings: result.warnings } : {}),
      };
    },
  );

  app.post(
    '/gates/:site/:gate/alerts/:alert/clear',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['operators'],
        summary: 'Clears an alert that the cloud raised itself; who and why is kept',
        params: GateParams.extend({ alert: AlertId }),
        body: ClearAlertBody,
      },
    },
    async (request) => {
      const operator = operatorOf(request);
      const gate = `${request.params.site}/${request.params.gate}`;
      const actor = actorOf(operator, request.body.actor);
      const cleared = await database.withTenant(operator.tenantId, (client) =>
        clearAlert(client, { gate, alert: request.params.alert, actor, reason: request.body.reason }),
      );
      if (!cleared)
        throw new HttpProblem(
          404,
          'NOT_FOUND',
          `the cloud has raised no alert ${request.params.alert} of ${gate}: one that the gate raised is the gate's to clear`,
        );
      return { success: true, gate, alert: request.params.alert };
    },
  );

  app.post(
    '/gates/:site/:gate/requests/:command',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['operators'],
        summary: 'Sends a gate a command and waits for its answer',
        params: GateParams.extend({ command: GateRequestCommand }),
        body: GateRequestBody,
      },
    },
    async (request) => {
      const operator = operatorOf(request);
      const gate = `${request.params.site}/${request.params.gate}`;
      const actor = actorOf(operator, request.body.actor);
      const known = await database.withTenant(operator.tenantId, (client) =>
        client.query('SELECT 1 FROM devices WHERE name = $1 AND revoked_at IS NULL', [gate]),
      );
      if (known.rowCount === 0) throw new HttpProblem(404, 'NOT_FOUND', `there is no gate ${gate}`);
      if (requests === null) throw new HttpProblem(503, 'NO_BROKER', 'this service has no broker: set STILE_MQTT_URL');
      if (request.params.command === 'refresh') await database.withTenant(operator.tenantId, (client) => republishWant(client, operator.tenantId, gate));
      const outcome = await requests.send(gate, request.params.command, { actor, reason: request.body.reason, args: request.body.args });
      switch (outcome.kind) {
        case 'answered':
          return { success: true, gate, transaction: outcome.transaction, response: outcome.response };
        case 'malformed':
          throw new HttpProblem(400, 'BAD_REQUEST', outcome.message);
        case 'unsent':
          throw new HttpProblem(503, 'TRY_AGAIN', `the broker could not take the request: ${outcome.message}`, { 'retry-after': '2' });
        case 'unanswered':
          throw new HttpProblem(504, 'NO_ANSWER', `${gate} did not answer within ${outcome.waitedMs / 1000} s: see GET /gates whether it is online`);
      }
    },
  );
}
