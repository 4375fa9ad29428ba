/**
 * Scanners beside an upload: while one scanner uploads what it decided offline, another asks `POST /scan`, guest by guest, over HTTP and one kept
 * connection. First alone, then beside the upload, in one run.
 *
 *   node bench/scans.ts [--upload 10000] [--scans 300]
 *
 * Exit code 1: the p99 beside the upload is more than 3 times the one alone (T7).
 */
import { Agent, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { renewToken } from '../cloud/devices/assignment.ts';
import { eventRights, ticketRight } from '../cloud/manifest/current-rights.ts';
import { registerScanRoutes } from '../cloud/scan/routes.ts';
import { createVerify } from '../signing/verify.ts';
import { freshDatabase, makeVenue, testPostgres } from '../testkit/database.ts';
import { createTestHttp } from '../testkit/http.ts';
import { quantile, table } from './table.ts';

const { values } = parseArgs({ options: { upload: { type: 'string', default: '10000' }, scans: { type: 'string', default: '300' } } });
const [UPLOAD, SCANS] = [Number(values.upload), Number(values.scans)];
/** Pause between two guests, in ms: a scanner in a hand is not a loop. */
const PAUSE_MS = 20;
/** The largest ratio of the two p99s. */
const MAX_RATIO = 3;

const fresh = await freshDatabase();
const venue = await makeVenue(fresh.url, { tickets: 2 * SCANS, gates: ['phone-1', 'phone-2'] });
const [north, south] = venue.gates as [string, string];
const app = await createTestHttp(fresh.database, { ratePerMinute: 1_000_000 });
registerScanRoutes(app, { database: fresh.database, rights: { event: eventRights, ticket: ticketRight }, verify: createVerify() });
await app.listen({ host: '127.0.0.1', port: 0 });
const { port } = app.server.address() as AddressInfo;
const tokens = await fresh.database.withTenant(venue.tenantId, async (client) => {
  await client.query(
    "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier) SELECT current_tenant_id(), $1, 'U-' || n, decode(md5('U-' || n), 'hex'), 'standard' FROM generate_series(1, $2::integer) AS n",
    [venue.eventId, UPLOAD],
  );
  return [await renewToken(client, north), await renewToken(client, south)];
});

const agent = new Agent({ keepAlive: true });
function post(path: string, phone: 0 | 1, body: object): Promise<{ readonly ms: number; readonly answer: Record<string, unknown> }> {
  const began = performance.now();
  const text = JSON.stringify({ device_id: venue.gates[phone], ...body });
  return new Promise((resolve, reject) => {
    const asked = request(
      {
        ...{ host: '127.0.0.1', port, path, method: 'POST', agent },
        headers: { authorization: `Bearer ${tokens[phone]}`, 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) },
      },
      (response) => {
        const parts: Buffer[] = [];
        response.on('data', (part: Buffer) => parts.push(part));
        response.on('end', () => resolve({ ms: performance.now() - began, answer: JSON.parse(Buffer.concat(parts).toString()) as Record<string, unknown> }));
      },
    );
    asked.on('error', reject);
    asked.end(text);
  });
}

/** Admits guests one after the other until `done`, at least one; returns the times in ms. */
async function guests(from: number, done: (count: number) => boolean): Promise<number[]> {
  const times: number[] = [];
  do {
    const n = from + times.length;
    const { ms, answer } = await post('/scan', 1, { event_id: venue.eventId, scan_id: `s-${n}`, code: venue.tickets[n % venue.tickets.length]?.code });
    if (answer['success'] !== true) throw new Error(`a scan was not answered: ${JSON.stringify(answer)}`);
    times.push(ms);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  } while (!done(times.length));
  return times;
}

let ratio: number;
try {
  await guests(0, (count) => count >= 20);
  const alone = await guests(20, (count) => count >= SCANS);
  const now = Date.now();
  let uploaded: number | null = null;
  const upload = post('/offline/reconcile', 0, {
    device_time: new Date(now).toISOString(),
    scans: Array.from({ length: UPLOAD }, (_, n) => ({
      ticket_id: `U-${n + 1}`,
      event_id: venue.eventId,
      scanned_at: new Date(now - UPLOAD + n).toISOString(),
      result: 'ALLOW',
    })),
  }).then(({ ms, answer }) => {
    uploaded = ms;
    return answer;
  });
  const beside = await guests(20 + SCANS, () => uploaded !== null);
  const answer = await upload;
  if (answer['reconciled'] !== UPLOAD) throw new Error(`the upload was not taken: ${JSON.stringify(answer).slice(0, 300)}`);
  const line = (name: string, times: readonly number[]) => [name, String(times.length), ...[0.5, 0.99, 1].map((q) => quantile(times, q).toFixed(1))];
  ratio = quantile(beside, 0.99) / quantile(alone, 0.99);
  console.log(table(['POST /scan', 'scans', 'p50 ms', 'p99 ms', 'longest ms'], [line('alone', alone), line(`beside an upload of ${UPLOAD}`, beside)]));
  console.log(
    `the upload took ${((uploaded as unknown as number) / 1000).toFixed(1)} s; p99 × ${ratio.toFixed(2)} (at most ${MAX_RATIO}); load ${loadavg()[0]?.toFixed(1)}`,
  );
} finally {
  agent.destroy();
  await app.close();
  await fresh.drop();
  await (await testPostgres()).stop();
}
process.exitCode = ratio > MAX_RATIO ? 1 : 0;
