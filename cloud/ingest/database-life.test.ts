/** A database that was restored from an older copy: it is noticed, and what the cloud writes from then on cannot be taken for what it wrote before (T2). */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { AckMessage } from '../../contract/ledger.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket, type Venue } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { SILENT } from '../log.ts';
import { createBroker } from '../mqtt/client.ts';
import { readRetainedAcks } from '../mqtt/retained-acks.ts';
import { acksFor } from '../reconcile/acks.ts';
import { appendCloudRows } from '../reconcile/cloud-ledger.ts';
import { reconcile } from '../reconcile/reconcile.ts';
import { checkLife, publishAllAcks, renewLife } from './database-life.ts';
import { createSenders } from './sender-cache.ts';

let fresh: FreshDatabase;
let venue: Venue;
beforeAll(async () => {
  fresh = await freshDatabase();
  venue = await makeVenue(fresh.url);
});
afterAll(() => fresh.drop());

const lives = async () =>
  (await fresh.database.withoutTenant((client) => client.query<{ life: string }>('SELECT life FROM database_lives ORDER BY began_at'))).rows.map(
    ({ life }) => life,
  );
const check = (retained: ReadonlyMap<string, AckMessage>) =>
  checkLife({ database: fresh.database, senders: createSenders(fresh.database), acksFor, retained, log: SILENT });
const acks = () => fresh.database.withTenant(venue.tenantId, (client) => acksFor(client, venue.gates));
const override = { kind: 'override', actor: 'op-1', action: 'open', reason: 'test' } as const;
const append = () => fresh.database.withTenant(venue.tenantId, (client) => appendCloudRows(client, venue.site, [override]));
const heads = (shown: object) =>
  fresh.database.withTenant(
    venue.tenantId,
    async (client) =>
      (await client.query<{ a: { ahead: boolean; wants: unknown[] } }>('SELECT take_heads($1, $2, 10) AS a', [venue.site, JSON.stringify(shown)])).rows[0]?.a,
  );

test('T2: what is retained names more than the database holds, or a life that it never had: a new life begins, once', async () => {
  const ledger = testLedger(venue, 0);
  for (const ticket of venue.tickets.slice(0, 3)) ledger.grant(ticket as TestTicket, 1_000);
  await fresh.database.withTenant(venue.tenantId, (client) => reconcile(client, ledger.rows()));
  const now = await acks();
  expect(await check(now)).toBe(false);
  expect(await check(new Map())).toBe(false);
  const [first] = await lives();
  expect(now.get(ledger.gate)).toMatchObject({ since: first });

  // The copy that was put back lacks what was acknowledged after it was made.
  const own = now.get(ledger.gate) as AckMessage;
  const later = new Map([[ledger.gate, { ...own, epochs: own.epochs.map((epoch) => ({ ...epoch, upto_seq: epoch.upto_seq + 2 })) }]]);
  expect(await check(later)).toBe(true);
  expect(await lives()).toHaveLength(2);
  expect((await acks()).get(ledger.gate)?.since).not.toBe(first);
  // Another ingester that reads the same acknowledgements finds the life renewed.
  expect(await check(later)).toBe(false);
  expect(await lives()).toHaveLength(2);

  const strange = new Map([[ledger.gate, { ...own, since: '0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b' }]]);
  expect(await check(strange)).toBe(true);
  expect(await lives()).toHaveLength(3);
  // Two that notice at once begin one life.
  const [, , present] = await lives();
  await Promise.all([renewLife(fresh.database, present as string, 'test'), renewLife(fresh.database, present as string, 'test')]);
  expect(await lives()).toHaveLength(4);
});

test('T2: in a new life every ledger of the cloud begins a new epoch, above what any gate has seen', async () => {
  const before = await append();
  expect((await append()).epoch).toBe(before.epoch);
  await renewLife(fresh.database, (await lives()).at(-1) as string, 'test');
  const after = await append();
  expect(after.epoch).toBeGreaterThan(before.epoch);
  expect(after.rows[0]?.seq).toBe(1);
  expect((await append()).epoch).toBe(after.epoch);
  // In SQL as well, and above an epoch that only a gate knows.
  const seen = after.epoch + 5_000;
  const ledger = `${venue.site}/cloud`;
  expect(await heads({ [ledger]: { [seen]: [7, 'ab'.repeat(32)] } })).toEqual({ ahead: true, wants: [[ledger, seen, 1, 7]] });
  await renewLife(fresh.database, (await lives()).at(-1) as string, 'test');
  const { rows } = await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query<{ epoch: number; first_seq: number }>('SELECT epoch, first_seq FROM append_cloud_rows($1, $2)', [
      venue.site,
      JSON.stringify([{ ...override }]),
    ]),
  );
  expect(rows).toEqual([{ epoch: seen + 1, first_seq: 1 }]);
  // What was shown once is no news, and what this life holds is not ahead.
  expect(await heads({ [ledger]: { [seen]: [7, 'ab'.repeat(32)] } })).toMatchObject({ ahead: false });
  expect(await heads({ [ledger]: { [seen + 1]: [1, 'ab'.repeat(32)] } })).toEqual({ ahead: false, wants: [] });
  // A gate shows a later row of this very life: the database went back since.
  expect(await heads({ [ledger]: { [seen + 1]: [3, 'ab'.repeat(32)] } })).toEqual({ ahead: true, wants: [[ledger, seen + 1, 2, 3]] });
});

test('T2: the broker gives what it retains of acknowledgements, and every gate gets its own anew', async () => {
  const running: Broker = await startBroker();
  const settings = { url: running.cloudUrl, ca: null, cert: null, key: null };
  const broker = createBroker({ settings, host: null });
  try {
    expect(await readRetainedAcks(settings)).toEqual(new Map());
    expect(await broker.open()).toBe(true);
    expect(await publishAllAcks({ database: fresh.database, broker, acksFor })).toBe(1);
    const retained = await readRetainedAcks(settings);
    expect([...(retained ?? [])].map(([gate, ack]) => [gate, ack.epochs.map(({ upto_seq }) => upto_seq)])).toEqual([[venue.gates[0], [3]]]);
    expect(await check(retained as Map<string, AckMessage>)).toBe(false);
  } finally {
    await broker.close();
    await running.stop();
  }
});
