/**
 * From the broker into the same Postgres: Stile's ingest beside a Node-RED flow and a Python script with its own batching, one after
 * the other on one broker and one server that waits for its disk. Each once undisturbed, for its speed, and once killed and started
 * again in the middle, for what is lost and what is doubled then.
 *
 *   node bench/peers/ingest.ts [--rows 60000] [--gates 20] [--only stile,python,node-red] [--no-kill]
 *
 * The same messages for all, 100 rows each. A gate sends a message again until its rows are acknowledged: that is Stile's side. The peers
 * have nothing that could acknowledge, so what the broker has taken counts as sent, as with any plain script. What each does: README.md.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { connectAsync, type MqttClient } from 'mqtt';
import { connectOwner, type OwnerConnection } from '../../cloud/db/database.ts';
import { migrate } from '../../cloud/db/migrate.ts';
import { entryText } from '../../contract/hash-chain.ts';
import { MAX_BATCHES_IN_FLIGHT, MAX_LEDGER_ENTRIES, SCHEMA_VERSION } from '../../contract/limits.ts';
import { parseTopic, topicOf } from '../../contract/topics.ts';
import { startBroker } from '../../testkit/broker.ts';
import { makeVenue, type TestTicket } from '../../testkit/database.ts';
import { testLedger } from '../../testkit/ledgers.ts';
import { startPostgres } from '../../testkit/postgres.ts';
import { table } from '../table.ts';
import { ingestFlow } from './ingest-flow.ts';
import { fetchNodeRed, startNodeRed } from './node-red.ts';

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '60000' },
    gates: { type: 'string', default: '20' },
    only: { type: 'string', default: 'stile,python,node-red' },
    'no-kill': { type: 'boolean', default: false },
  },
});
const GATES = Number(values.gates);
const ROWS = Number(values.rows);
/** A gate sends again what had no acknowledgement for so long, ms. */
const RESEND_MS = 5_000;
/** Nothing came in for so long: what is missing now is lost, ms. */
const QUIET_MS = 15_000;
/** Killed when so much of the rows is in. */
const KILL_AT = 0.3;
/** Messages that a publisher has under way at the broker. */
const PUBLISHES = 50;
/** Rows are counted so often, ms: a look that costs little beside what it looks at. */
const POLL_INTERVAL_MS = 100;
const root = join(import.meta.dirname, '../..');
const folder = mkdtempSync(join(tmpdir(), 'stile-peers-'));

interface Sent {
  readonly gate: string;
  readonly topic: string;
  readonly payload: string;
  readonly last: number;
}
interface Load {
  readonly site: string;
  readonly tenantId: string;
  readonly total: number;
  /** Of each gate in order. */
  readonly messages: ReadonlyMap<string, readonly Sent[]>;
}
interface Contender {
  readonly key: 'stile' | 'python' | 'node-red';
  readonly name: string;
  start(load: Load): Promise<ChildProcess>;
  /** Where its rows are, $1 and $2 being the tenant and the gates' names. */
  readonly rows: string;
  readonly acknowledges: boolean;
}

const server = await startPostgres({ databaseUrl: undefined });
const broker = await startBroker({ persistence: true, settings: { max_queued_messages: '0', max_inflight_messages: '0' } });

/** A venue whose gates wrote their rows already: half of them grants, half their passages. */
async function makeLoad(): Promise<Load> {
  const site = `p${randomBytes(4).toString('hex')}`;
  const perGate = Math.ceil(ROWS / GATES / 2);
  const venue = await makeVenue(server.url, { site, gates: Array.from({ length: GATES }, (_, n) => `gate-${n}`), tickets: perGate * GATES });
  const messages = new Map<string, Sent[]>();
  for (const [index, gate] of venue.gates.entries()) {
    const ledger = testLedger(venue, index);
    for (let n = 0; n < perGate; n++)
      ledger.passage(ledger.grant(venue.tickets[n * GATES + index] as TestTicket, 1_000 + n * 4_000), 1_900 + n * 4_000, 'passed');
    const list: Sent[] = [];
    for (let at = 0; at < ledger.entries.length; at += MAX_LEDGER_ENTRIES) {
      const entries = ledger.entries.slice(at, at + MAX_LEDGER_ENTRIES);
      // In the order of fields in which a gate keeps and sends them.
      const texts = entries.map((entry) => `${entryText(entry).slice(0, -1)},"hash":"${entry.hash}"}`);
      const payload = `{"schema":${SCHEMA_VERSION},"gate":"${gate}","epoch":${ledger.epoch},"entries":[${texts.join(',')}]}`;
      list.push({ gate, topic: topicOf({ kind: 'ledger', gate }), payload, last: entries.at(-1)?.seq ?? 0 });
    }
    messages.set(gate, list);
  }
  return { site, tenantId: venue.tenantId, total: perGate * 2 * GATES, messages };
}

const ready = (child: ChildProcess): Promise<ChildProcess> =>
  new Promise((resolve, reject) => {
    child.stdout?.once('data', () => resolve(child));
    child.once('exit', (code) => reject(new Error(`it ended with ${code}`)));
  });

const PEER_ROWS = 'peer_rows WHERE $1::uuid IS NOT NULL AND gate LIKE $2';
/** Rows that are in. */
const count = async (owner: OwnerConnection, contender: Contender, load: Load, what = '*') =>
  Number((await owner.query<{ n: string }>(`SELECT count(${what}) AS n FROM ${contender.rows}`, [load.tenantId, `${load.site}/gate-%`])).rows[0]?.n);

/** Processor time of a process and its children's servers, ms: what this machine's other work hardly changes. Linux. */
async function processorMs(owner: OwnerConnection, child: ChildProcess): Promise<{ readonly consumer: number; readonly server: number }> {
  const of = (pid: number | undefined) => {
    try {
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
      // 100 ticks a second; of all its threads.
      return (Number(fields[11]) + Number(fields[12])) * 10;
    } catch {
      return 0;
    }
  };
  const { rows } = await owner.query<{ pid: number }>('SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
  return { consumer: of(child.pid), server: rows.reduce((sum, { pid }) => sum + of(pid), 0) };
}

const contenders: Contender[] = [
  {
    key: 'stile',
    name: 'Stile (judged and acknowledged)',
    acknowledges: true,
    start: () =>
      ready(
        spawn(process.execPath, [join(root, 'testkit/ingest-process.ts')], {
          env: { ...process.env, DATABASE_URL: server.url, STILE_MQTT_URL: broker.cloudUrl },
          stdio: ['ignore', 'pipe', 'inherit'],
        }),
      ),
    rows: 'ledger_rows WHERE tenant_id = $1 AND gate LIKE $2',
  },
  {
    key: 'python',
    name: 'Python script, batches of 1,000',
    acknowledges: false,
    start: ({ site }) =>
      ready(
        spawn('/usr/bin/python3', [join(import.meta.dirname, 'ingest.py'), String(broker.port), server.url, `stile/1/${site}/+/ledger`, `py-${site}`], {
          stdio: ['ignore', 'pipe', 'inherit'],
        }),
      ),
    rows: PEER_ROWS,
  },
  {
    key: 'node-red',
    name: 'Node-RED flow, a statement a message',
    acknowledges: false,
    start({ site }) {
      fetchNodeRed({ native: false });
      return startNodeRed(
        join(folder, `node-red-${site}`),
        ingestFlow({ port: broker.port, database: new URL(server.url), topic: `stile/1/${site}/+/ledger`, clientId: `nr-${site}` }),
      ).then(async (child) => {
        child.stdout?.resume();
        child.stderr?.resume();
        // It connects on after its flows are started; then its session is the broker's to keep.
        await sleep(3_000);
        return child;
      });
    },
    rows: PEER_ROWS,
  },
];

/** As gates do: at most a window of messages under way for each, sent again until their rows are acknowledged. */
function sendAsGates(client: MqttClient, load: Load): { readonly done: () => boolean; end(): void } {
  const acked = new Map<string, number>();
  const at = new Map<string, number>();
  const flying = new Map<Sent, number>();
  const fill = (gate: string) => {
    const list = load.messages.get(gate) ?? [];
    const under = [...flying.keys()].filter((message) => message.gate === gate);
    for (const message of under) if (message.last <= (acked.get(gate) ?? 0)) flying.delete(message);
    let room = MAX_BATCHES_IN_FLIGHT - [...flying.keys()].filter((message) => message.gate === gate).length;
    for (let next = at.get(gate) ?? 0; room > 0 && next < list.length; room--, next++) {
      const message = list[next] as Sent;
      flying.set(message, Date.now());
      client.publish(message.topic, message.payload, { qos: 1 });
      at.set(gate, next + 1);
    }
  };
  const hear = (name: string, payload: Buffer) => {
    const topic = parseTopic(name);
    if (topic?.kind !== 'ack' || !load.messages.has(topic.gate)) return;
    const upto = (JSON.parse(payload.toString()) as { epochs: { upto_seq: number }[] }).epochs.at(-1)?.upto_seq ?? 0;
    acked.set(topic.gate, Math.max(acked.get(topic.gate) ?? 0, upto));
    fill(topic.gate);
  };
  client.on('message', hear);
  const timer = setInterval(() => {
    for (const [message, sentMs] of flying)
      if (Date.now() - sentMs > RESEND_MS) {
        flying.set(message, Date.now());
        client.publish(message.topic, message.payload, { qos: 1 });
      }
  }, 500);
  for (const gate of load.messages.keys()) fill(gate);
  return {
    done: () => [...load.messages].every(([gate, list]) => (acked.get(gate) ?? 0) >= (list.at(-1)?.last ?? 0)),
    end() {
      clearInterval(timer);
      client.off('message', hear);
    },
  };
}

/** As fast as the broker takes them. */
async function sendOnce(client: MqttClient, load: Load): Promise<void> {
  const all = [...load.messages.values()].flat();
  let next = 0;
  const worker = async () => {
    for (let message = all[next++]; message !== undefined; message = all[next++]) await client.publishAsync(message.topic, message.payload, { qos: 1 });
  };
  await Promise.all(Array.from({ length: PUBLISHES }, worker));
}

async function run(
  contender: Contender,
  owner: OwnerConnection,
  kill: boolean,
): Promise<{ readonly seconds: number; readonly lost: number; readonly doubled: number; readonly consumer: number; readonly server: number }> {
  const load = await makeLoad();
  const client = await connectAsync(broker.url);
  await client.subscribeAsync(`stile/1/${load.site}/+/ack`, { qos: 1 });
  let child = await contender.start(load);
  const end = async () => {
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
  };
  try {
    const before = await processorMs(owner, child);
    const began = performance.now();
    const gates = contender.acknowledges ? sendAsGates(client, load) : null;
    const sending = gates === null ? sendOnce(client, load) : Promise.resolve();
    let killed = !kill;
    let seconds = 0;
    let last = -1;
    let changed = performance.now();
    for (;;) {
      await sleep(POLL_INTERVAL_MS);
      const rows = await count(owner, contender, load);
      if (rows !== last) [last, changed, seconds] = [rows, performance.now(), (performance.now() - began) / 1_000];
      if (!killed && rows >= load.total * KILL_AT) {
        killed = true;
        await end();
        child = await contender.start(load);
        changed = performance.now();
      }
      if ((rows >= load.total && (gates === null || gates.done())) || performance.now() - changed > QUIET_MS) break;
    }
    await sending;
    gates?.end();
    const after = await processorMs(owner, child);
    const rows = await count(owner, contender, load);
    const distinct = await count(owner, contender, load, 'DISTINCT (gate, epoch, seq)');
    const micros = (ms: number) => (ms * 1_000) / load.total;
    return {
      seconds,
      lost: load.total - distinct,
      doubled: rows - distinct,
      consumer: micros(after.consumer - before.consumer),
      server: micros(after.server - before.server),
    };
  } finally {
    await end();
    await client.endAsync(true);
  }
}

try {
  await migrate(server.url);
  const owner = await connectOwner(server.url);
  for (const setting of ["checkpoint_timeout = '1h'", "max_wal_size = '16GB'"]) await owner.query(`ALTER SYSTEM SET ${setting}`);
  await owner.query('SELECT pg_reload_conf()');
  await owner.query(
    'CREATE TABLE peer_rows (gate text NOT NULL, epoch bigint NOT NULL, seq bigint NOT NULL, entry jsonb NOT NULL, PRIMARY KEY (gate, epoch, seq))',
  );
  const rows: string[][] = [];
  const speeds: number[] = [];
  const lost: number[] = [];
  for (const contender of contenders.filter(({ key }) => values.only.split(',').includes(key))) {
    try {
      const calm = await run(contender, owner, false);
      const killed = values['no-kill'] ? { lost: Number.NaN, doubled: Number.NaN } : await run(contender, owner, true);
      speeds.push(ROWS / calm.seconds);
      lost.push(calm.lost + calm.doubled + (values['no-kill'] ? 0 : killed.lost + killed.doubled));
      rows.push([
        contender.name,
        (ROWS / calm.seconds).toFixed(0),
        calm.consumer.toFixed(0),
        calm.server.toFixed(0),
        ((speeds[0] as number) / (ROWS / calm.seconds)).toFixed(2),
        String(calm.lost),
        String(killed.lost),
        String(killed.doubled),
      ]);
    } catch (error) {
      speeds.push(Number.NaN);
      lost.push(Number.NaN);
      rows.push([`${contender.name}: left out, ${(error as Error).message.split('\n')[0]}`, '', '', '', '', '', '', '']);
    }
    console.log(rows.at(-1)?.join('  '));
  }
  await owner.close();
  console.log(`\n${ROWS} rows of ${GATES} gates, ${MAX_LEDGER_ENTRIES} a message, load ${loadavg()[0]?.toFixed(1)}\n`);
  console.log(
    table(['', 'rows/s', 'processor µs a row', 'its server’s', 'Stile is × as fast', 'lost, undisturbed', 'lost over a kill', 'doubled over a kill'], rows),
  );
  const [own = Number.NaN, python = Number.NaN] = speeds;
  const ratio = own / python;
  console.log(
    `\nverdict: ${ratio.toFixed(2)} × the Python script (target ≥ 1.0 with nothing lost: ${ratio >= 1 && lost[0] === 0 ? 'reached' : 'not reached'}); Stile lost or doubled ${lost[0]}, Python ${lost[1]}, Node-RED ${lost[2]}`,
  );
} finally {
  await broker.stop();
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
}
