/**
 * A manifest, measured: from the tickets in PostgreSQL to a list that a gate decides by.
 *
 *   build     tickets → the ready-made SQLite file, kept in pieces; its size as it is and packed; the JSON of CONTRACT.md beside it
 *   install   at the gate: the ready-made file copied, hashed, counted, synced, switched to; against the same tickets imported from JSON Lines, each line
 *             checked by its schema as everything from outside is (checked), and without any check (bare)
 *   delta     what 100 changes cost to fetch with `since`, and as an overlay to publish
 *   304       the answer to a gate that has the newest already, over HTTP on one kept connection
 *
 *   node bench/manifest.ts [--tickets 100000] [--rounds 3]
 *
 * Medians of the rounds; both sides in one run, on one disk. Ids are UUIDs; a hundredth of the tickets was used.
 */
import { createReadStream, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { connectOwner, createDatabase } from '../cloud/db/database.ts';
import { migrate } from '../cloud/db/migrate.ts';
import { renewToken } from '../cloud/devices/assignment.ts';
import { createIdentify } from '../cloud/devices/identity.ts';
import { createHttp } from '../cloud/http/server.ts';
import { SILENT } from '../cloud/log.ts';
import { buildManifest, manifestRow, readEvent } from '../cloud/manifest/build.ts';
import { deltaManifest, wholeManifest } from '../cloud/manifest/json-manifest.ts';
import { overlayMessage, wantMessages } from '../cloud/manifest/messages.ts';
import { registerManifestRoutes } from '../cloud/manifest/routes.ts';
import { openSigner } from '../cloud/manifest/signing-key.ts';
import { createMetrics } from '../cloud/metrics.ts';
import { manifestUsage } from '../cloud/reconcile/usage.ts';
import { ManifestTicket, type WantMessage } from '../contract/manifest.ts';
import { stampAt } from '../daemon/decider/testing/store.ts';
import { openLedger } from '../daemon/store/ledger.ts';
import { openManifests } from '../daemon/store/manifest-store.ts';
import { buildManifestFile } from '../manifest-format/testing/build.ts';
import { createKeyring } from '../signing/keyring.ts';
import { makeVenue } from '../testkit/database.ts';
import { startPostgres } from '../testkit/postgres.ts';
import { quantile, table } from './table.ts';

const { values } = parseArgs({ options: { tickets: { type: 'string', default: '100000' }, rounds: { type: 'string', default: '3' } } });
const TICKETS = Number(values.tickets);
const ROUNDS = Number(values.rounds);
const CHANGES = 100;
const REQUESTS = 300;
const TTL_HOURS = 24;

const median = (list: readonly number[]): number => quantile(list, 0.5);
const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const ms = (time: number): string => (time < 10 ? time.toFixed(2) : time.toFixed(0));
async function timed<T>(work: () => Promise<T>): Promise<{ readonly ms: number; readonly value: T }> {
  const began = performance.now();
  const value = await work();
  return { ms: performance.now() - began, value };
}

const folder = mkdtempSync(join(tmpdir(), 'stile-bench-manifest-'));
const server = await startPostgres({ databaseUrl: undefined });
const rows: string[][] = [];
const say = (what: string, time: string, size = '', packed = '', ratio = '') => {
  rows.push([what, time, size, packed, ratio]);
  console.log(rows.at(-1)?.join('  '));
};
try {
  await migrate(server.url);
  const venue = await makeVenue(server.url, { tickets: 0, site: 'bench', gates: ['north'] });
  const gate = venue.gates[0] as string;
  await fill(server.url, venue.tenantId, venue.eventId);
  const database = createDatabase({ url: server.url, maxConnections: 6 });
  const { signer } = openSigner(join(folder, 'key.pem'), { create: true });
  const options = { database, readUsage: manifestUsage, keys: [signer.publicKey], ttlHours: TTL_HOURS, signer };
  const inTenant = database.withTenant.bind(null, venue.tenantId) as <T>(work: (client: Client) => Promise<T>) => Promise<T>;

  // Build.
  const builds: number[] = [];
  let bytes = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const built = await timed(() => buildManifest(options, venue.tenantId, venue.eventId, true));
    builds.push(built.ms);
    bytes = built.value?.sizeBytes ?? 0;
  }
  const file = join(folder, 'ready.sqlite');
  await fetchFile(file);
  const packed = gzipSync(readFileSync(file)).length;
  say('build: ready-made file', ms(median(builds)), mib(bytes), mib(packed), `${(bytes / TICKETS).toFixed(1)} bytes a ticket`);
  const event = await inTenant((client) => readEvent(client, venue.eventId));
  if (event === null) throw new Error('the event is gone');
  const json = await timed(() => database.readSnapshot(venue.tenantId, (client) => wholeManifest(client, options, event, Date.now())));
  if (json.value === null) say('build: JSON', 'refused: more than 200,000 tickets');
  else {
    const text = JSON.stringify(json.value);
    say('build: JSON', ms(json.ms), mib(Buffer.byteLength(text)), mib(gzipSync(text).length), `${(json.ms / median(builds)).toFixed(2)} × the file`);
  }

  // Install.
  const lines = join(folder, 'tickets.jsonl');
  await writeLines(lines);
  const installs: number[] = [];
  const checked: number[] = [];
  const bare: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    installs.push(await install(round));
    checked.push(await importLines(join(folder, `checked-${round}.sqlite`), (line) => ManifestTicket.parse(JSON.parse(line))));
    bare.push(await importLines(join(folder, `bare-${round}.sqlite`), (line) => JSON.parse(line) as ManifestTicket));
  }
  say('install: ready-made file', ms(median(installs)));
  say('install: JSON Lines, checked', ms(median(checked)), '', '', `${(median(checked) / median(installs)).toFixed(1)} × the file`);
  say('install: JSON Lines, bare', ms(median(bare)), '', '', `${(median(bare) / median(installs)).toFixed(1)} × the file`);

  // Delta.
  const before = event.version;
  await inTenant(async (client) => {
    const raised = await client.query<{ version: number }>('UPDATE events SET version = next_event_version(version) WHERE event_id = $1 RETURNING version', [
      venue.eventId,
    ]);
    await client.query(
      'UPDATE tickets SET blocked = true, changed_version = $2 WHERE event_id = $1 AND ticket_id IN (SELECT ticket_id FROM tickets WHERE event_id = $1 ORDER BY ticket_ref LIMIT $3)',
      [venue.eventId, raised.rows[0]?.version, CHANGES],
    );
  });
  const after = await inTenant((client) => readEvent(client, venue.eventId));
  if (after === null) throw new Error('the event is gone');
  const deltas: number[] = [];
  let delta = '';
  for (let round = 0; round < 10 * ROUNDS; round++) {
    const made = await timed(() => database.readSnapshot(venue.tenantId, (client) => deltaManifest(client, options, after, before, Date.now())));
    deltas.push(made.ms);
    delta = JSON.stringify(made.value);
  }
  const overlay = JSON.stringify(await inTenant((client) => overlayMessage(client, signer, venue.eventId, before, after.version)));
  const deltaBytes = Buffer.byteLength(delta);
  say(
    `delta of ${CHANGES}`,
    ms(median(deltas)),
    `${(deltaBytes / 1024).toFixed(1)} KiB`,
    `${(gzipSync(delta).length / 1024).toFixed(1)} KiB`,
    `1/${(bytes / deltaBytes).toFixed(0)} of the file`,
  );
  say(`overlay of ${CHANGES}`, '', `${(Buffer.byteLength(overlay) / 1024).toFixed(1)} KiB`, `${(gzipSync(overlay).length / 1024).toFixed(1)} KiB`);

  // From the last file, which is ROUNDS versions of the same by now.
  const anew = await timed(() => buildManifest(options, venue.tenantId, venue.eventId));
  if (anew.value?.from === null) throw new Error('the file was not made from the last one');
  say(`build: last file + ${CHANGES}`, ms(anew.ms), '', '', `1/${(median(builds) / anew.ms).toFixed(1)} of the whole`);

  // 304.
  const token = (await inTenant((client) => renewToken(client, gate))) as string;
  const app = await createHttp({
    log: SILENT,
    metrics: createMetrics(),
    version: '0',
    identify: createIdentify(database),
    readiness: async () => ({}),
    deviceNameHeader: null,
    trustedProxies: [],
    ratePerMinute: 10_000_000,
  });
  registerManifestRoutes(app, options);
  await app.listen({ host: '127.0.0.1', port: 0 });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const { port } = app.server.address() as AddressInfo;
  const get = (path: string, headers: Record<string, string>) =>
    new Promise<{ readonly status: number; readonly etag: string }>((resolve, reject) => {
      request({ port, host: '127.0.0.1', path, agent, headers: { authorization: `Bearer ${token}`, ...headers } }, (answer) => {
        answer.resume().on('end', () => resolve({ status: answer.statusCode ?? 0, etag: String(answer.headers.etag) }));
      })
        .on('error', reject)
        .end();
    });
  for (const [what, query, accept] of [
    ['304: file', '', 'application/vnd.sqlite3'] as const,
    ['304: delta', `&since=${before}`, 'application/json'] as const,
    ...(json.value === null ? [] : [['304: JSON', '', 'application/json'] as const]),
  ]) {
    const path = `/offline/manifest/${venue.eventId}?device_id=${encodeURIComponent(gate)}${query}`;
    const { etag } = await get(path, { accept });
    const times: number[] = [];
    for (let n = 0; n < REQUESTS; n++) {
      const answer = await timed(() => get(path, { accept, 'if-none-match': etag }));
      if (answer.value.status !== 304) throw new Error(`${what}: ${answer.value.status}`);
      times.push(answer.ms);
    }
    say(what, `${ms(median(times))} (p99 ${ms(quantile(times, 0.99))})`);
  }
  agent.destroy();
  await app.close();
  console.log(`\n${TICKETS} tickets, medians of ${ROUNDS} rounds, load ${loadavg()[0]?.toFixed(1)}\n`);
  console.log(table(['', 'ms', 'bytes', 'packed', ''], rows));
  await database.close();

  type Client = Parameters<Parameters<typeof database.withTenant>[1]>[0];

  async function fetchFile(path: string): Promise<void> {
    const handle = await open(path, 'w');
    await inTenant(async (client) => {
      const row = await manifestRow(client, venue.eventId);
      for (let piece = 0; ; piece++) {
        const found = await client.query<{ bytes: Buffer }>('SELECT bytes FROM manifest_pieces WHERE event_id = $1 AND version = $2 AND piece = $3', [
          venue.eventId,
          row?.version,
          piece,
        ]);
        if (found.rows[0] === undefined) return;
        await handle.write(found.rows[0].bytes);
      }
    });
    // What is measured next shall not wait for this.
    await handle.sync();
    await handle.close();
  }

  async function writeLines(path: string): Promise<void> {
    const handle = await open(path, 'w');
    await inTenant(async (client) => {
      await client.query(`DECLARE lines NO SCROLL CURSOR FOR SELECT json_build_object('ticket_id', ticket_id, 'ticket_ref', encode(ticket_ref, 'hex'), 'tier', tier, 'zone', zone, 'status', 'valid',
        'max_scans', max_scans, 'units', units, 'valid_from', NULL, 'valid_until', NULL, 'vip', vip, 'note', note)::text AS line FROM tickets WHERE event_id = '${venue.eventId}'`);
      for (;;) {
        const part = await client.query<{ line: string }>('FETCH 5000 FROM lines');
        if (part.rows.length === 0) return;
        await handle.write(`${part.rows.map(({ line }) => line).join('\n')}\n`);
      }
    });
    // What is measured next shall not wait for this.
    await handle.sync();
    await handle.close();
  }

  /** A gate without any list gets this one: until it is switched to. */
  async function install(round: number): Promise<number> {
    const home = join(folder, `gate-${round}`);
    const keyring = createKeyring([signer.publicKey]);
    const want = (await inTenant((client) => wantMessages(client, { signer, publicUrl: 'https://cloud.example' }, [gate]))).get(gate) as WantMessage;
    const ledger = openLedger({
      path: join(folder, `ledger-${round}.sqlite`),
      name: gate,
      stamp: stampAt(1),
    });
    const manifests = openManifests({
      ledger,
      folder: home,
      checks: { verify: (payload, carried) => keyring.verifyPayload(payload, carried, null), nowMs: () => Date.now(), policyProblem: () => null },
      release: null,
      onUnusable: (_event, message) => console.error(message),
      onSwitched: () => {},
    });
    const done = await timed(() => manifests.install(file, want.events[0]));
    if (!done.value.ok) throw new Error(done.value.message);
    manifests.close();
    ledger.close();
    return done.ms;
  }

  async function importLines(path: string, read: (line: string) => ManifestTicket): Promise<number> {
    const done = await timed(async () => {
      const tickets: ManifestTicket[] = [];
      for await (const line of createInterface({ input: createReadStream(lines) })) tickets.push(read(line));
      return buildManifestFile(path, {
        head: {
          schema: 1,
          event_id: venue.eventId,
          version: 1,
          generated_at: new Date().toISOString(),
          expires_at: new Date().toISOString(),
          name: 'Bench',
          starts_at: null,
          ends_at: null,
          time_zone: 'UTC',
          salt: venue.salt,
          policies: {},
          keys: [],
          revoked: { version: 0, refs: [] },
          upto: {},
        },
        tickets,
      });
    });
    if (done.value.ticketCount !== TICKETS) throw new Error(`${done.value.ticketCount} tickets were imported`);
    rmSync(path);
    return done.ms;
  }
} finally {
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
}

/** Tickets straight into their tables, past the triggers: how they came there is another benchmark. */
async function fill(url: string, tenantId: string, eventId: string): Promise<void> {
  const owner = await connectOwner(url);
  await owner.query("SET session_replication_role = 'replica'");
  await owner.query(
    `INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier, zone)
     SELECT $1, $2, gen_random_uuid()::text, substring(sha256(convert_to(n::text || random()::text, 'UTF8')) FOR 16), 'standard', CASE n % 3 WHEN 0 THEN 'A' WHEN 1 THEN 'B' END FROM generate_series(1, $3::integer) AS n`,
    [tenantId, eventId, TICKETS],
  );
  await owner.query("INSERT INTO ledgers (tenant_id, gate, site_id) VALUES ($1, 'bench/north', 'bench')", [tenantId]);
  await owner.query(
    "INSERT INTO ledger_epochs (tenant_id, gate, epoch, stored, upto_seq) VALUES ($1, 'bench/north', 1, int8multirange(int8range(1, $2::bigint, '[]')), $2)",
    [tenantId, Math.ceil(TICKETS / 100)],
  );
  await owner.query(
    `INSERT INTO admissions (tenant_id, gate, epoch, seq, event_id, ticket_id, granted, ticket_ref, direction, units, at_low, at, at_high, placed, units_used, outcome, verdict)
     SELECT tenant_id, 'bench/north', 1, row_number() OVER (), event_id, ticket_id, true, ticket_ref, 'in', 1, now(), now(), now(), true, 1, 'passed', 'winner' FROM (SELECT * FROM tickets WHERE tenant_id = $1 LIMIT $2) AS t`,
    [tenantId, Math.ceil(TICKETS / 100)],
  );
  await owner.query('ANALYZE tickets');
  await owner.close();
}
