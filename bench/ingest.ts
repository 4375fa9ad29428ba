/**
 * Ingest, measured end to end: simulated gates → the real Mosquitto → ingesters (processes of their own) → PostgreSQL that waits for its disk → ack.
 *
 *   live       every gate sends single rows at a steady rate, one rate after the other; latency from the publish to the ack that covers the row, and the
 *              processor time that PostgreSQL spends on a transaction (schedstat)
 *   live, all by batches   the same, with the short way of a lone row taken out (reconcile_ordinary_row answers nothing)
 *   catching   every gate has a backlog and keeps at most 8 messages of 100 rows under way, as a gate does
 *   singly     the same with messages of one row (--singly: how many rows; 0: not at all), for the ratio of the two
 *
 *   node bench/ingest.ts [--gates 200] [--rows 100000] [--singly 10000] [--live-rates 1,100,370,1000] [--live-seconds 10] [--ingesters 1,2]
 *
 * Rows are whole and chained, half of them grants and half their passages. Publishers share a few connections; without TLS. Nothing may be lost or doubled.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { connectOwner, type OwnerConnection } from '../cloud/db/database.ts';
import { migrate } from '../cloud/db/migrate.ts';
import { type CloudBroker, createBroker, type IncomingMessage } from '../cloud/mqtt/client.ts';
import { MAX_BATCHES_IN_FLIGHT, MAX_LEDGER_ENTRIES } from '../contract/limits.ts';
import { parseTopic, topicOf } from '../contract/topics.ts';
import { startBroker } from '../testkit/broker.ts';
import { makeVenue, type TestTicket, type Venue } from '../testkit/database.ts';
import { type TestLedger, testLedger } from '../testkit/ledgers.ts';
import { startPostgres } from '../testkit/postgres.ts';
import { quantile, table } from './table.ts';

const { values } = parseArgs({
  options: {
    gates: { type: 'string', default: '200' },
    rows: { type: 'string', default: '100000' },
    singly: { type: 'string', default: '10000' },
    'live-rates': { type: 'string', default: '1,100,370,1000' },
    'live-seconds': { type: 'string', default: '10' },
    ingesters: { type: 'string', default: '1,2' },
  },
});
const GATES = Number(values.gates);
const ROWS = Number(values.rows);
const SINGLY = Number(values.singly);
const LIVE_RATES = values['live-rates'].split(',').map(Number);
const LIVE_SECONDS = Number(values['live-seconds']);
const INGESTERS = values.ingesters.split(',').map(Number);
/** Rows of a live run at the least: a rate of one a second takes as many seconds. */
const LEAST_LIVE_ROWS = 30;
/** How long PostgreSQL's processor time without rows is measured before a run, in ms: what ingest asks every second is no row's. */
const IDLE_MS = 3_000;
/** Connections that the simulated gates share. */
const CONNECTIONS = 8;
/** A message without an ack is sent again after so long, as a gate does. */
const RESEND_MS = 5_000;
/** Without any progress for so long, a run has failed. */
const STALLED_MS = 60_000;

interface Gate {
  readonly ledger: TestLedger;
  readonly broker: CloudBroker;
  acked: number;
  /** First row that was not sent yet. */
  next: number;
  /** Unacknowledged messages: last seq → when it was sent, its payload. */
  readonly flying: Map<number, { at: number; readonly first: number; readonly payload: string }>;
  readonly sentAt: Map<number, number>;
}

/** A venue whose gates have written their rows already. */
async function makeGates(url: string, brokers: readonly CloudBroker[], rows: number): Promise<{ venue: Venue; gates: Gate[] }> {
  const names = Array.from({ length: GATES }, (_, index) => `gate-${index}`);
  const perGate = Math.ceil(rows / GATES / 2);
  const venue = await makeVenue(url, { site: `i${randomBytes(4).toString('hex')}`, gates: names, tickets: perGate * GATES });
  const order = [...venue.tickets].sort((a, b) => (a.ticketRef < b.ticketRef ? -1 : 1));
  const gates = names.map((_, index): Gate => {
    const ledger = testLedger(venue, index);
    for (let n = 0; n < perGate; n++) {
      const atMs = 1_000 + n * 4_000;
      ledger.passage(
        ledger.grant(order[n * GATES + index] as TestTicket, atMs, { seen: { [venue.gates[(index + n) % GATES] as string]: [1, n + 1] } }),
        atMs + 900,
        'passed',
      );
    }
    return { ledger, broker: brokers[index % brokers.length] as CloudBroker, acked: 0, next: 0, flying: new Map(), sentAt: new Map() };
  });
  return { venue, gates };
}

function send(gate: Gate, count: number): void {
  const entries = gate.ledger.entries.slice(gate.next, gate.next + count);
  const last = entries.at(-1);
  if (last === undefined) return;
  const payload = JSON.stringify(gate.ledger.message(entries));
  const at = performance.now();
  for (const { seq } of entries) gate.sentAt.set(seq, at);
  gate.flying.set(last.seq, { at, first: gate.next + 1, payload });
  gate.next += entries.length;
  publish(gate, payload);
}
const publish = (gate: Gate, payload: string) =>
  void gate.broker.publish(topicOf({ kind: 'ledger', gate: gate.ledger.gate }), payload, { qos: 1, retain: false }).catch(() => {});

let resent = 0;
function resend(gates: readonly Gate[]): void {
  const now = performance.now();
  for (const gate of gates)
    for (const flight of gate.flying.values())
      if (now - flight.at > RESEND_MS) {
        flight.at = now;
        resent += 1;
        publish(gate, flight.payload);
      }
}

/** Takes the acks in; answers how long each row waited for its own, and calls `onAck` for its gate. */
function listen(gates: readonly Gate[], onAck: (gate: Gate) => void): { readonly waits: number[]; receive(message: IncomingMessage): void } {
  const byName = new Map(gates.map((gate) => [gate.ledger.gate, gate]));
  const waits: number[] = [];
  return {
    waits,
    receive(message) {
      const topic = parseTopic(message.topic);
      const gate = topic?.kind === 'ack' ? byName.get(topic.gate) : undefined;
      if (gate === undefined) return;
      const upto = (JSON.parse(Buffer.from(message.payload).toString()) as { epochs: { upto_seq: number }[] }).epochs.at(-1)?.upto_seq ?? 0;
      const now = performance.now();
      for (let seq = gate.acked + 1; seq <= upto; seq++) {
        waits.push(now - (gate.sentAt.get(seq) ?? now));
        gate.sentAt.delete(seq);
      }
      if (upto > gate.acked) gate.acked = upto;
      for (const last of gate.flying.keys()) if (last <= gate.acked) gate.flying.delete(last);
      onAck(gate);
    },
  };
}

async function until(done: () => boolean, progress: () => number, gates: readonly Gate[]): Promise<void> {
  let seen = -1;
  let at = performance.now();
  while (!done()) {
    await sleep(20);
    resend(gates);
    const now = progress();
    if (now !== seen) [seen, at] = [now, performance.now()];
    if (performance.now() - at > STALLED_MS) throw new Error(`nothing was acknowledged for ${STALLED_MS / 1000} s (${now} rows were)`);
  }
}

async function startIngester(databaseUrl: string, mqttUrl: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, [join(import.meta.dirname, '../testkit/ingest-process.ts')], {
    env: { ...process.env, DATABASE_URL: databaseUrl, STILE_MQTT_URL: mqttUrl },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('exit', (code) => reject(new Error(`an ingester ended at its start: ${code}`)));
  });
  return child;
}

/** Processor time that PostgreSQL's connections to this database have had, by process, in ns. Empty where this is not Linux. */
async function processorNs(owner: OwnerConnection): Promise<Map<number, number>> {
  const { rows } = await owner.query<{ pid: number }>("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'stile'");
  const spent = new Map<number, number>();
  for (const { pid } of rows)
    try {
      spent.set(pid, Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0]));
    } catch {
      // Gone, or never here.
    }
  return spent;
}
const spentBetween = (before: ReadonlyMap<number, number>, after: ReadonlyMap<number, number>) =>
  [...after].reduce((sum, [pid, ns]) => sum + ns - (before.get(pid) ?? 0), 0);

/** Replaces the short way of a lone row by one that answers nothing, and answers how to put it back. */
async function withoutShortWay(owner: OwnerConnection): Promise<() => Promise<void>> {
  const { rows } = await owner.query<{ sql: string }>("SELECT pg_get_functiondef('reconcile_ordinary_row'::regproc) AS sql");
  const sql = rows[0]?.sql as string;
  await owner.query(`${sql.slice(0, sql.indexOf('AS $function$'))}AS $$ BEGIN RETURN NULL; END $$`);
  return async () => {
    await owner.query(sql);
  };
}

const walPosition = async (owner: OwnerConnection) =>
  Number((await owner.query<{ at: string }>("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn AS at")).rows[0]?.at);

const server = await startPostgres({ databaseUrl: undefined });
const mosquitto = await startBroker();
const children: ChildProcess[] = [];
try {
  const owner = await connectOwner(server.url);
  for (const setting of ["checkpoint_timeout = '1h'", "max_wal_size = '64GB'"]) await owner.query(`ALTER SYSTEM SET ${setting}`);
  await owner.query('SELECT pg_reload_conf()');
  await migrate(server.url);
  const rows: string[][] = [];
  let wrong = 0;
  for (const count of INGESTERS) {
    while (children.length < count) children.push(await startIngester(server.url, mosquitto.cloudUrl));
    const runs = [
      ...LIVE_RATES.flatMap((rate) => [{ mode: 'live', rate, byBatches: false } as const, { mode: 'live', rate, byBatches: true } as const]),
      ...(['catching', 'singly'] as const).map((mode) => ({ mode, rate: 0, byBatches: false })),
    ];
    for (const { mode, rate, byBatches } of runs) {
      if ((mode === 'singly' && SINGLY === 0) || (mode === 'catching' && ROWS === 0)) continue;
      const putBack = byBatches ? await withoutShortWay(owner) : null;
      let hear: (message: IncomingMessage) => void = () => {};
      const brokers = await Promise.all(
        Array.from({ length: CONNECTIONS }, async (_, index) => {
          const broker = createBroker({
            settings: { url: mosquitto.url, ca: null, cert: null, key: null },
            host: null,
            subscriptions: index === 0 ? ['stile/1/+/+/ack'] : [],
            onMessage: (message) => {
              message.acknowledge();
              hear(message);
            },
          });
          await broker.open();
          return broker;
        }),
      );
      const wanted = mode === 'live' ? Math.max(rate * LIVE_SECONDS, LEAST_LIVE_ROWS) : mode === 'singly' ? SINGLY : ROWS;
      const messageRows = mode === 'singly' ? 1 : MAX_LEDGER_ENTRIES;
      const { venue, gates } = await makeGates(server.url, brokers, wanted);
      const total = gates.reduce((sum, { ledger }) => sum + ledger.entries.length, 0);
      const acked = () => gates.reduce((sum, gate) => sum + gate.acked, 0);
      const fill = (gate: Gate) => {
        while (mode !== 'live' && gate.flying.size < MAX_BATCHES_IN_FLIGHT && gate.next < gate.ledger.entries.length) send(gate, messageRows);
      };
      const listener = listen(gates, fill);
      hear = listener.receive;
      const wal = await walPosition(owner);
      const idleFrom = await processorNs(owner);
      await sleep(IDLE_MS);
      const processor = await processorNs(owner);
      const idleNsPerSecond = (spentBetween(idleFrom, processor) * 1000) / IDLE_MS;
      resent = 0;
      const started = performance.now();
      if (mode !== 'live') for (const gate of gates) fill(gate);
      else
        for (let sent = 0; sent < total; ) {
          for (const due = Math.min(total, Math.ceil(((performance.now() - started) / 1000) * rate)); sent < due; sent++) send(gates[sent % GATES] as Gate, 1);
          await sleep(1);
        }
      await until(() => acked() >= total, acked, gates);
      const seconds = (performance.now() - started) / 1000;
      const walBytes = (await walPosition(owner)) - wal;
      const ns = spentBetween(processor, await processorNs(owner)) - idleNsPerSecond * seconds;
      const found = await owner.query<{ rows: number; winners: number; transactions: number }>(
        "SELECT (SELECT count(DISTINCT xmin::text) FROM ledger_lines WHERE tenant_id = $1) AS transactions, (SELECT count(*) FROM ledger_rows WHERE tenant_id = $1) AS rows, (SELECT count(*) FROM admissions WHERE tenant_id = $1 AND verdict = 'winner' AND outcome = 'passed') AS winners",
        [venue.tenantId],
      );
      wrong += Math.abs((found.rows[0]?.rows ?? 0) - total) + Math.abs((found.rows[0]?.winners ?? 0) - total / 2);
      const transactions = found.rows[0]?.transactions ?? 0;
      rows.push([
        mode === 'live' ? `live ${rate}/s${byBatches ? ', all by batches' : ''}` : mode,
        String(count),
        String(total),
        (total / seconds).toFixed(0),
        quantile(listener.waits, 0.5).toFixed(0),
        quantile(listener.waits, 0.99).toFixed(0),
        (walBytes / total).toFixed(0),
        (total / transactions).toFixed(1),
        (ns / 1000 / transactions).toFixed(0),
        (ns / 1000 / total).toFixed(0),
        String(resent),
      ]);
      console.log(rows.at(-1)?.join('  '));
      await Promise.all(brokers.map((broker) => broker.close()));
      await putBack?.();
    }
  }
  console.log(`\n${GATES} gates, ${CONNECTIONS} connections\n`);
  console.log(
    table(
      [
        'mode',
        'ingesters',
        'rows',
        'rows/s',
        'ack p50 ms',
        'ack p99 ms',
        'WAL bytes/row',
        'rows/transaction',
        'µs of PostgreSQL/transaction',
        'µs/row',
        'messages resent',
      ],
      rows,
    ),
  );
  for (const count of INGESTERS) {
    const rate = (mode: string) => Number(rows.find((row) => row[0] === mode && row[1] === String(count))?.[3]);
    if (SINGLY > 0 && ROWS > 0)
      console.log(`\n${count} ingesters: a backlog drains ${(rate('catching') / rate('singly')).toFixed(1)} times as fast with 100 rows a message as with one`);
  }
  console.log(`\nlost or doubled rows ${wrong}, load ${loadavg()[0]?.toFixed(1)}`);
  if (wrong > 0) process.exitCode = 1;
  await owner.close();
} finally {
  for (const child of children) {
    child.removeAllListeners('exit');
    child.kill('SIGKILL');
  }
  await mosquitto.stop();
  await server.stop();
}
