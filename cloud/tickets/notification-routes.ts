/**
 * Serves messages for people (a transfer offered, a place on the waiting list) to the program that delivers them: it leases some, delivers them,
 * and reports the outcome. Unreported ones are due again.
 */
import { z } from 'zod';
import type { Database } from '../db/database.ts';
import { type App, LIST_BYTES, operatorOf } from '../http/server.ts';

const MAX_AT_ONCE = 1_000;
/** Lease of notifications, in seconds; afterwards they are due again. */
const LEASE_S = { default: 60, max: 3_600 };

const Taken = z.object({
  success: z.literal(true),
  notifications: z.array(
    z.object({
      id: z.int(),
      kind: z.string(),
      user_id: z.string().nullable(),
      event_id: z.string().nullable(),
      ticket_id: z.string().nullable(),
      detail: z.record(z.string(), z.unknown()),
      attempts: z.int(),
      created_at: z.string(),
    }),
  ),
});

export function registerNotificationRoutes(app: App, { database }: { readonly database: Database }): void {
  app.post(
    '/notifications/take',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['ticketing'],
        summary: 'Leases notifications for people, the oldest first',
        body: z.looseObject({
          at_most: z.int().min(1).max(MAX_AT_ONCE).default(100),
          lease_s: z.int().min(1).max(LEASE_S.max).default(LEASE_S.default),
        }),
        response: { 200: Taken },
      },
    },
    async (request) => {
      const { tenantId } = operatorOf(request);
      const { rows } = await database.withTenant(tenantId, (client) =>
        client.query<Omit<z.infer<typeof Taken>['notifications'][number], 'created_at'> & { created_at: Date }>(
          'SELECT id, kind, user_id, event_id, ticket_id, detail, attempts, created_at FROM take_ticket_notifications($1, $2) ORDER BY created_at, id',
          [request.body.at_most, request.body.lease_s],
        ),
      );
      return { success: true as const, notifications: rows.map((row) => ({ ...row, created_at: row.created_at.toISOString() })) };
    },
  );

  app.post(
    '/notifications/settle',
    {
      bodyLimit: LIST_BYTES,
      config: { who: 'operator' },
      schema: {
        tags: ['ticketing'],
        summary: 'Reports leased notifications as delivered, or (failure) why not: then they are due again later',
        body: z.looseObject({ ids: z.array(z.int().min(1)).min(1).max(MAX_AT_ONCE), failure: z.string().min(1).max(500).optional() }),
        response: { 200: z.object({ success: z.literal(true), settled: z.int() }) },
      },
    },
    async (request) => {
      const { tenantId } = operatorOf(request);
      const { rows } = await database.withTenant(tenantId, (client) =>
        client.query<{ n: number }>('SELECT settle_ticket_notifications($1, $2) AS n', [request.body.ids, request.body.failure ?? null]),
      );
      return { success: true as const, settled: rows[0]?.n ?? 0 };
    },
  );
}
