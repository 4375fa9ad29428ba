/** Every kind of MQTT message × every sender, at the real ingest with the real database (FAULTS M1). What the broker lets through is test/faults/identity-matrix.ts. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createIngest, type Ingest } from '../../cloud/ingest/ingest.ts';
import { SILENT } from '../../cloud/log.ts';
import { lookUp } from '../../cloud/manifest/lookup.ts';
import { acksFor } from '../../cloud/reconcile/acks.ts';
import { markPublished, unpublishedCloudRows } from '../../cloud/reconcile/cloud-ledger.ts';
import { reconcile } from '../../cloud/reconcile/reconcile.ts';
import { type LedgerRow, readRow } from '../../cloud/reconcile/row.ts';
import { ticketUsage } from '../../cloud/reconcile/usage.ts';
import { DELIVERY, type Topic, topicOf } from '../../contract/topics.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type Venue } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';

/** How long a sender may be remembered: a revoked gate is heard no longer than that. Longer than the cloud's own bound. */
const FORGOTTEN_AFTER_MS = 6_000;

const SENDERS = ['gate', 'unassigned', 'scanner', 'stranger', 'revoked', 'unknown', 'revoked since', 'enrolled again'] as const;
type Sender = (typeof SENDERS)[number];
const LIVE: readonly Sender[] = ['gate', 'unassigned', 'scanner', 'stranger', 'enrolled again'];
const GATES: Readonly<Record<Sender, string>> = {
  gate: 'arena/north',
  unassigned: 'arena/idle',
  scanner: 'arena/scan-1',
  stranger: 'club/north',
  revoked: 'arena/gone',
  unknown: 'arena/nobody',
  'revoked since': 'arena/leaving',
  'enrolled again': 'arena/back',
};
type Effect = 'stored' | 'kept' | 'answered' | 'handed on' | 'nothing';

/** What each kind does when a live device says it on a topic of its own; closed by default: nobody else's word does anything. */
const KINDS: Readonly<Record<Topic['kind'], { readonly live: Effect; readonly others?: Effect; readonly example: string }>> = {
  ledger: { live: 'stored', example: 'ledger' },
  state: { live: 'kept', example: 'state' },
  info: { live: 'kept', example: 'info' },
  health: { live: 'kept', example: 'health' },
  alert: { live: 'kept', example: 'alert' },
  lookup: { live: 'answered', example: 'lookup' },
  // The cloud's clock is no secret, and a gate asks for it before anything else.
  time: { live: 'answered', others: 'answered', example: 'time' },
  // Whoever waits for an answer takes it from the gate that was asked alone; a revoked gate is asked nothing.
  response: { live: 'handed on', others: 'handed on', example: 'response' },
  handback: { live: 'nothing', example: 'handback' },
  stats: { live: 'nothing', example: 'stats' },
  event: { live: 'nothing', example: 'event' },
  // What the cloud says is nothing when a device says it.
  ack: { live: 'nothing', example: 'ack' },
  want: { live: 'nothing', example: 'want' },
  overlay: { live: 'nothing', example: 'overlay' },
  request: { live: 'nothing', example: 'request-open' },
  site_request: { live: 'nothing', example: 'request-open' },
  lookup_answer: { live: 'nothing', example: 'lookup-answer' },
  time_answer: { live: 'nothing', example: 'time-answer' },
  cloud_state: { live: 'nothing', example: 'cloud-state' },
};

let fresh: FreshDatabase;
let ours: Venue;
let theirs: Venue;
let ingest: Ingest;
/** So much later it is for the programs under test. */
let laterMs = 0;
const realNow = Date.now;
const published: string[] = [];
const handedOn: string[] = [];

beforeAll(async () => {
  fresh = await freshDatabase();
  ours = await makeVenue(fresh.url, { site: 'arena', gates: ['north', 'idle', 'scan-1', 'gone', 'leaving', 'back'] });
  theirs = await makeVenue(fresh.url, { site: 'club', gates: ['north'] });
  await fresh.database.withTenant(ours.tenantId, async (client) => {
    await client.query("UPDATE devices SET kind = 'scanner' WHERE gate_id = 'scan-1'");
    await client.query("UPDATE devices SET revoked_at = now() WHERE gate_id IN ('gone', 'back')");
    await client.query("DELETE FROM gate_assignments WHERE gate = 'arena/idle'");
  });
  Date.now = () => realNow() + laterMs;
  ingest = createIngest<LedgerRow>({
    database: fresh.database,
    broker: {
      open: async () => true,
      connected: () => true,
      close: async () => undefined,
      publish: async (topic) => void published.push(topic),
    },
    reconciler: { readRow, reconcile, acksFor, unpublishedCloudRows, markPublished },
    lookup: (tenantId, gate, question) => fresh.database.withTenant(tenantId, (client) => lookUp(client, gate, question, ticketUsage)),
    onResponse: (topic) => void handedOn.push(topic),
    log: SILENT,
  });
});
afterAll(async () => {
  Date.now = realNow;
  await ingest?.close();
  await fresh?.drop();
});

const examples = fileURLToPath(new URL('../../contract/examples/', import.meta.url));
function example(name: string): Record<string, unknown> {
  const file = readdirSync(`${examples}${name}`).find((one) => one.endsWith('.json')) as string;
  return JSON.parse(readFileSync(`${examples}${name}/${file}`, 'utf8')) as Record<string, unknown>;
}

const EPOCHS = new Map<Sender, number>();
function payloadOf(kind: Topic['kind'], sender: Sender): unknown {
  const gate = GATES[sender];
  if (kind !== 'ledger')
    return kind === 'lookup' ? { schema: 1, n: 7, refs: [{ event_id: ours.eventId, ticket_ref: ours.tickets[0]?.ticketRef }] } : example(KINDS[kind].example);
  const epoch = (EPOCHS.get(sender) ?? 0) + 1;
  EPOCHS.set(sender, epoch);
  const ledger = testLedger({ ...ours, gates: [gate] }, 0, epoch);
  ledger.add('alarm', 0, { what: 'test', detail: 'x' });
  return ledger.message();
}

/** Hands the message in as the broker does, and answers when ingest is done with it. */
async function say(topic: string, payload: unknown): Promise<void> {
  await new Promise<void>((acknowledge) => ingest.receive({ topic, payload: Buffer.from(JSON.stringify(payload)), qos: 1, retain: false, acknowledge }));
  await ingest.idle();
  // An answer is published beside the acknowledgement.
  await new Promise((resolve) => setImmediate(resolve));
}

/** All that either tenant has, but for what is put away as not believed. */
async function state(): Promise<string> {
  const told = (tenantId: string) =>
    fresh.database.withTenant(tenantId, async (client) => {
      const texts: string[] = [];
      for (const table of ['devices', 'device_alerts', 'ledgers', 'ledger_rows', 'ledger_epochs', 'admissions', 'ticket_usage', 'boots', 'outbox'])
        texts.push(
          (await client.query<{ text: string | null }>(`SELECT string_agg(t::text, E'\\n' ORDER BY t::text) AS text FROM ${table} AS t`)).rows[0]?.text ?? '',
        );
      return texts.join('\n--\n');
    });
  return `${await told(ours.tenantId)}\n==\n${await told(theirs.tenantId)}`;
}

async function effectOf(kind: Topic['kind'], sender: Sender): Promise<Effect> {
  const gate = GATES[sender];
  const topic = topicOf({ kind, gate, alert: 'reader-in', command: 'open', n: 7, site: gate.split('/')[0], host: 'liar' } as unknown as Topic);
  const before = await state();
  published.length = 0;
  handedOn.length = 0;
  await say(topic, payloadOf(kind, sender));
  const after = await state();
  if (handedOn.length > 0) return 'handed on';
  if (published.some((one) => /\/(lookup|time)\/\d+$/.test(one))) return 'answered';
  if (before === after) return 'nothing';
  return kind === 'ledger' ? 'stored' : 'kept';
}

test('M1: every kind of message has a line, and its word counts from whom it should and from nobody else', async () => {
  expect(Object.keys(KINDS).sort()).toEqual(Object.keys(DELIVERY).sort());
  // Both are known to this process before they change: the one is revoked now, the other enrolled again.
  for (const sender of ['revoked since', 'enrolled again'] as const) await say(topicOf({ kind: 'health', gate: GATES[sender] }), example('health'));
  expect(await effectOf('ledger', 'revoked since')).toBe('stored');
  expect(await effectOf('ledger', 'enrolled again')).toBe('nothing');
  await fresh.database.withTenant(ours.tenantId, (client) =>
    client.query("UPDATE devices SET revoked_at = CASE gate_id WHEN 'leaving' THEN now() END WHERE gate_id IN ('leaving', 'back')"),
  );
  laterMs = FORGOTTEN_AFTER_MS;
  const wrong: string[] = [];
  for (const kind of Object.keys(KINDS) as Topic['kind'][])
    for (const sender of SENDERS) {
      const { live, others = 'nothing' } = KINDS[kind];
      const expected = LIVE.includes(sender) ? live : others;
      const effect = await effectOf(kind, sender);
      if (effect !== expected) wrong.push(`${kind} of ${sender}: ${effect}, not ${expected}`);
    }
  expect(wrong).toEqual([]);
});

test("M1: on its own topic no gate speaks for another gate, for the cloud, or for another tenant's event", async () => {
  const before = await state();
  for (const other of ['arena/idle', 'arena/cloud', 'club/north', 'club/cloud']) {
    const ledger = testLedger({ ...ours, gates: [other] }, 0, 9);
    ledger.add('alarm', 0, { what: 'test', detail: 'x' });
    await say(topicOf({ kind: 'ledger', gate: 'arena/north' }), ledger.message());
  }
  expect(await state()).toBe(before);
  // Facts of events that the gate is assigned, of its own tenant, and of no others.
  const answers: number[] = [];
  for (const gate of ['arena/north', 'arena/idle', 'club/north']) {
    const tenantId = gate.startsWith('club') ? theirs.tenantId : ours.tenantId;
    const question = { schema: 1 as const, n: 1, refs: [{ event_id: ours.eventId, ticket_ref: ours.tickets[0]?.ticketRef as string }] };
    answers.push((await fresh.database.withTenant(tenantId, (client) => lookUp(client, gate, question, ticketUsage))).length);
  }
  expect(answers).toEqual([1, 0, 0]);
});
