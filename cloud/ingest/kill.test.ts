/** Ingesters are killed in the middle of their work: nothing is lost, nothing counts twice. */
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { AckMessage } from '../../contract/ledger.ts';
import { topicOf } from '../../contract/topics.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { type FreshDatabase, freshDatabase, makeVenue, type TestTicket } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { createBroker } from '../mqtt/client.ts';

let fresh: FreshDatabase;
let mosquitto: Broker;
const children = new Set<ChildProcess>();
beforeAll(async () => {
  [fresh, mosquitto] = await Promise.all([freshDatabase(), startBroker()]);
});
afterAll(async () => {
  for (const child of children) child.kill('SIGKILL');
  await mosquitto.stop();
  await fresh.drop();
});

function ingester(): { child: ChildProcess; ready: Promise<void> } {
  const child = spawn(process.execPath, [join(import.meta.dirname, '../../testkit/ingest-process.ts')], {
    env: { ...process.env, DATABASE_URL: fresh.servingUrl, STILE_MQTT_URL: mosquitto.cloudUrl },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.add(child);
  child.on('exit', () => children.delete(child));
  const ready = new Promise<void>((done, failed) => {
    child.stdout?.once('data', () => done());
    child.once('exit', () => failed(new Error('the ingest ended')));
  });
  // One that is killed before it was ready is nobody's to wait for.
  ready.catch(() => {});
  return { child, ready };
}

test('two ingesters on one shared subscription, one after the other killed with -9 while six gates send: every row once, acknowledged', {
  timeout: 120_000,
}, async () => {
  const ROWS = 600;
  const venue = await makeVenue(fresh.url, { tickets: ROWS, gates: Array.from({ length: 6 }, (_, n) => `g${n}`) });
  const ledgers = venue.gates.map((_, index) => testLedger(venue, index));
  for (const [index, ledger] of ledgers.entries())
    for (let n = 0; n < ROWS; n++) ledger.grant(venue.tickets[(n * 7 + index) % ROWS] as TestTicket, n * 100 + index);

  const upto = new Map<string, number>(venue.gates.map((gate) => [gate, 0]));
  const sender = createBroker({
    settings: { url: mosquitto.cloudUrl, ca: null, cert: null, key: null },
    host: null,
    subscriptions: [`stile/1/${venue.site}/+/ack`],
    onMessage: (message) => {
      message.acknowledge();
      const gate = message.topic.split('/').slice(2, 4).join('/');
      const ack = AckMessage.parse(JSON.parse(Buffer.from(message.payload).toString()));
      upto.set(gate, Math.max(upto.get(gate) ?? 0, ack.epochs[0]?.upto_seq ?? 0));
    },
  });
  await sender.open();

  let running = [ingester(), ingester()];
  await Promise.all(running.map(({ ready }) => ready));
  let kills = 0;
  let working = true;
  const killing = (async () => {
    while (working && kills < 6) {
      const [oldest, other] = running as [ReturnType<typeof ingester>, ReturnType<typeof ingester>];
      // Each has been at work for a moment, of changing length, when it dies.
      await oldest.ready;
      await sleep(100 + 70 * kills);
      if (!working) return;
      oldest.child.kill('SIGKILL');
      kills += 1;
      running = [other, ingester()];
    }
  })();
  // As a gate does: at most 8 batches under way, and what is not acknowledged is sent again.
  const gates = ledgers.map(async (ledger) => {
    for (let done = 0; done < ROWS; done = upto.get(ledger.gate) as number) {
      for (let batch = 0; batch < 8 && done + batch * 20 < ROWS; batch++) {
        await sender
          .publish(
            topicOf({ kind: 'ledger', gate: ledger.gate }),
            JSON.stringify(ledger.message(ledger.entries.slice(done + batch * 20, done + batch * 20 + 20))),
            { qos: 1, retain: false },
          )
          .catch(() => {});
      }
      for (let waited = 0; waited < 500 && (upto.get(ledger.gate) as number) < Math.min(ROWS, done + 160); waited += 20) await sleep(20);
    }
  });
  await Promise.all(gates);
  working = false;
  await killing;
  await sender.close();
  expect(kills).toBeGreaterThan(1);

  const { rows } = await fresh.database.withTenant(venue.tenantId, (client) =>
    client.query(`SELECT (SELECT count(*) FROM ledger_rows) AS rows, (SELECT count(*) FROM (SELECT DISTINCT gate, epoch, seq FROM ledger_rows) AS keys) AS keys,
    count(*) FILTER (WHERE verdict = 'winner') AS winners, count(*) FILTER (WHERE verdict = 'excess') AS excess, (SELECT sum(grants) FROM gate_counts)::integer AS counted, (SELECT count(*) FROM quarantine) AS quarantined FROM admissions`),
  );
  expect(rows).toEqual([{ rows: 6 * ROWS, keys: 6 * ROWS, winners: ROWS, excess: 5 * ROWS, counted: 6 * ROWS, quarantined: 0 }]);
});
