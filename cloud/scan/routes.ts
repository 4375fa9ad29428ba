/** Serves scanners over HTTP: `POST /scan` decides one code online, `POST /offline/reconcile` records decisions made without the cloud. */
import { z } from 'zod';
import { PendingScansResponse, ReconcileResponse, ScanRequest, ScanResponse } from '../../contract/http.ts';
import { EventId } from '../../contract/ids.ts';
import { MAX_RECONCILE_SCANS } from '../../contract/limits.ts';
import type { VerifySignature } from '../../rules/signature-check.ts';
import type { Database, DatabaseClient } from '../db/database.ts';
import { type App, deviceOf, HttpProblem, operatorOf, UPLOAD_BYTES } from '../http/server.ts';
import { chooseScanEvent } from './choose-event.ts';
import { CodeNeededError, type ScanRights } from './facts.ts';
import { reconcileUpload, SCANS_AT_ONCE } from './offline.ts';
import { scanOnline } from './online.ts';
import { pendingScans } from './pending-scans.ts';

export interface ScanRouteOptions {
  readonly database: Database;
  readonly rights: ScanRights;
  readonly verify: VerifySignature;
}

/** As the forerunner's scanners send it; scans are read one by one, so that an invalid one is judged alone. */
const OfflineBody = z.looseObject({
  device_id: z.string().max(63).optional(),
  device_time: z.unknown().describe("what the scanner's own clock shows while it sends; by it the times of the scans are corrected").optional(),
  scans: z.array(z.unknown()).describe('{ticket_id, scanned_at, result: ALLOW | DENY, reason?, scan_count?, scan_id?, event_id?, direction?, units?}'),
});

export function registerScanRoutes(app: App, { database, rights, verify }: ScanRouteOptions): void {
  app.post(
    '/scan',
    {
      config: { who: 'device', unjudged: ['code'] },
      schema: {
        tags: ['scanners'],
        summary: 'The online scan: may this guest enter? Recorded at once; the same scan_id again gives the same answer',
        body: ScanRequest,
        response: { 200: ScanResponse },
      },
    },
    async (request, reply) => {
      const { tenantId, device } = deviceOf(request);
      const started = performance.now();
      const { device_id, event_id, scan_id, code, ticket_ref, direction, units } = request.body;
      checkDevice(device, device_id);
      if (!scan_id.isWellFormed() || scan_id.includes('\0')) throw new HttpProblem(400, 'BAD_REQUEST', 'scan_id: is not plain text');
      const seen = code === undefined || code === null ? { ticketRef: ticket_ref as string } : { code };
      const result = await database
        .withTenant(tenantId, async (client) => {
          await checkResend(client, device);
          const scan = { device, scanId: scan_id, seen, direction: direction ?? ('in' as const), units: units ?? undefined };
          const clock = { nowMs: Date.now, elapsedMs: () => performance.now() - started };
          if (event_id === undefined || event_id === null) {
            const chosen = await chooseScanEvent(client, { rights, verify }, { ...scan, nowMs: Date.now() });
            if (chosen === null) throw new HttpProblem(403, 'NOT_ASSIGNED', `${device} is assigned to no event: stile-cloud assign ${device} <event>`);
            return scanOnline(client, { rights, verify }, chosen.event, { ...scan, several: chosen.several }, clock);
          }
          const event = await rights.event(client, event_id);
          if (event === null) throw new HttpProblem(404, 'NO_SUCH_EVENT', `there is no event ${event_id}`);
          const assigned = await client.query('SELECT 1 FROM gate_assignments WHERE gate = $1 AND event_id = $2', [device, event_id]);
          if (assigned.rowCount === 0)
            throw new HttpProblem(403, 'NOT_ASSIGNED', `${device} is not assigned to ${event_id}: stile-cloud assign ${device} ${event_id}`);
          return scanOnline(client, { rights, verify }, event, scan, clock);
        })
        .catch(async (error: unknown) => {
          if (error instanceof ResendWantedError) await askToResend(database, tenantId, device);
          throw error instanceof CodeNeededError ? new HttpProblem(400, 'CODE_NEEDED', error.message) : error;
        });
      if (!result.ok)
        throw new HttpProblem(409, 'SCAN_ID_REUSED', `scan_id ${scan_id} was used for another scan of ${device}: give every scan an id of its own`);
      if (result.replayed) reply.header('idempotency-replayed', 'true');
      return result.answer;
    },
  );

  app.get(
    '/scans/pending',
    {
      config: { who: 'operator' },
      schema: {
        tags: ['operators'],
        summary: 'Scans and refusals of tickets that are not known, newest first: each is settled when its ticket appears',
        querystring: z.object({ event_id: EventId.optional() }),
        response: { 200: PendingScansResponse },
      },
    },
    async (request) => ({
      success: true as const,
      ...(await database.withTenant(operatorOf(request).tenantId, (client) => pendingScans(client, request.query.event_id ?? null))),
    }),
  );

  app.post(
    '/offline/reconcile',
    {
      bodyLimit: UPLOAD_BYTES,
      config: { who: 'device', unjudged: ['scans'] },
      schema: {
        tags: ['scanners'],
        summary: `What a scanner decided offline, at most ${MAX_RECONCILE_SCANS} scans, worked in order in pieces of ${SCANS_AT_ONCE}; sent again it changes nothing`,
        body: OfflineBody,
        response: { 200: ReconcileResponse },
      },
    },
    async (request) => {
      const { tenantId, device } = deviceOf(request);
      const { device_id, scans } = request.body;
      if (device_id === undefined || device_id === '') throw new HttpProblem(400, 'MISSING_DEVICE_ID', 'say which device scanned: device_id');
      checkDevice(device, device_id);
      if (scans.length > MAX_RECONCILE_SCANS)
        throw new HttpProblem(413, 'TOO_MANY_SCANS', `${scans.length} scans, at most ${MAX_RECONCILE_SCANS} in one request: send the rest in another`);
      await database
        .withTenant(tenantId, (client) => checkResend(client, device))
        .catch(async (error: unknown) => {
          if (error instanceof ResendWantedError) await askToResend(database, tenantId, device);
          throw error;
        });
      return reconcileUpload(database, tenantId, device, scans, { nowMs: Date.now(), deviceTime: request.body.device_time });
    },
  );
}

/** The database went back to an older state: the scanner must send again what it keeps. */
class ResendWantedError extends HttpProblem {
  constructor(since: Date) {
    super(410, 'RESEND_SINCE', `the cloud was restored from an older copy: send again every scan since ${since.toISOString()}, then repeat this request`);
  }
}

/** Throws a ResendWantedError, once for each scanner and life of the database. */
async function checkResend(client: DatabaseClient, device: string): Promise<void> {
  const { rows } = await client.query<{ since: Date | null }>('SELECT resend_wanted_of($1) AS since', [device]);
  const since = rows[0]?.since ?? null;
  if (since !== null) throw new ResendWantedError(since);
}

/** Records that a scanner was asked, so that its next request is taken. */
async function askToResend(database: Database, tenantId: string, device: string): Promise<void> {
  await database.withTenant(tenantId, (client) =>
    client.query(
      'UPDATE devices SET resend_asked = (SELECT life FROM database_lives WHERE ended_at IS NULL) WHERE tenant_id = current_tenant_id() AND name = $1',
      [device],
    ),
  );
}

/** Refuses a token for another device than its own, known or not. */
function checkDevice(own: string, named: string): void {
  if (named !== own) throw new HttpProblem(403, 'OTHER_DEVICE', `Device not found under this identity: this token is ${own}'s, not ${named}'s`);
}
