import { createHash } from 'node:crypto';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { AckMessage } from '../../contract/ledger.ts';
import { topicOf } from '../../contract/topics.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { type TestLedger, testLedger } from '../../testkit/ledgers.ts';
import { createDatabase } from '../db/database.ts';
import { createLog, SILENT } from '../log.ts';
import { type CloudBroker, createBroker, type IncomingMessage } from '../mqtt/client.ts';
import { acksFor, declareGone, takeHeads } from '../reconcile/acks.ts';
import { markPublished, settle, unpublishedCloudRows } from '../reconcile/cloud-ledger.ts';
import { reconcile } from '../reconcile/reconcile.ts';
import { readRow } from '../reconcile/row.ts';
import { createIngest, type Ingest } from './ingest.ts';
import { ingestGroup, ingestSubscriptions } from './shared-subscription.ts';

const reconciler = { readRow, reconcile, acksFor, declareGone, takeHeads, unpublishedCloudRows, markPublished };
let fresh: FreshDatabase;
let mosquitto: Broker;
beforeAll(async () => {
  [fresh, mosquitto] = await Promise.all([freshDatabase(), startBroker()]);
});
afterAll(async () => {
  await mosquitto.stop();
  await fresh.drop();
});

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const settings = () => ({ url: mosquitto.cloudUrl, ca: null, cert: null, key: null });

async function cloud(extra: Partial<Parameters<typeof createIngest>[0]> = {}): Promise<{ ingest: Ingest; broker: CloudBroker }> {
  let ingest: Ingest | undefined;
  const broker = createBroker({
    settings: settings(),
    host: 'test',
    subscriptions: ingestSubscriptions(await ingestGroup(fresh.database)),
    onMessage: (message) => ingest?.receive(message),
  });
  ingest = createIngest({
    database: fresh.database,
    broker,
    reconciler,
    log: process.env['STILE_TEST_LOG'] ? createLog({ level: 'debug', name: 'test' }) : SILENT,
    ...extra,
  } as Parameters<typeof createIngest<ReturnType<typeof readRow> & object>>[0]);
  expect(await broker.open()).toBe(true);
  ingest.open();
  const running = ingest;
  closing.push(async () => {
    await running.close();
    await broker.close();
  });
  return { ingest, broker };
}

/** A device that says what it likes, and hears what the cloud says to its site. */
async function device(...subscriptions: string[]): Promise<{
  say(topic: string, payload: unknown, retain?: boolean): Promise<void>;
  heard: IncomingMessage[];
  ask<T>(pick: (message: IncomingMessage) => T | undefined): Promise<T>;
}> {
  const heard: IncomingMessage[] = [];
  const broker = createBroker({
    settings: settings(),
    host: null,
    subscriptions,
    onMessage: (message) => {
      message.acknowledge();
      heard.push(message);
    },
  });
  await broker.open();
  closing.push(() => broker.close());
  return {
    heard,
    say: (topic, payload, retain = false) => broker.publish(topic, typeof payload === 'string' ? payload : JSON.stringify(payload), { qos: 1, retain }),
    async ask<T>(pick: (message: IncomingMessage) => T | undefined): Promise<T> {
      return expect
        .poll(() => heard.map(pick).find((found) => found !== undefined), { timeout: 10_000, interval: 10 })
        .toBeDefined()
        .then(() => heard.map(pick).find((found) => found !== undefined) as T);
    },
  };
}

const json = (message: IncomingMessage) => JSON.parse(Buffer.from(message.payload).toString()) as Record<string, unknown>;
const ackTopic = (gate: string) => topicOf({ kind: 'ack', gate });
const ledgerTopic = (gate: string) => topicOf({ kind: 'ledger', gate });
const uptoIs = (gate: string, seq: number) => (message: IncomingMessage) => {
  if (message.topic !== ackTopic(gate)) return undefined;
  const ack = AckMessage.parse(json(message));
  return ack.epochs.some(({ upto_seq }) => upto_seq === seq) ? ack : undefined;
};
const ticket = (venue: Venue, n: number) => venue.tickets[n - 1] as TestTicket;
const rowsOf = async (venue: Venue, sql: string) => (await fresh.database.withTenant(venue.tenantId, (client) => client.query(sql))).rows;

test('a ledger message is committed, then acknowledged, retained; sent again it is acknowledged again and counts once', async () => {
  const venue = await makeVenue(fresh.url);
  const north = testLedger(venue, 0);
  const { ingest } = await cloud();
  const gate = await device(`stile/1/${venue.site}/+/ack`);
  north.passage(north.grant(ticket(venue, 1), 0), 500, 'passed');
  await gate.say(ledgerTopic(north.gate), north.message());
  expect(await gate.ask(uptoIs(north.gate, 2))).toMatchObject({ epochs: [{ epoch: 1, upto_seq: 2, missing: [] }] });
  await gate.say(ledgerTopic(north.gate), north.message());
  await expect.poll(() => gate.heard.length).toBe(2);
  expect(ingest.stats().ledgers).toMatchObject({ messages: 2, rows: 2, duplicates: 2, quarantined: 0 });
  expect(await rowsOf(venue, 'SELECT verdict FROM admissions')).toEqual([{ verdict: 'winner' }]);
  const late = await device(`stile/1/${venue.site}/+/ack`);
  expect(await late.ask(uptoIs(north.gate, 2))).toBeDefined();
  expect(late.heard[0]?.retain).toBe(true);
});

test('ingest quarantines what it cannot read, once and with its reason, and stores the readable rows beside it', async () => {
  const venue = await makeVenue(fresh.url);
  const north = testLedger(venue, 0);
  const south = testLedger(venue, 1);
  const { ingest } = await cloud();
  const gate = await device(`stile/1/${venue.site}/+/ack`);
  const row = north.grant(ticket(venue, 1), 0);
  const topic = ledgerTopic(north.gate);
  await gate.say(topic, 'no json');
  await gate.say(topic, 'no json');
  await gate.say(topic, { ...north.message(), schema: 2 });
  await gate.say(topic, { ...north.message(), filler: 'x'.repeat(262_144) });
  await gate.say(topic, { ...north.message(), gate: south.gate });
  await gate.say(topic, { ...north.message(), entries: [{ seq: 'first' }, row, null] });
  await expect.poll(() => ingest.stats().ledgers.messages).toBe(6);
  await ingest.idle();
  expect(await rowsOf(venue, 'SELECT reason, times, payload_bytes > 0 AS kept FROM quarantine ORDER BY reason, times')).toEqual([
    { reason: 'mismatch', times: 1, kept: true },
    { reason: 'oversized', times: 1, kept: true },
    { reason: 'unreadable', times: 1, kept: true },
    { reason: 'unreadable', times: 1, kept: true },
    { reason: 'unreadable', times: 2, kept: true },
    { reason: 'wrong_version', times: 1, kept: true },
  ]);
  expect(await gate.ask(uptoIs(north.gate, 1))).toBeDefined();
  expect(await rowsOf(venue, 'SELECT gate, seq FROM ledger_rows')).toEqual([{ gate: north.gate, seq: 1 }]);
});

test('unknown and revoked devices are heard by nobody', async () => {
  const venue = await makeVenue(fresh.url, { gates: ['north', 'stolen'] });
  await rowsOf(venue, "UPDATE devices SET revoked_at = now() WHERE gate_id = 'stolen'");
  const { ingest } = await cloud();
  const gate = await device(`stile/1/${venue.site}/+/ack`);
  const stolen = testLedger(venue, 1);
  stolen.grant(ticket(venue, 1), 0);
  await gate.say(ledgerTopic(stolen.gate), stolen.message());
  await gate.say('stile/1/nowhere/north/ledger', { ...stolen.message(), gate: 'nowhere/north' });
  await expect.poll(() => ingest.stats().ledgers.messages).toBe(2);
  await ingest.idle();
  expect(await rowsOf(venue, 'SELECT reason FROM quarantine')).toEqual([{ reason: 'revoked_device' }]);
  const unknown = await fresh.database.withoutTenant((client) => client.query('SELECT reason, payload FROM quarantine'));
  expect(unknown.rows).toEqual([{ reason: 'unknown_device', payload: null }]);
  expect(await rowsOf(venue, 'SELECT 1 FROM ledger_rows')).toEqual([]);
  expect(gate.heard).toEqual([]);
});

test('a backlog of several gates of two tenants goes in few transactions, each in its own tenant', async () => {
  const venues = [await makeVenue(fresh.url, { tickets: 400 }), await makeVenue(fresh.url, { tickets: 400 })];
  const { ingest } = await cloud();
  const gate = await device(...venues.map(({ site }) => `stile/1/${site}/+/ack`));
  const ledgers: TestLedger[] = venues.flatMap((venue) => [testLedger(venue, 0), testLedger(venue, 1)]);
  const sent: Promise<void>[] = [];
  for (const [index, ledger] of ledgers.entries()) {
    const venue = venues[index >> 1] as Venue;
    for (let n = 1; n <= 400; n++) ledger.grant(ticket(venue, n), n * 10 + (index % 2));
    for (let at = 0; at < 400; at += 40) sent.push(gate.say(ledgerTopic(ledger.gate), ledger.message(ledger.entries.slice(at, at + 40))));
  }
  await Promise.all(sent);
  for (const ledger of ledgers) await gate.ask(uptoIs(ledger.gate, 400));
  for (const venue of venues)
    expect(
      await rowsOf(venue, "SELECT count(*) FILTER (WHERE verdict = 'winner') AS winners, count(*) FILTER (WHERE verdict = 'excess') AS excess FROM admissions"),
    ).toEqual([{ winners: 400, excess: 400 }]);
  expect(ingest.stats().ledgers.batches).toBeLessThan(20);
});

test('a message that fails alone does not hold back the others', async () => {
  const venue = await makeVenue(fresh.url);
  const other = await makeVenue(fresh.url);
  const north = testLedger(venue, 0);
  const south = testLedger(venue, 1);
  const poison = {
    ...reconciler,
    reconcile: async (client: Parameters<typeof reconcile>[0], rows: Parameters<typeof reconcile>[1]) => {
      if (rows.some(({ gate }) => gate === south.gate)) await client.query('SELECT 1 / 0');
      return reconcile(client, rows);
    },
  };
  const { ingest } = await cloud({ reconciler: poison } as never);
  const gate = await device(`stile/1/${venue.site}/+/ack`);
  north.grant(ticket(venue, 1), 0);
  south.grant(ticket(venue, 2), 0);
  await Promise.all([gate.say(ledgerTopic(south.gate), south.message()), gate.say(ledgerTopic(north.gate), north.message())]);
  await gate.ask(uptoIs(north.gate, 1));
  await expect.poll(() => ingest.stats().ledgers.quarantined).toBe(1);
  await ingest.idle();
  expect(await rowsOf(venue, 'SELECT reason, detail FROM quarantine')).toEqual([{ reason: 'failed', detail: 'division by zero' }]);
  expect(await rowsOf(other, 'SELECT 1 FROM quarantine')).toEqual([]);
});

test('of what nobody can read the beginning is kept, of what somebody could all that fits; each its own, however many come together', async () => {
  const venue = await makeVenue(fresh.url);
  const north = testLedger(venue, 0);
  const { ingest } = await cloud();
  const gate = await device();
  const state = `stile/1/${north.gate}/state`;
  const unread = Array.from({ length: 40 }, (_, n) => `${n} is no JSON ${String(n % 10).repeat(n % 4 === 0 ? 20_000 : n)}`);
  north.grant(ticket(venue, 1), 0);
  const foreign = JSON.stringify({ ...north.message(), gate: 'elsewhere/x', filler: 'y'.repeat(100_000) });
  await Promise.all([
    ...unread.map((payload, n) => gate.say(n % 2 === 0 ? state : ledgerTopic(north.gate), payload)),
    gate.say(ledgerTopic(north.gate), foreign),
  ]);
  await expect.poll(async () => (await rowsOf(venue, 'SELECT 1 FROM quarantine')).length).toBe(41);
  await ingest.idle();
  const kept = await rowsOf(venue, "SELECT reason, convert_from(payload, 'UTF8') AS text, payload_bytes FROM quarantine");
  const short = (reason: unknown, text: string, bytes: unknown) => `${reason} ${bytes} ${text.length} ${createHash('sha256').update(text).digest('hex')}`;
  expect(kept.map(({ reason, text, payload_bytes }) => short(reason, text as string, payload_bytes)).sort()).toEqual(
    [...unread.map((text) => short('unreadable', text.slice(0, 8 * 1024), text.length)), short('mismatch', foreign.slice(0, 64 * 1024), foreign.length)].sort(),
  );
});

test('while the database is away, what waits is bounded in bytes: the rest is let go, for its gate sends it again', async () => {
  const away = createDatabase({ url: 'postgres://nobody@127.0.0.1:1/none' });
  const { ingest } = await cloud({ database: away });
  let acknowledged = 0;
  const message = (topic: string, payload: string): IncomingMessage => ({
    topic,
    payload: Buffer.from(payload),
    qos: 1,
    retain: false,
    acknowledge() {
      acknowledged += 1;
    },
  });
  for (let n = 0; n < 100; n++) ingest.receive(message('stile/1/any/gate/ledger', `${n} ${'x'.repeat(200_000)}`));
  // 4 MB of 200 KB each.
  expect(ingest.stats().ledgers.let_go).toBe(100 - 21);
  expect(acknowledged).toBe(100 - 21);
  const state = (n: number) =>
    JSON.stringify({ schema: 1, state: 'online', session: 's', since: '2026-05-01T12:00:00.000Z', reason: 'r', filler: `${n}${'x'.repeat(30_000)}` });
  for (let n = 0; n < 300; n++) ingest.receive(message(`stile/1/any/gate-${n}/state`, state(n)));
  expect(ingest.stats().telemetry.waiting).toBe(208);
  expect(acknowledged).toBe(400 - 21);
  for (let n = 0; n < 100; n++) ingest.receive(message('stile/1/any/gate/health', `${n} ${'x'.repeat(200_000)}`));
  expect(ingest.stats().telemetry.refused).toBe(100);
  expect(acknowledged).toBe(500 - 21 - 21);
  await away.close();
});

test('a row that says what jsonb cannot hold is kept as it came and hides nothing beside it', async () => {
  const venue = await makeVenue(fresh.url);
  const [name] = venue.gates as [string];
  const { ingest } = await cloud();
  const gate = await device(ackTopic(name));
  const north = testLedger(venue, 0);
  north.grant(ticket(venue, 1), 1_000);
  const odd = north.add('fault', 2_000, { what: 'reader', detail: 'a\0b' });
  north.grant(ticket(venue, 2), 3_000);
  // JSON.stringify escapes half a surrogate pair; a text of the wire may hold it so.
  const half = { ...north.add('fault', 4_000, { what: 'reader', detail: 'x' }), detail: '\ud800' };
  await gate.say(ledgerTopic(name), { schema: 1, gate: name, epoch: 1, entries: [...north.entries.slice(0, 3), half] });
  await gate.ask(uptoIs(name, 3));
  expect(await rowsOf(venue, "SELECT count(*) AS n FROM admissions WHERE verdict = 'winner'")).toEqual([{ n: 2 }]);
  // Its hash is of another text: kept apart, whole.
  const kept = await rowsOf(venue, "SELECT entry, seq FROM ledger_rows WHERE kind = 'fault' UNION ALL SELECT entry, seq FROM forked_rows ORDER BY seq");
  expect(kept.map(({ entry }) => (JSON.parse(entry as string) as { detail: string }).detail)).toEqual([odd['detail'], '\ud800']);
  expect(await rowsOf(venue, 'SELECT 1 FROM quarantine')).toEqual([]);
  expect(ingest.stats().ledgers).toMatchObject({ rows: 3, forked: 1, quarantined: 0 });
});

test('T2: a question without rows is answered, and what it declares gone is passed over', async () => {
  const venue = await makeVenue(fresh.url);
  const [name] = venue.gates as [string];
  await cloud();
  const gate = await device(ackTopic(name));
  const north = testLedger(venue, 0);
  for (const n of [1, 2, 3]) north.grant(ticket(venue, n), n * 1_000);
  await gate.say(ledgerTopic(name), { schema: 1, gate: name, epoch: 1, entries: [] });
  await gate.ask((message) => (message.topic === ackTopic(name) && AckMessage.parse(json(message)).epochs.length === 0 ? message : undefined));
  await gate.say(ledgerTopic(name), { schema: 1, gate: name, epoch: 1, entries: north.entries.slice(2) });
  await gate.say(ledgerTopic(name), { schema: 1, gate: name, epoch: 1, entries: [], gone: [[1, 1, 2, north.entries[1]?.hash]] });
  await gate.ask(uptoIs(name, 3));
});

test('the last words of a device are kept: states, health, alerts; a late will of an old connection says nothing', async () => {
  const venue = await makeVenue(fresh.url);
  const [name] = venue.gates as [string];
  const { ingest } = await cloud();
  const gate = await device();
  const state = (word: 'online' | 'offline', session: string) => ({
    schema: 1,
    state: word,
    session,
    since: '2026-05-01T12:00:00.000Z',
    reason: 'test',
    extra: 'kept',
  });
  await gate.say(topicOf({ kind: 'state', gate: name }), state('online', 'new'), true);
  await ingest.idle();
  await expect.poll(async () => (await rowsOf(venue, `SELECT state ->> 'state' AS s FROM devices WHERE name = '${name}'`))[0]).toEqual({ s: 'online' });
  await gate.say(topicOf({ kind: 'state', gate: name }), state('offline', 'old'), true);
  await gate.say(
    topicOf({ kind: 'alert', gate: name, alert: 'disk' }),
    { schema: 1, since: '2026-05-01T12:00:00.000Z', severity: 'critical', message: 'full' },
    true,
  );
  await gate.say(topicOf({ kind: 'health', gate: name }), 'rubbish', true);
  await expect.poll(async () => await rowsOf(venue, 'SELECT alert_id FROM device_alerts')).toEqual([{ alert_id: 'disk' }]);
  expect(await rowsOf(venue, `SELECT state ->> 'state' AS s FROM devices WHERE name = '${name}'`)).toEqual([{ s: 'online' }]);
  await gate.say(topicOf({ kind: 'state', gate: name }), state('offline', 'new'), true);
  await gate.say(topicOf({ kind: 'alert', gate: name, alert: 'disk' }), '', true);
  await expect
    .poll(async () => await rowsOf(venue, `SELECT state ->> 'state' AS s, (SELECT count(*) FROM device_alerts) AS alerts FROM devices WHERE name = '${name}'`))
    .toEqual([{ s: 'offline', alerts: 0 }]);
  expect(await rowsOf(venue, 'SELECT reason FROM quarantine')).toEqual([{ reason: 'unreadable' }]);
});

test('ingest keeps some alerts of a device that invents them, and of a message that is far too large only that it came', async () => {
  const venue = await makeVenue(fresh.url);
  const [name] = venue.gates as [string];
  const { ingest } = await cloud();
  const gate = await device();
  const alert = { schema: 1, since: '2026-05-01T12:00:00.000Z', severity: 'warning', message: 'm' };
  const say = async (alerts: readonly string[], word: unknown = alert) => {
    const { received } = ingest.stats().telemetry;
    await Promise.all(alerts.map((id) => gate.say(`stile/1/${name}/alert/${id}`, word)));
    await expect.poll(() => ingest.stats().telemetry.received).toBe(received + alerts.length);
    await ingest.idle();
    return (await rowsOf(venue, 'SELECT alert_id FROM device_alerts ORDER BY alert_id')).map(({ alert_id }) => alert_id);
  };
  const invented = Array.from({ length: 50 }, (_, n) => `reader-${n + 10}`);
  expect(await say(invented)).toEqual(invented.slice(0, 32));
  expect(await say(['disk', 'reader-10', 'reader-60'])).toEqual(invented.slice(0, 32));
  await say(['reader-10', 'reader-11'], '');
  expect(await say(['disk'], { ...alert, filler: 'x'.repeat(40_000) })).toEqual(invented.slice(2, 32));
  expect(await say(['disk'])).toEqual(['disk', ...invented.slice(2, 32)]);
  await expect.poll(() => rowsOf(venue, 'SELECT reason FROM quarantine')).toEqual([{ reason: 'oversized' }]);
});

test('time is answered at once; a lookup with facts; a response goes to whoever waits; rows of the cloud reach the gates', async () => {
  const venue = await makeVenue(fresh.url);
  const [name] = venue.gates as [string];
  const responses: string[] = [];
  await cloud({
    lookup: async (tenantId: string, _gate: string, question: { refs: readonly { event_id: string }[] }) =>
      tenantId === venue.tenantId
        ? [
            {
              event_id: question.refs[0]?.event_id,
              overlay_version: 1,
              ticket: { ticket_ref: 'ab'.repeat(16), ticket_id: null, removed: true, reason: 'revoked' },
              usage: [],
            },
          ]
        : [],
    onResponse: (topic: string) => responses.push(topic),
  } as never);
  const gate = await device(`stile/1/${name}/#`, `stile/1/${venue.site}/cloud/ledger`);
  const before = Date.now();
  await gate.say(topicOf({ kind: 'time', gate: name }), { schema: 1, n: 7, boot_id: 'b', sent_boottime_ms: 12.5 });
  const time = await gate.ask((message) => (message.topic === topicOf({ kind: 'time_answer', gate: name, n: 7 }) ? json(message) : undefined));
  expect(time).toMatchObject({ n: 7, boot_id: 'b', sent_boottime_ms: 12.5 });
  expect(time['received_unix_ms']).toBeGreaterThanOrEqual(before - 1);
  expect(time['answered_unix_ms']).toBeGreaterThanOrEqual(time['received_unix_ms'] as number);
  await gate.say(topicOf({ kind: 'lookup', gate: name }), { schema: 1, n: 8, refs: [{ event_id: 'EV1', ticket_ref: 'ab'.repeat(16) }] });
  expect(await gate.ask((message) => (message.topic === topicOf({ kind: 'lookup_answer', gate: name, n: 8 }) ? json(message) : undefined))).toMatchObject({
    n: 8,
    tickets: [{ event_id: 'EV1' }],
  });
  await gate.say(topicOf({ kind: 'response', gate: name, command: 'open' }), { schema: 1 });
  await expect.poll(() => responses).toEqual([topicOf({ kind: 'response', gate: name, command: 'open' })]);

  const north = testLedger(venue, 0);
  north.passage(north.grant(ticket(venue, 1), 0), 500, 'unknown');
  await gate.say(ledgerTopic(name), north.message());
  await gate.ask(uptoIs(name, 2));
  await fresh.database.withTenant(venue.tenantId, (client) =>
    settle(client, { of: [name, 1, 1], outcome: 'returned', actor: 'op-1', reason: 'did not enter' }),
  );
  expect(await gate.ask((message) => (message.topic === `stile/1/${venue.site}/cloud/ledger` ? json(message) : undefined))).toMatchObject({
    gate: `${venue.site}/cloud`,
    entries: [{ seq: 1, kind: 'settlement', outcome: 'returned' }],
  });
});

test('an acknowledgement that the broker has lost is given again when the gate comes online', async () => {
  const venue = await makeVenue(fresh.url);
  const north = testLedger(venue, 0);
  north.grant(ticket(venue, 1), 0);
  await fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, north.rows()));
  await cloud();
  const gate = await device(`stile/1/${venue.site}/+/ack`);
  await gate.say(
    topicOf({ kind: 'state', gate: north.gate }),
    { schema: 1, state: 'online', session: 's', since: '2026-05-01T12:00:00.000Z', reason: 'started' },
    true,
  );
  expect(await gate.ask(uptoIs(north.gate, 1))).toBeDefined();
});
