import { createPublicKey, generateKeyPairSync, randomBytes, randomUUID, verify } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import BetterSqlite from 'better-sqlite3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { signedText } from '../../contract/hash-chain.ts';
import { type OverlayMessage, TICKET_RIGHTS, TICKET_STATES, type WantMessage } from '../../contract/manifest.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { SILENT } from '../log.ts';
import { reconcile } from '../reconcile/reconcile.ts';
import { manifestUsage } from '../reconcile/usage.ts';
import { applyAction } from '../tickets/actions.ts';
import { readTicketFields, type TicketFields } from '../tickets/ticket-fields.ts';
import { lockEvent, notifyGates, writeTickets } from '../tickets/write-tickets.ts';
import { buildManifest, readEvent } from './build.ts';
import { createOutbox, type Outbox, type Publish } from './change-publisher.ts';
import { lookUp } from './lookup.ts';
import { overlayChain } from './messages.ts';
import { signerOf } from './signing-key.ts';
import { rightOf } from './ticket-rights.ts';

let fresh: FreshDatabase;
const folder = mkdtempSync(join(tmpdir(), 'stile-outbox-'));
const signer = signerOf(generateKeyPairSync('ed25519').privateKey);
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  await fresh.drop();
});

const build = () => ({ database: fresh.database, readUsage: manifestUsage, keys: [signer.publicKey], ttlHours: 24 });
const outbox = (publish: Publish): Outbox =>
  createOutbox({
    ...build(),
    signer,
    publicUrl: 'https://cloud.example',
    publish,
    canPublish: () => true,
    listen: async () => ({ close: async () => {} }),
    log: SILENT,
  });
const inVenue = <T>(venue: Venue, work: Parameters<typeof fresh.database.withTenant<T>>[1]) => fresh.database.withTenant(venue.tenantId, work);
async function write(venue: Venue, rows: readonly Record<string, unknown>[]): Promise<void> {
  await inVenue(venue, async (client) => {
    const event = await lockEvent(client, venue.eventId);
    const fields = rows.map((row) => {
      const read = readTicketFields(row, venue.eventId);
      if (!read.ok) throw new Error(JSON.stringify(read.problems));
      return read.ticket as TicketFields;
    });
    const result = await writeTickets(client, venue.tenantId, event as NonNullable<typeof event>, fields);
    expect(result.problems.size).toBe(0);
    await notifyGates(client, venue.tenantId, venue.eventId, false);
  });
}
async function fileOf(venue: Venue, whole = false): Promise<BetterSqlite.Database> {
  await buildManifest(build(), venue.tenantId, venue.eventId, whole);
  return newestFile(venue);
}
async function newestFile(venue: Venue): Promise<BetterSqlite.Database> {
  const { rows } = await inVenue(venue, (client) =>
    client.query<{ bytes: Buffer }>('SELECT bytes FROM manifest_pieces WHERE version = (SELECT max(version) FROM manifests) ORDER BY piece'),
  );
  const path = join(folder, `${randomUUID()}.sqlite`);
  writeFileSync(path, Buffer.concat(rows.map(({ bytes }) => bytes)));
  return new BetterSqlite(path, { readonly: true });
}
const code = () => randomBytes(16).toString('base64url');

test('a file holds what each ticket may, and nothing that nobody holds', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 0 });
  const uuid = randomUUID();
  await write(venue, [
    ...TICKET_STATES.map((status) => ({ ticket_id: `S-${status}`, code: code(), status })),
    { ticket_id: 'S-blocked', code: code(), blocked: true, note: 'ask at the desk' },
    { ticket_id: 'S-unapproved', code: code(), approved: false },
    {
      ticket_id: uuid,
      code: code(),
      tier: 'vip',
      zone: 'A',
      units: 4,
      max_scans: 2,
      vip: true,
      valid_from: '2026-07-01T18:00:00Z',
      valid_until: '2026-07-02T18:00:00Z',
    },
  ]);
  const file = await fileOf(venue);
  const rows = file.prepare<[], { id: string | Buffer; status: number; note: string | null }>('SELECT id, status, note FROM tickets').all();
  const rights = Object.fromEntries(rows.filter(({ id }) => typeof id === 'string').map(({ id, status }) => [id, TICKET_RIGHTS[status]]));
  expect(rights).toEqual({
    'S-reserved': 'unpaid',
    'S-sold': 'valid',
    'S-minted': 'valid',
    'S-active': 'valid',
    'S-transferred': 'valid',
    'S-checked_in': 'valid',
    'S-used': 'valid',
    'S-revoked': 'revoked',
    'S-refunded': 'canceled',
    'S-expired': 'expired',
    'S-cancelled': 'canceled',
    'S-blocked': 'blocked',
    'S-unapproved': 'unapproved',
  });
  expect(
    file.prepare('SELECT t.*, tiers.name AS tier_name, zones.name AS zone_name FROM tickets t JOIN tiers USING (tier) JOIN zones USING (zone)').get(),
  ).toMatchObject({
    id: Buffer.from(uuid.replaceAll('-', ''), 'hex'),
    tier_name: 'vip',
    zone_name: 'A',
    units: 4,
    max_scans: 2,
    vip: 1,
    valid_from_ms: Date.parse('2026-07-01T18:00:00Z'),
    valid_until_ms: Date.parse('2026-07-02T18:00:00Z'),
  });
  file.close();
  expect(rightOf({ status: 'refunded', blocked: true, approved: false })).toBe('canceled');
});

test('a file made from the last one and the changes is the file that is made from the tickets', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 200 });
  await buildManifest(build(), venue.tenantId, venue.eventId);
  const contentOf = async (path: BetterSqlite.Database) => {
    const tickets = path
      .prepare(
        'SELECT hex(t.ref), t.id, i.name, z.name, t.status, t.max_scans, t.units, t.valid_from_ms, t.valid_until_ms, t.vip, t.note FROM tickets t JOIN tiers i USING (tier) LEFT JOIN zones z USING (zone) ORDER BY 1',
      )
      .raw()
      .all();
    const head = path.prepare<[], { key: string; value: string }>('SELECT * FROM head ORDER BY key').all();
    return {
      tickets,
      usage: path.prepare('SELECT * FROM usage ORDER BY 1, 2, 3, 4').raw().all(),
      head: head.filter(({ key }) => !/version|_at$|^revoked$/.test(key)),
    };
  };
  const north = testLedger(venue, 0);
  for (let round = 0; round < 6; round++) {
    // New tickets in a new tier and zone, changed ones, new codes, and old codes again; one that nobody holds any more; an entry at a gate.
    await write(venue, [
      { ticket_id: `N-${round}`, code: code(), tier: `tier-${round}`, zone: `zone-${round % 3}`, note: 'new' },
      { ticket_id: `T-${round + 1}`, code: code() },
      { ticket_id: 'T-20', code: round % 2 === 0 ? 'AN-OLD-CODE-THAT-COMES-AGAIN-7F3K2M9QXZ' : code() },
      { ticket_id: `T-${round + 30}`, blocked: true, max_scans: 3, units: 2, vip: round % 2 === 0 },
    ]);
    await inVenue(venue, async (client) => {
      await applyAction(client, venue.tenantId, { ticketId: `T-${round + 50}`, action: 'revoke', actor: 's-1', reason: 'test' });
      north.passage(north.grant(venue.tickets[round + 60] as Venue['tickets'][number], 1_000 * round), 1_000 * round + 500, 'passed');
      await reconcile(client, north.rows());
    });
    const changed = await buildManifest(build(), venue.tenantId, venue.eventId);
    expect(changed?.from).toBeGreaterThan(0);
    const [mine, theirs] = [await newestFile(venue), await fileOf(venue, true)];
    expect(await contentOf(mine)).toEqual(await contentOf(theirs));
    mine.close();
    theirs.close();
  }
  // Written past every version: the count tells, and the whole is made. So it is where the last file is damaged, and after many changes.
  await inVenue(venue, (client) =>
    client.query(
      "INSERT INTO tickets (tenant_id, event_id, ticket_id, ticket_ref, tier, changed_version) SELECT tenant_id, event_id, 'X-1', substring(sha256('x') FOR 16), tier, 1 FROM tickets LIMIT 1",
    ),
  );
  expect((await buildManifest(build(), venue.tenantId, venue.eventId))?.from).toBeNull();
  await inVenue(venue, (client) =>
    client.query("UPDATE manifest_pieces SET bytes = overlay(bytes PLACING '\\xffff' FROM 9000) WHERE version = (SELECT max(version) FROM manifests)"),
  );
  expect((await buildManifest(build(), venue.tenantId, venue.eventId))?.from).toBeNull();
  await write(
    venue,
    Array.from({ length: 20 }, (_, n) => ({ ticket_id: `T-${n + 100}`, note: 'many' })),
  );
  expect((await buildManifest(build(), venue.tenantId, venue.eventId))?.from).toBeNull();
});

test('a file carries the usage of one moment, with the rows that it counts', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 3 });
  const ledger = testLedger(venue, 0);
  const granted = ledger.grant(venue.tickets[0] as never, 1_000);
  ledger.passage(granted, 2_000, 'passed');
  const given = ledger.grant(venue.tickets[1] as never, 3_000);
  ledger.passage(given, 4_000, 'returned');
  await inVenue(venue, (client) => reconcile(client, ledger.rows()));
  const file = await fileOf(venue);
  expect(JSON.parse((file.prepare("SELECT value FROM head WHERE key = 'upto'").get() as { value: string }).value)).toEqual({ [ledger.gate]: [1, 4] });
  expect(file.prepare('SELECT ref, gate, epoch, seq, direction, units, outcome FROM usage').all()).toEqual([
    { ref: Buffer.from(venue.tickets[0]?.ticketRef as string, 'hex'), gate: ledger.gate, epoch: 1, seq: 1, direction: 0, units: 1, outcome: 'passed' },
  ]);
  file.close();
  // What a lookup answers is the same right and the same usage; of a gate that holds the event, and of no other.
  const ask = (gate: string) =>
    inVenue(venue, (client) =>
      lookUp(
        client,
        gate,
        { schema: 1, n: 1, refs: [{ event_id: venue.eventId, ticket_ref: venue.tickets[0]?.ticketRef as string }] },
        async (c, event, ticket) => (await manifestUsage(c, event)).usage.filter(() => ticket === 'T-1'),
      ),
    );
  expect(await ask(venue.gates[0] as string)).toMatchObject([{ ticket: { ticket_id: 'T-1', status: 'valid' }, usage: [{ seq: 1, outcome: 'passed' }] }]);
  expect(await ask(`${venue.site}/unknown`)).toEqual([]);
});

test('two workers and many writers: every gate gets a gapless chain of overlays that ends where its want does', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 40 });
  const told: { gate: string; kind: string; payload: OverlayMessage & WantMessage }[] = [];
  const publish: Publish = async (topic, payload) => {
    const [, , site, gate, ...rest] = topic.split('/');
    await new Promise((done) => setTimeout(done, Math.random() * 3));
    told.push({ gate: `${site}/${gate}`, kind: rest.join('/'), payload: JSON.parse(payload) });
  };
  const workers = [outbox(publish), outbox(publish)];
  await inVenue(venue, (client) => notifyGates(client, venue.tenantId, venue.eventId, true));
  await workers[0]?.drain();
  const first = told.at(-1)?.payload.events[0]?.overlay_version as number;
  told.length = 0;
  let writing = true;
  const working = workers.map(async (worker) => {
    while (writing) await worker.drain();
    await worker.drain();
  });
  await Promise.all(
    venue.tickets.map(({ ticketId }, n) =>
      inVenue(venue, (client) =>
        applyAction(client, venue.tenantId, {
          ticketId,
          action: n % 2 === 0 ? 'block' : 'transfer',
          actor: 'a',
          reason: 'r',
          ...(n % 2 === 0 ? {} : { code: code() }),
        }),
      ),
    ),
  );
  writing = false;
  await Promise.all(working);
  const last = (await inVenue(venue, (client) => readEvent(client, venue.eventId)))?.version;
  for (const gate of venue.gates) {
    const overlays = told.filter((message) => message.gate === gate && message.kind === 'overlay').map(({ payload }) => payload);
    let at = first;
    for (const overlay of overlays) {
      expect(overlay.from_version).toBe(at);
      at = overlay.to_version;
    }
    expect(at).toBe(last);
    expect(new Set(overlays.flatMap(({ tickets }) => tickets?.map((ticket) => ticket.ticket_id) ?? []))).toEqual(
      new Set(venue.tickets.map(({ ticketId }) => ticketId)),
    );
    expect(told.filter((message) => message.gate === gate && message.kind === 'manifest/want').at(-1)?.payload.events[0]?.overlay_version).toBe(last);
  }
  expect((await inVenue(venue, (client) => client.query('SELECT 1 FROM outbox'))).rowCount).toBe(0);
});

test('a want is signed as a whole for its gate, and a later one is younger: a gate drops what is left out', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 1 });
  const told: (WantMessage & { gate: string; issued_at: string; signature: string })[] = [];
  const worker = outbox(async (topic, payload) => {
    if (topic === `stile/1/${venue.gates[0]}/manifest/want`) told.push(JSON.parse(payload));
  });
  await inVenue(venue, (client) => notifyGates(client, venue.tenantId, venue.eventId, true));
  await worker.drain();
  await inVenue(venue, async (client) => {
    await client.query('DELETE FROM gate_assignments WHERE gate = $1', [venue.gates[0]]);
    await client.query("INSERT INTO outbox (tenant_id, kind, key) VALUES ($1, 'gate', $2)", [venue.tenantId, venue.gates[0]]);
  });
  await worker.drain();
  const key = createPublicKey({ key: Buffer.from(signer.publicKey.spki, 'base64'), format: 'der', type: 'spki' });
  for (const want of told) {
    expect(want.gate).toBe(venue.gates[0]);
    expect(verify(null, Buffer.from(signedText(want)), key, Buffer.from(want.signature, 'base64'))).toBe(true);
  }
  const [before, after] = [told[0], told.at(-1)];
  expect(before?.events).toHaveLength(1);
  expect(after?.events).toEqual([]);
  expect(Date.parse(after?.issued_at as string)).toBeGreaterThan(Date.parse(before?.issued_at as string));
});

test('the publisher retries what it could not publish, and publishes nothing twice', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 2 });
  let broken = true;
  const told: string[] = [];
  const worker = outbox(async (topic) => {
    if (broken) throw new Error('planted');
    told.push(topic);
  });
  await inVenue(venue, (client) => notifyGates(client, venue.tenantId, venue.eventId, true));
  expect(await worker.drain()).toEqual({ done: 0, failed: 1 });
  expect(
    (
      await inVenue(venue, (client) =>
        client.query<{ attempts: number; last_error: string; waits: boolean }>('SELECT attempts, last_error, due_at > now() AS waits FROM outbox'),
      )
    ).rows,
  ).toEqual([{ attempts: 1, last_error: 'planted', waits: true }]);
  expect(await worker.drain()).toEqual({ done: 0, failed: 0 });
  broken = false;
  await inVenue(venue, (client) => client.query('UPDATE outbox SET due_at = now()'));
  expect(await worker.drain()).toEqual({ done: 1, failed: 0 });
  expect(told.sort()).toEqual(venue.gates.map((gate) => `stile/1/${gate}/manifest/want`));
  expect(await worker.drain()).toEqual({ done: 0, failed: 0 });
});

test('X1: every gate of a large event is told, by a few queries, with few messages under way', { timeout: 60_000 }, async () => {
  const GATES = 1_300;
  const venue = await makeVenue(fresh.url, { tickets: 2 });
  await inVenue(venue, async (client) => {
    await client.query(
      "INSERT INTO devices (tenant_id, name, site_id, gate_id) SELECT $1, $2 || '/many-' || i, $2, 'many-' || i FROM generate_series(1, $3::integer) AS i",
      [venue.tenantId, venue.site, GATES],
    );
    await client.query("INSERT INTO gate_assignments (tenant_id, gate, event_id) SELECT tenant_id, name, $1 FROM devices WHERE gate_id LIKE 'many-%'", [
      venue.eventId,
    ]);
  });
  let queries = 0;
  let pending = 0;
  let most = 0;
  const wants = new Map<string, number>();
  const worker = createOutbox({
    ...build(),
    database: {
      ...fresh.database,
      withTenant: (tenant, work) =>
        fresh.database.withTenant(tenant, (client) =>
          work({
            query: (text, values) => {
              queries += 1;
              return client.query(text, values);
            },
          }),
        ),
    },
    signer,
    publicUrl: 'https://cloud.example',
    publish: async (topic, payload) => {
      most = Math.max(most, ++pending);
      await new Promise(setImmediate);
      pending -= 1;
      if (topic.endsWith('/manifest/want') && (JSON.parse(payload) as WantMessage).events.length === 1) wants.set(topic, (wants.get(topic) ?? 0) + 1);
    },
    canPublish: () => true,
    listen: async () => ({ close: async () => {} }),
    log: SILENT,
  });
  await inVenue(venue, (client) => notifyGates(client, venue.tenantId, venue.eventId, true));
  expect(await worker.drain()).toEqual({ done: 1, failed: 0 });
  expect(wants.size).toBe(GATES + venue.gates.length);
  expect([...wants.values()].every((times) => times === 1)).toBe(true);
  expect(most).toBeLessThanOrEqual(500);
  expect(queries).toBeLessThan(60);
  // After a start every gate is told again, as marks of their own.
  queries = 0;
  await inVenue(venue, (client) =>
    client.query("INSERT INTO outbox (tenant_id, kind, key) SELECT tenant_id, 'gate', gate FROM gate_assignments WHERE gate LIKE '%/many-%'"),
  );
  expect(await worker.drain()).toEqual({ done: GATES, failed: 0 });
  expect(queries).toBeLessThan(60);
});

test('a list that grows old is built anew before it runs out', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 1 });
  await buildManifest(build(), venue.tenantId, venue.eventId);
  const due = async () =>
    (await fresh.database.withoutTenant((client) => client.query<{ tenant_id: string }>('SELECT tenant_id FROM manifests_to_renew(1000)'))).rows.some(
      ({ tenant_id }) => tenant_id === venue.tenantId,
    );
  expect(await due()).toBe(false);
  await inVenue(venue, (client) =>
    client.query("UPDATE manifests SET generated_at = generated_at - interval '13 hours', expires_at = expires_at - interval '13 hours'"),
  );
  expect(await due()).toBe(true);
});

test('a chain of overlays is cut between versions, never within one', async () => {
  const venue = await makeVenue(fresh.url, { tickets: 0 });
  const start = (await inVenue(venue, (client) => readEvent(client, venue.eventId)))?.version as number;
  for (let batch = 0; batch < 3; batch++)
    await write(
      venue,
      Array.from({ length: 300 }, (_, n) => ({ ticket_id: `B${batch}-${n}`, code: code() })),
    );
  const chain = async (since: number) =>
    inVenue(venue, async (client) => overlayChain(client, signer, venue.eventId, since, (await readEvent(client, venue.eventId))?.version as number));
  const overlays = (await chain(start)) as OverlayMessage[];
  expect(overlays.map(({ tickets }) => tickets?.length)).toEqual([300, 300, 300]);
  expect(overlays.slice(1).map(({ from_version }) => from_version)).toEqual(overlays.slice(0, -1).map(({ to_version }) => to_version));
  await write(
    venue,
    Array.from({ length: 501 }, (_, n) => ({ ticket_id: `C-${n}`, code: code() })),
  );
  expect(await chain(start)).toBeNull();
});
