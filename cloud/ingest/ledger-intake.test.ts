/** Transactions at once: where a backlog waits, and never two of one gate. */
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import type { Database } from '../db/database.ts';
import { SILENT } from '../log.ts';
import type { IncomingMessage } from '../mqtt/client.ts';
import { acksFor } from '../reconcile/acks.ts';
import { reconcile } from '../reconcile/reconcile.ts';
import { type LedgerRow, readRow } from '../reconcile/row.ts';
import { createLedgerIntake } from './ledger-intake.ts';
import { createQuarantine } from './quarantine.ts';
import { createSenders, type Senders } from './sender-cache.ts';

let fresh: FreshDatabase;
beforeAll(async () => {
  fresh = await freshDatabase();
});
afterAll(async () => {
  await fresh.drop();
});

test('a backlog goes in two transactions at once, of different gates; little goes in one after the other', async () => {
  const venue = await makeVenue(fresh.url, { gates: ['a', 'b', 'c', 'd', 'e'], tickets: 800 });
  const ledgers = venue.gates.map((_, index) => testLedger(venue, index));
  for (const [index, ledger] of ledgers.entries()) for (const [n, ticket] of venue.tickets.entries()) ledger.grant(ticket as TestTicket, n * 1_000 + index);

  /** Gates of the transactions that are in their work; the first one waits there until the test lets it go on. */
  const under: ReadonlySet<string>[] = [];
  let most = 0;
  let shared = 0;
  let goOn: () => void = () => {};
  let wait: Promise<void> | null = null;
  let acknowledged = 0;
  onTestFinished(() => goOn());
  const intake = createLedgerIntake<LedgerRow>({
    database: fresh.database,
    broker: { publish: async () => {} },
    senders: createSenders(fresh.database),
    quarantine: createQuarantine(fresh.database),
    reconciler: {
      readRow,
      acksFor,
      async reconcile(client, rows) {
        const gates = new Set(rows.map(({ gate }) => gate));
        shared += under.filter((other) => [...gates].some((gate) => other.has(gate))).length;
        under.push(gates);
        most = Math.max(most, under.length);
        const held = wait;
        wait = null;
        await held;
        const done = await reconcile(client, rows);
        under.splice(under.indexOf(gates), 1);
        return done;
      },
    },
    log: SILENT,
  });
  const say = (gate: number, from: number, to: number): void => {
    const ledger = ledgers[gate] as (typeof ledgers)[number];
    const message: IncomingMessage = {
      topic: `stile/1/${ledger.gate}/ledger`,
      payload: Buffer.from(JSON.stringify(ledger.message(ledger.entries.slice(from, to)))),
      qos: 1,
      retain: false,
      acknowledge() {
        acknowledged += 1;
      },
    };
    intake.take(ledger.gate, message);
  };
  const hold = () => {
    wait = new Promise((done) => {
      goOn = done;
    });
  };

  // While one is held, a few rows wait for its end.
  hold();
  say(4, 0, 1);
  await expect.poll(() => under.length).toBe(1);
  say(3, 0, 1);
  say(4, 1, 2);
  await new Promise((done) => setTimeout(done, 200));
  expect([most, intake.stats().waiting]).toEqual([1, 2]);
  goOn();
  await intake.idle();
  expect([intake.stats().rows, acknowledged]).toEqual([3, 3]);

  // While one is held, the backlog of the others goes on; what its own gates sent waits.
  hold();
  for (let at = 0; at < 800; at += 100) for (let gate = 0; gate < 3; gate++) say(gate, at, at + 100);
  await expect.poll(() => intake.stats().rows).toBeGreaterThan(800);
  expect(under).toHaveLength(1);
  goOn();
  await intake.idle();
  expect([most, shared, intake.stats().rows, acknowledged, intake.stats().retries]).toEqual([2, 0, 2_403, 27, 0]);
  await intake.close();
});

test('X4: rows that come quickly one by one are committed together; a guest after a pause is not kept waiting', async () => {
  let transactions = 0;
  let rows = 0;
  let nowMs = 0;
  const waiters = new Set<{ readonly atMs: number; readonly wake: () => void }>();
  const client = { query: async () => ({ rows: [], rowCount: 0 }) };
  const intake = createLedgerIntake<number>({
    database: { withTenant: async (_tenant: string, work: (with_: typeof client) => unknown) => work(client) } as unknown as Database,
    broker: { publish: async () => {} },
    senders: { resolveAll: async (gates) => new Map([...gates].map((gate) => [gate, { kind: 'device', tenantId: 'tenant' }])) } as Senders,
    quarantine: createQuarantine(fresh.database),
    reconciler: {
      readRow: (_gate, _epoch, entry) => (entry as { seq: number }).seq,
      acksFor: async () => new Map(),
      async reconcile(_client, some) {
        transactions += 1;
        rows += some.length;
        return { stored: some.length, duplicates: 0, forked: [] };
      },
    },
    log: SILENT,
    clock: { now: () => nowMs, wait: (ms) => new Promise((wake) => waiters.add({ atMs: nowMs + ms, wake })) },
  });
  const pass = (ms: number) => {
    nowMs += ms;
    for (const waiter of waiters)
      if (waiter.atMs <= nowMs) {
        waiters.delete(waiter);
        waiter.wake();
      }
  };
  let seq = 0;
  const say = () =>
    intake.take('site/gate', {
      topic: 'stile/1/site/gate/ledger',
      payload: Buffer.from(JSON.stringify({ schema: 1, gate: 'site/gate', epoch: 1, entries: [{ seq: ++seq }] })),
      qos: 1,
      retain: false,
      acknowledge() {},
    });
  const turns = async (count: number) => {
    for (let turn = 0; turn < count; turn++) await new Promise(setImmediate);
  };
  const lone = async () => {
    const before = rows;
    say();
    await turns(20);
    expect(rows).toBe(before + 1);
  };
  await lone();
  /** A row a millisecond. */
  const steadily = async (ms: number) => {
    for (let n = 0; n < ms; n++) {
      say();
      pass(1);
      await turns(5);
    }
  };
  // The rate is measured first.
  await steadily(500);
  const before = { transactions, rows: seq };
  await steadily(500);
  expect(seq - before.rows).toBe(500);
  expect(transactions - before.transactions).toBe(500 / 25);
  pass(25);
  await turns(20);
  expect(rows).toBe(seq);
  pass(500);
  await lone();
  await intake.close();
});
