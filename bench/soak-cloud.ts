/**
 * A cloud with many gates: the cloud as a process (`stile-cloud all`), Mosquitto, Postgres that waits for its disk, and gates that send
 * a row each on its own every second, and their health every 30 s, for minutes. Memory, loop, backlog, and the wait for the ack over time.
 *
 *   node bench/soak-cloud.ts [--minutes 10] [--gates 200] [--rate 200] [--svg docs/soak-cloud.svg]
 *
 * `--rate`: rows a second of all gates together; a busy venue's 200 lanes make about that. Rows are whole and chained, half of them
 * grants and half their passages. Gates share some connections; what is not acknowledged is sent again. Ends with 1 where a row was lost or doubled.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type CloudBroker, createBroker } from '../cloud/mqtt/client.ts';
import { parseTopic, topicOf } from '../contract/topics.ts';
import { compare } from '../test/faults/counts.ts';
import { heldRows, openWorld } from '../test/faults/environment.ts';
import { makeVenue, type TestTicket } from '../testkit/database.ts';
import { type TestEntry, type TestLedger, testLedger } from '../testkit/ledgers.ts';
import { openStack } from '../testkit/stack.ts';
import { chart } from './chart.ts';
import { growthMbPerHour, machine, probed, startProbes, windows } from './soak.ts';
import { quantile } from './table.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    gates: { type: 'string', default: '200' },
    rate: { type: 'string', default: '200' },
    svg: { type: 'string', default: 'docs/soak-cloud.svg' },
  },
});
const [MINUTES, GATES, RATE] = [Number(values.minutes), Number(values.gates), Number(values.rate)];
const CONNECTIONS = 8;
const RESEND_MS = 5_000;
const HEALTH_MS = 30_000;
const SETTLE_MS = 120_000;

interface Gate {
  readonly ledger: TestLedger;
  readonly broker: CloudBroker;
  readonly sent: Map<number, { readonly atMs: number; againMs: number; readonly payload: string }>;
  acked: number;
  open: TestEntry | null;
}

const probes = startProbes();
const dir = mkdtempSync(join(tmpdir(), 'stile-soak-'));
const world = await openWorld();
const perGate = Math.ceil((MINUTES * 60 * RATE) / GATES / 2) + 2;
const venue = await makeVenue(world.postgres.url, { gates: Array.from({ length: GATES }, (_, n) => `g${n}`), tickets: perGate * GATES });
const stack = await openStack({ dir, databaseUrl: world.postgres.servingUrl, mqtt: { url: world.broker.cloudUrl }, env: { STILE_LOG_LEVEL: 'warn' } });
const brokers: CloudBroker[] = [];
let wrong = true;
try {
  await stack.startCloud();
  const [cloudPid] = probes.pids();
  const gates: Gate[] = [];
  const byName = new Map<string, Gate>();
  const waits: (readonly [number, number])[] = [];
  const backlog: (readonly [number, number])[] = [];
  let beganMs = Date.now();
  const since = () => (Date.now() - beganMs) / 1_000;
  for (let n = 0; n < CONNECTIONS; n++) {
    const broker = createBroker({
      settings: { url: world.broker.url, ca: null, cert: null, key: null },
      host: null,
      subscriptions: n === 0 ? ['stile/1/+/+/ack'] : [],
      onMessage: (message) => {
        message.acknowledge();
        const topic = parseTopic(message.topic);
        const gate = topic?.kind === 'ack' ? byName.get(topic.gate) : undefined;
        if (gate === undefined) return;
        const upto = (JSON.parse(Buffer.from(message.payload).toString()) as { epochs: { upto_seq: number }[] }).epochs.at(-1)?.upto_seq ?? 0;
        for (; gate.acked < upto; gate.acked++) {
          const sent = gate.sent.get(gate.acked + 1);
          if (sent !== undefined) waits.push([since(), performance.now() - sent.atMs]);
          gate.sent.delete(gate.acked + 1);
        }
      },
    });
    await broker.open();
    brokers.push(broker);
  }
  for (const [index, name] of venue.gates.entries()) {
    const gate: Gate = { ledger: testLedger(venue, index), broker: brokers[index % CONNECTIONS] as CloudBroker, sent: new Map(), acked: 0, open: null };
    gates.push(gate);
    byName.set(name, gate);
  }
  const publish = (gate: Gate, payload: string) =>
    void gate.broker.publish(topicOf({ kind: 'ledger', gate: gate.ledger.gate }), payload, { qos: 1, retain: false }).catch(() => undefined);
  const say = (gate: Gate, index: number) => {
    const atMs = Math.round(since() * 1_000) + 1;
    const ticket = venue.tickets[Math.floor(gate.ledger.entries.length / 2) * GATES + index] as TestTicket;
    const entry: TestEntry = gate.open === null ? gate.ledger.grant(ticket, atMs) : gate.ledger.passage(gate.open, atMs, 'passed');
    gate.open = gate.open === null ? entry : null;
    const payload = JSON.stringify(gate.ledger.message([entry]));
    gate.sent.set(entry.seq, { atMs: performance.now(), againMs: performance.now(), payload });
    publish(gate, payload);
  };
  const looks = setInterval(() => {
    const now = performance.now();
    backlog.push([since(), gates.reduce((sum, { sent }) => sum + sent.size, 0)]);
    for (const gate of gates)
      for (const sent of gate.sent.values())
        if (now - sent.againMs > RESEND_MS) {
          sent.againMs = now;
          publish(gate, sent.payload);
        }
  }, 1_000);
  const health = setInterval(() => {
    for (const { ledger, broker } of gates)
      void broker
        .publish(topicOf({ kind: 'health', gate: ledger.gate }), JSON.stringify({ schema: 1, uptime_s: 1, loop_lag_ms: 1, rss_mb: 70, backlog: 0 }), {
          qos: 0,
          retain: true,
        })
        .catch(() => undefined);
  }, HEALTH_MS);
  beganMs = Date.now();
  for (let count = 0; since() < MINUTES * 60; ) {
    for (const due = Math.ceil(since() * RATE); count < due; count++) say(gates[count % GATES] as Gate, count % GATES);
    await sleep(5);
  }
  const load = machine();
  const endMs = Date.now();
  for (let waited = 0; waited < SETTLE_MS && gates.some(({ sent }) => sent.size > 0); waited += 100) await sleep(100);
  clearInterval(looks);
  clearInterval(health);
  const own = gates.flatMap(({ ledger }) => ledger.entries.map(({ seq, hash }) => ({ gate: ledger.gate, epoch: ledger.epoch, seq, hash })));
  const { rows, lost, doubled, changed } = compare(own, await heldRows(world.postgres.url));
  wrong = lost + doubled + changed > 0;
  const lines = probes.lines(cloudPid as number).filter(({ at }) => at <= endMs);
  const during = lines.filter(({ at }) => at >= beganMs);
  const rss = during.map((line) => line.rss);
  const ms = waits.map(([, wait]) => wait);
  const { p50, p99 } = windows(waits);
  writeFileSync(
    values.svg,
    chart(
      `A cloud with ${GATES} gates, ${(rows / (MINUTES * 60)).toFixed(0)} rows a second for ${MINUTES} minutes`,
      [
        { title: 'resident memory, MB', series: [probed('cloud', lines, beganMs, 'rss')] },
        {
          title: 'loop, ms: kept busy at a time, and late by the clock',
          series: [probed('busy', lines, beganMs, 'busy'), probed('late', lines, beganMs, 'late')],
        },
        { title: 'rows sent and not acknowledged', series: [{ name: 'backlog', points: backlog }] },
        { title: 'from the publish to the ack, ms', series: [p50, p99] },
      ],
      load,
    ),
  );
  console.log(
    `figure: ${GATES} gates, ${rows} rows in ${MINUTES} min (${(rows / (MINUTES * 60)).toFixed(0)} a second): ${lost} lost, ${doubled} doubled; acknowledged after ${quantile(ms, 0.5).toFixed(0)} ms (p50), ${quantile(ms, 0.99).toFixed(0)} ms (p99); backlog at most ${Math.max(...backlog.map(([, n]) => n))} rows`,
  );
  console.log(
    `figure: the cloud's memory ${rss[0]} MB at first, ${Math.max(...rss)} at most, ${rss.at(-1)} at last; ${growthMbPerHour(lines, beganMs).toFixed(1)} MB an hour over the second half; loop busy for ${Math.max(...during.map(({ busy }) => busy))} ms at a time at most, late by ${Math.max(...during.map(({ late }) => late))} ms`,
  );
  console.log(`${load}; drawn in ${values.svg}`);
} finally {
  for (const broker of brokers) await broker.close();
  await stack.close();
  await world.close();
  rmSync(dir, { recursive: true, force: true });
}
process.exit(wrong ? 1 : 0);
