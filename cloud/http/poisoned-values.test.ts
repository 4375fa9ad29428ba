/**
 * T5: doors × values that no column, no JSON text or no calendar can hold. No door answers with a fault of its own, what came beside it is taken, and
 * what is poisoned is kept: mended and named, or in quarantine.
 */
import { createHash, generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import { ConflictsResponse, GatesResponse, HistoryResponse, ReconcileResponse, RefusalsResponse } from '../../contract/http.ts';
import type { AckMessage } from '../../contract/ledger.ts';
import { topicOf } from '../../contract/topics.ts';
import { createVerify } from '../../signing/verify.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { createTestHttp } from '../../testkit/http.ts';
import { type TestEntry, testLedger } from '../../testkit/ledgers.ts';
import { sha256 } from '../../testkit/sha256.ts';
import type { DatabaseClient } from '../db/database.ts';
import { newToken, OPERATOR_TOKEN_PREFIX, renewToken } from '../devices/assignment.ts';
import { registerDeviceRoutes } from '../devices/routes.ts';
import { createLedgerIntake } from '../ingest/ledger-intake.ts';
import { createQuarantine } from '../ingest/quarantine.ts';
import { createSenders } from '../ingest/sender-cache.ts';
import { createTelemetry, type TelemetryTopic } from '../ingest/telemetry.ts';
import { SILENT } from '../log.ts';
import { eventRights, ticketRight } from '../manifest/current-rights.ts';
import { registerManifestRoutes } from '../manifest/routes.ts';
import { signerOf } from '../manifest/signing-key.ts';
import type { IncomingMessage } from '../mqtt/client.ts';
import { acksFor } from '../reconcile/acks.ts';
import { reconcile, reconcileEach } from '../reconcile/reconcile.ts';
import { registerReconcileRoutes } from '../reconcile/routes.ts';
import { type LedgerRow, readRow } from '../reconcile/row.ts';
import { manifestUsage } from '../reconcile/usage.ts';
import { registerScanRoutes } from '../scan/routes.ts';
import { importTickets } from '../tickets/import/import.ts';
import { registerTicketRoutes } from '../tickets/routes.ts';
import type { App } from './server.ts';

/** As they stand in JSON: numbers beyond every type, texts that nobody can store, times that no calendar has, and values of another type. */
const POISONS = [
  '2147483648',
  '-2147483649',
  '9007199254740993',
  '9223372036854775808',
  '1e400',
  '-1e400',
  '1e-400',
  '-1',
  '0.5',
  'null',
  'true',
  '[]',
  '{}',
  '[[null]]',
  '{"__proto__":1,"a":{"b":[1e400,"\\ud800"]}}',
  '""',
  '" "',
  JSON.stringify('x'.repeat(513)),
  JSON.stringify(`${'x'.repeat(511)}\u{1F600}`),
  '"a\\u0000b"',
  '"half \\ud83d"',
  '"9999-12-31T23:59:59.999Z"',
  '"0000-01-01T00:00:00.000Z"',
  '"0001-01-01T00:00:00.000+14:00"',
  '"1969-12-31T23:59:59.000Z"',
  '"+275760-09-13T00:00:00.000Z"',
  '"2026-02-30T12:00:00.000Z"',
  '"infinity"',
  '"NaN"',
] as const;
/** JSON of an object in which one field says what JSON.stringify would not. */
const poisoned = (value: object, field: string, poison: string): string => {
  const { [field as never]: _own, ...rest } = value as Record<string, unknown>;
  const text = JSON.stringify(rest);
  return `${text.slice(0, -1)}${text === '{}' ? '' : ','}${JSON.stringify(field)}:${poison}}`;
};

let fresh: FreshDatabase;
let venue: Venue;
let app: App;
let scanner: string;
let operator: string;
const NOW_MS = Date.now();
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url, { tickets: 40, gates: ['phone', 'north', 'south'] });
  const made = newToken(OPERATOR_TOKEN_PREFIX);
  operator = made.token;
  scanner = await inTenant(async (client) => {
    await client.query("INSERT INTO operator_tokens (tenant_id, token_sha256, name, actor) VALUES (current_tenant_id(), $1, 'anna', 's-17')", [made.sha256]);
    return (await renewToken(client, venue.gates[0] as string)) as string;
  });
  app = await createTestHttp(fresh.database);
  const { database } = fresh;
  registerScanRoutes(app, { database, rights: { event: eventRights, ticket: ticketRight }, verify: createVerify() });
  registerReconcileRoutes(app, { database });
  registerTicketRoutes(app, { database });
  registerDeviceRoutes(app, { database, requests: null });
  registerManifestRoutes(app, { database, signer: signerOf(generateKeyPairSync('ed25519').privateKey), keys: [], readUsage: manifestUsage, ttlHours: 24 });
});
afterAll(async () => {
  await app.close();
  await fresh.drop();
});

const inTenant = <T>(work: (client: DatabaseClient) => Promise<T>): Promise<T> => fresh.database.withTenant(venue.tenantId, work);
const ask = async <T>(sql: string, values: readonly unknown[] = []) => (await inTenant((client) => client.query<T>(sql, values))).rows;
const call = async (method: 'GET' | 'POST' | 'PUT', url: string, token: string, payload?: string) => {
  const response = await app.inject({
    method,
    url,
    headers: { authorization: `Bearer ${token}`, ...(payload === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(payload === undefined ? {} : { payload }),
  });
  return { status: response.statusCode, body: response.json() as Record<string, unknown> };
};
const quarantined = async () => (await ask<{ n: number }>('SELECT coalesce(sum(times), 0)::integer AS n FROM quarantine'))[0]?.n ?? 0;
/** Whatever is in the tables now, every question is answered, in the contract's form, and shows no time that nobody wrote. */
async function everyQuestionIsAnswered(): Promise<void> {
  const asked = [
    [`/refusals?since=1960-01-01T00:00:00Z`, RefusalsResponse],
    ['/conflicts', ConflictsResponse],
    ['/gates', GatesResponse],
    [`/tickets/T-1/history?event_id=${venue.eventId}`, HistoryResponse],
  ] as const;
  for (const [url, schema] of asked) {
    const { status, body } = await call('GET', url, operator);
    expect([url, status, schema.safeParse(body).error?.issues]).toEqual([url, 200, undefined]);
    expect(JSON.stringify(body)).not.toMatch(/"(?:at|\w+_at)":"(?:9999|0000|1970)|"(?:at|\w+_at)":"?-?infinity/i);
  }
  expect((await call('GET', `/sites/${venue.site}/ledger`, operator)).status).toBe(200);
  expect((await call('GET', `/events/${venue.eventId}/occupancy`, operator)).status).toBe(200);
}

const NEEDED = ['ticket_id', 'scanned_at', 'result'];
const SCAN_FIELDS = [...NEEDED, 'reason', 'scan_count', 'scan_id', 'event_id', 'direction', 'units', 'device_time', 'anything'];
test.each(SCAN_FIELDS)('T5: POST /offline/reconcile takes everything beside a poisoned %s, and keeps what it says', async (field) => {
  const scan = (n: number, more: object = {}) => ({ ticket_id: 'T-1', scanned_at: new Date(NOW_MS - 3_600_000 + n).toISOString(), result: 'DENY', ...more });
  // Each field's scans at times of their own.
  const base = 1_000 * SCAN_FIELDS.indexOf(field);
  const good = [scan(base), scan(base + 1)].map((each) => JSON.stringify(each));
  const bad = POISONS.map((poison, n) => poisoned(scan(base + 10 + n), field, poison));
  const before = await quarantined();
  const body = `{"device_id":${JSON.stringify(venue.gates[0])},"scans":[${[good[0], ...bad, good[1]].join(',')}]}`;
  const first = await call('POST', '/offline/reconcile', scanner, body);
  expect(first.status).toBe(200);
  const { results, reconciled, failed } = ReconcileResponse.parse(first.body);
  expect([results.at(0)?.status, results.at(-1)?.status]).toEqual(['SUCCESS', 'SUCCESS']);
  const errors = results.filter(({ status }) => status === 'ERROR');
  expect([reconciled, failed]).toEqual([results.length - errors.length, errors.length]);
  if (!NEEDED.includes(field)) expect(errors).toEqual([]);
  for (const { message } of errors) expect(message).toMatch(new RegExp(`^scans\\.\\d+\\.${field}: .*kept in quarantine`));
  expect((await quarantined()) - before).toBe(errors.length);
  // Each that was left out or cut is named. (null is nothing, and what is not known is nobody's.)
  if (['scan_count', 'units', 'direction'].includes(field))
    expect(results.slice(1, -1).filter(({ message }) => !message.includes(`${field}: `) && message !== 'recorded' && message !== 'known already')).toEqual([]);
  const again = ReconcileResponse.parse((await call('POST', '/offline/reconcile', scanner, body)).body);
  expect(again.results.map(({ status }) => status)).toEqual(results.map(({ status }) => (status === 'ERROR' ? 'ERROR' : 'DUPLICATE')));
  await everyQuestionIsAnswered();
});

test('T5: one scan that PostgreSQL refuses stands alone in quarantine', async () => {
  await fresh.database.asOwner((client) =>
    client.query(`CREATE FUNCTION refuse_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.ticket_id = 'T-13' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
      CREATE TRIGGER refuse_one BEFORE INSERT ON device_scans FOR EACH ROW EXECUTE FUNCTION refuse_one()`),
  );
  const scans = Array.from({ length: 9 }, (_, n) => ({ ticket_id: `T-${n + 10}`, scanned_at: new Date(NOW_MS - 60_000).toISOString(), result: 'ALLOW' }));
  const { body } = await call('POST', '/offline/reconcile', scanner, JSON.stringify({ device_id: venue.gates[0], scans }));
  await fresh.database.asOwner((client) => client.query('DROP TRIGGER refuse_one ON device_scans'));
  const { results } = ReconcileResponse.parse(body);
  expect(results.map(({ status }) => status)).toEqual(scans.map(({ ticket_id }) => (ticket_id === 'T-13' ? 'ERROR' : 'SUCCESS')));
  expect(results[3]?.message).toBe('scans.3: cannot be recorded: not this one (kept in quarantine)');
  expect(await ask("SELECT count(*)::integer AS n FROM admissions WHERE ticket_id = 'T-13'")).toEqual([{ n: 0 }]);
});

test.each(['code', 'ticket_ref', 'scan_id', 'event_id', 'device_id', 'direction', 'units', 'anything'])(
  'T5: POST /scan answers a poisoned %s, and records what a reader could not have sent',
  async (field) => {
    const refused = async () => (await ask<{ n: number }>("SELECT count(*)::integer AS n FROM ledger_rows WHERE kind = 'refusal'"))[0]?.n ?? 0;
    const before = await refused();
    for (const [n, poison] of POISONS.entries()) {
      const base = {
        device_id: venue.gates[0],
        event_id: venue.eventId,
        scan_id: `${field}-${n}`,
        ...(field === 'ticket_ref' ? {} : { code: 'nobody has this' }),
      };
      const { status, body } = await call('POST', '/scan', scanner, poisoned(base, field, poison));
      expect([poison, status < 500, typeof body['message'] === 'string' || body['result'] === 'DENY']).toEqual([poison, true, true]);
      if (poison === 'null' && ['direction', 'units'].includes(field)) expect(status).toBe(200);
      if (field === 'code' && poison.startsWith('"') && poison !== '""') expect([poison, status, body['result']]).toEqual([poison, 200, 'DENY']);
    }
    if (field === 'code') expect((await refused()) - before).toBe(POISONS.filter((poison) => poison.startsWith('"') && poison !== '""').length);
    await everyQuestionIsAnswered();
  },
);
test('T5: a code that is longer than any reader sends is refused as unreadable, and recorded', async () => {
  const body = { device_id: venue.gates[0], event_id: venue.eventId, scan_id: 'long', code: 'x'.repeat(4_000) };
  expect((await call('POST', '/scan', scanner, JSON.stringify(body))).body).toMatchObject({ result: 'DENY', reason: 'unreadable' });
});

test('T5: rows of gates are stored, whatever one of their fields says, and those beside them count', async () => {
  const own = await makeVenue(fresh.url, { tickets: 40, gates: ['phone', 'north', 'south'] });
  venue = own;
  const made = newToken(OPERATOR_TOKEN_PREFIX);
  operator = made.token;
  await ask("INSERT INTO operator_tokens (tenant_id, token_sha256, name, actor) VALUES (current_tenant_id(), $1, 'anna', 's-17')", [made.sha256]);
  const ledger = testLedger(own, 1);
  const ticket = own.tickets[0] as TestTicket;
  const kinds = [
    ledger.grant(ticket, 1_000, { flags: [] }),
    ledger.passage(ledger.entries[0] as TestEntry, 2_000, 'passed'),
    ledger.add('refusal', 3_000, {
      reason: 'invalid',
      explanation: 'no ticket',
      event_id: own.eventId,
      ticket_id: ticket.ticketId,
      facts: {},
      valid_again_at: undefined,
    }),
    ledger.add('settlement', 4_000, {
      of: [ledger.gate, 1, 1],
      outcome: 'passed',
      actor: 's-1',
      reason: 'seen',
      ticket_id: ticket.ticketId,
      event_id: own.eventId,
    }),
    ledger.add('conflict', 5_000, { of: [ledger.gate, 1, 1], verdict: 'excess', cause: 'gap', winner: [ledger.gate, 1, 1] }),
    ledger.add('override', 6_000, { actor: 's-1', action: 'open', reason: 'a wheelchair', units: 1, until: '2026-05-01T13:00:00.000Z', transaction: 't' }),
    ledger.add('mode', 7_000, { direction: 'in', from: 'controlled', to: 'free', actor: 's-1', reason: 'doors' }),
    ledger.add('fault', 8_000, { what: 'reader', detail: 'gone' }),
  ];
  let seq = 0;
  let previous = firstPredecessor(sha256, ledger.gate, 2);
  const texts: string[] = [];
  const write = (row: object, field: string, poison: string) => {
    const text = poisoned({ ...row, seq: ++seq, hash: undefined }, field, poison);
    try {
      previous = entryHash(sha256, previous, JSON.parse(text) as Record<string, unknown>);
    } catch {
      // No gate can write it: there is no canonical form to hash. The cloud keeps such a row apart.
      seq -= 1;
      return;
    }
    texts.push(`${text.slice(0, -1)},"hash":"${previous}"}`);
  };
  for (const row of kinds)
    for (const field of [...Object.keys(row), 'anything'].filter((name) => !['seq', 'hash', 'kind'].includes(name)))
      for (const poison of POISONS) write({ ...row, boot_id: 'boot-2', of: row.kind === 'passage' ? [2, 1] : row['of'] }, field, poison);
  const last = own.tickets[1] as TestTicket;
  write({ ...kinds[0], ticket_id: last.ticketId, ticket_ref: last.ticketRef }, 'anything', '"good"');

  const acks: AckMessage[] = [];
  const intake = createLedgerIntake<LedgerRow>({
    database: fresh.database,
    broker: { publish: async (_topic, payload) => void acks.push(JSON.parse(String(payload)) as AckMessage) },
    senders: createSenders(fresh.database),
    quarantine: createQuarantine(fresh.database),
    reconciler: { readRow, acksFor, reconcile, reconcileEach },
    log: SILENT,
  });
  for (let from = 0; from < texts.length; from += 100) {
    const text = `{"schema":1,"gate":${JSON.stringify(ledger.gate)},"epoch":2,"entries":[${texts.slice(from, from + 100).join(',')}]}`;
    intake.take(ledger.gate, message(topicOf({ kind: 'ledger', gate: ledger.gate }), text));
  }
  await intake.idle();
  expect(intake.stats()).toMatchObject({ rows: texts.length, quarantined: 0, let_go: 0 });
  expect(acks.at(-1)?.epochs.find(({ epoch }) => epoch === 2)).toMatchObject({ upto_seq: texts.length, missing: [] });
  expect(await ask('SELECT verdict FROM admissions WHERE ticket_id = $1', [last.ticketId])).toEqual([{ verdict: 'winner' }]);
  await everyQuestionIsAnswered();
});

test('T5: a row that PostgreSQL refuses is kept as one that says nothing, and its gate is told so', async () => {
  await fresh.database.asOwner((client) =>
    client.query(`CREATE OR REPLACE FUNCTION refuse_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.ticket_id = 'T-13' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
      CREATE TRIGGER refuse_one BEFORE INSERT ON admissions FOR EACH ROW EXECUTE FUNCTION refuse_one()`),
  );
  const ledger = testLedger(venue, 2);
  for (const ticket of venue.tickets.slice(9, 19)) ledger.grant(ticket, 1_000);
  const intake = createLedgerIntake<LedgerRow>({
    database: fresh.database,
    broker: { publish: async () => {} },
    senders: createSenders(fresh.database),
    quarantine: createQuarantine(fresh.database),
    reconciler: { readRow, acksFor, reconcile, reconcileEach },
    log: SILENT,
  });
  intake.take(ledger.gate, message(topicOf({ kind: 'ledger', gate: ledger.gate }), JSON.stringify(ledger.message())));
  await intake.idle();
  await fresh.database.asOwner((client) => client.query('DROP TRIGGER refuse_one ON admissions'));
  expect(intake.stats()).toMatchObject({ rows: 10, quarantined: 0 });
  expect(await ask('SELECT seq FROM ledger_rows WHERE gate = $1 AND NOT readable', [ledger.gate])).toEqual([{ seq: 4 }]);
  expect(await ask('SELECT count(*)::integer AS n FROM admissions WHERE gate = $1', [ledger.gate])).toEqual([{ n: 9 }]);
});

const example = (path: string) => JSON.parse(readFileSync(new URL(`../../contract/examples/${path}`, import.meta.url), 'utf8')) as Record<string, unknown>;
test.each(['state', 'info', 'health', 'alert'] as const)(
  'T5: a poisoned field of %s hides no other field, no other device, and is in quarantine',
  async (kind) => {
    const value = example({ state: 'state/online.json', info: 'info/pi.json', health: 'health/well.json', alert: 'alert/reader.json' }[kind]);
    const telemetry = createTelemetry({
      database: fresh.database,
      senders: createSenders(fresh.database),
      quarantine: createQuarantine(fresh.database),
      log: SILENT,
    });
    const [, north, south] = venue.gates as [string, string, string];
    const topic = (gate: string) => (kind === 'alert' ? { kind, gate, alert: 'disk' } : { kind, gate }) as TelemetryTopic;
    const named = (gate: string) => topicOf(topic(gate) as Parameters<typeof topicOf>[0]);
    const heard = async (gate: string) =>
      (
        await ask<{ word: Record<string, unknown> | null }>(
          kind === 'alert'
            ? "SELECT alert AS word FROM device_alerts WHERE device = $1 AND alert_id = 'disk'"
            : `SELECT ${kind} AS word FROM devices WHERE name = $1`,
          [gate],
        )
      )[0]?.word ?? null;
    for (const field of Object.keys(value).filter((name) => name !== 'schema' && !(kind === 'state' && ['state', 'session'].includes(name))))
      for (const [n, poison] of POISONS.entries()) {
        telemetry.take(topic(north), message(named(north), poisoned({ ...value, n }, field, poison)));
        telemetry.take(topic(south), message(named(south), JSON.stringify({ ...value, n })));
        // Written one after the other, not one batch for all: each of them must be heard.
        if (n % 7 !== 0) continue;
        await telemetry.flush();
        expect([field, poison, (await heard(north))?.['n'], (await heard(south))?.['n']]).toEqual([field, poison, n, n]);
      }
    await telemetry.close();
    expect(telemetry.stats().refused).toBeGreaterThan(0);
    await expect.poll(async () => (await ask('SELECT DISTINCT reason FROM quarantine WHERE topic = $1', [named(north)])).length).toBe(1);
    expect((await call('GET', '/gates', operator)).status).toBe(200);
  },
);

test.each([
  ['PUT', '/events/EV9', { name: 'A', starts_at: '2027-05-01T18:00:00.000Z', ends_at: '2027-05-01T22:00:00.000Z', time_zone: 'UTC', policies: {} }],
  ['PUT', '/events/EV8', { name: 'A', starts_at: '2027-05-01T18:00:00.000Z' }],
  ['PUT', '/tickets', null],
  ['POST', '/tickets/T-20/block', { reason: 'stolen', actor: 's-1' }],
] as const)('T5: %s %s answers an operator in words, whatever a field says', async (method, url, given) => {
  const ticket = {
    ticket_id: 'N-1',
    event_id: venue.eventId,
    code: 'a long enough code for a ticket 12345678',
    tier: 'standard',
    zone: 'A',
    status: 'sold',
    blocked: false,
    note: 'n',
    max_scans: 1,
    units: 1,
    valid_from: '2026-05-01T12:00:00.000Z',
    valid_until: '2026-05-01T13:00:00.000Z',
    price_cents: 100,
    seat: 'a',
  };
  for (const field of Object.keys(given ?? ticket))
    for (const poison of POISONS) {
      const body = given === null ? `{"tickets":[${poisoned(ticket, field, poison)}]}` : poisoned(given, field, poison);
      const { status, body: answer } = await call(method, url, operator, body);
      expect([field, poison, status < 500]).toEqual([field, poison, true]);
      if (status >= 400) expect(answer).toMatchObject({ success: false, error: expect.stringMatching(/^[A-Z_]+$/), message: expect.stringMatching(/\w/) });
    }
  expect((await call('GET', '/gates', operator)).status).toBe(200);
});

const COLUMNS = [
  'ticket_id',
  'code',
  'tier',
  'zone',
  'status',
  'blocked',
  'note',
  'max_scans',
  'units',
  'valid_from',
  'valid_until',
  'price_cents',
  'seat',
  'anything',
];
test('T5: an import takes every good line beside poisoned ones, and names those by line and field', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'stile-poison-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  let made = 0;
  const line = (field?: string, poison?: unknown) => {
    made += 1;
    const row: Record<string, unknown> = { ticket_id: `I-${made}`, code: createHash('sha256').update(`${made}`).digest('base64url'), tier: 'standard' };
    if (field !== undefined) row[field] = poison;
    return COLUMNS.map((name) => `"${String(row[name] ?? '').replaceAll('"', '""')}"`).join(',');
  };
  for (const field of COLUMNS) {
    const path = join(folder, `${field}.csv`);
    const bad = POISONS.map((poison) => line(field, JSON.parse(poison)));
    writeFileSync(path, [COLUMNS.join(','), line(), ...bad, line(), ''].join('\n'));
    const report = await importTickets({ database: fresh.database, tenantId: venue.tenantId, eventId: venue.eventId, path });
    expect([field, report.refused + report.created + report.updated + report.unchanged]).toEqual([field, POISONS.length + 2]);
    expect(report.errors.filter((error) => !/:\d+: \w+: \S/.test(error))).toEqual([]);
    const last = await ask('SELECT 1 FROM tickets WHERE event_id = $1 AND ticket_id = ANY ($2)', [venue.eventId, [`I-${made}`, `I-${made - 1}`]]);
    expect([field, last.length]).toEqual([field, 2]);
  }
});

function message(topic: string, text: string): IncomingMessage {
  return { topic, payload: Buffer.from(text), qos: 1, retain: false, acknowledge: () => {} };
}
