/**
 * What a gate recorded reaches Postgres exactly once (PROMISES.md, row 3): gates write all the time while broker, Postgres, cloud, gates
 * and the network between them are killed, cut and slowed; then every row of every gate's own ledger is looked for in Postgres.
 *
 *   node test/faults/exactly-once.ts [--broker-kills 50] [--postgres-kills 20] [--partitions 50] [--cloud-kills 5] [--gate-kills 6]
 *                                    [--burst 6000] [--gates 4] [--whole-gates 2] [--guests-per-s 12] [--seed 1] [--plant …]
 *
 * Gates: `--gates` of them with their real store and uplink in one process (writer.ts), and `--whole-gates` as whole processes with
 * a reader. Plants, which must end with exit code 1: `puback` (a gate forgets what the broker has taken), `early-ack` (the cloud
 * acknowledges before its commit), `doubled` (a row is put into Postgres a second time).
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { connectOwner } from '../../cloud/database.ts';
import type { GateProcess } from '../../deploy/demo/gate-process.ts';
import { type House, openHouse } from '../../deploy/demo/house.ts';
import { type Broker, startBroker } from '../broker.ts';
import { connectPeer } from '../mqtt-peer.ts';
import { newCode, ownLedger } from '../system/venue.ts';
import { agrees, compare, type Difference, type Row } from './account.ts';
import type { Weather } from './proxy.ts';
import { createIngestProcess, createWriter, heldRows, openWorld, type World, type Writer } from './world.ts';

export type Plant = 'puback' | 'early-ack' | 'doubled';

export interface ExactlyOnceOptions {
  readonly brokerKills: number;
  readonly postgresKills: number;
  readonly partitions: number;
  readonly cloudKills: number;
  readonly gateKills: number;
  /** Guests at each writing gate while the broker is away; 0: none. */
  readonly burst: number;
  readonly gates: number;
  readonly wholeGates: number;
  readonly guestsPerS: number;
  readonly seed: number;
  readonly plant: Plant | null;
  readonly say: (line: string) => void;
}

export interface ExactlyOnceResult {
  readonly difference: Difference;
  /** Rows that a caller was told of and that the ledger itself has not. */
  readonly forgotten: number;
  /** Grants of the writing gates, and what the account made of them: each ticket once, so every one is a winner. */
  readonly grants: number;
  readonly winners: number;
  readonly excess: number;
  readonly quarantined: number;
  /** Messages that the broker let fall because its queue was full. */
  readonly dropped: number;
  readonly backlogRows: number;
  readonly seconds: number;
}

const CALM_MS = 2_000;
const SETTLE_MS = 90_000;
/** What a plant has lost never comes: so long is enough for what is only late. */
const PLANTED_SETTLE_MS = 5_000;
const POLL_MS = 100;
/** RestartSec of the unit is 1 s. */
const RESTART_MS = 1_000;
/** The broker's queue for the backlog's part, bytes waiting and bytes under way: about ten messages. Counted in messages it would be 50,000 and the client's own bound. */
const SMALL_QUEUE_BYTES = 200_000;
const SMALL_QUEUE = { max_queued_bytes: String(SMALL_QUEUE_BYTES), max_inflight_bytes: String(SMALL_QUEUE_BYTES), sys_interval: '1' };
const DROPPED = '$SYS/broker/publish/messages/dropped';
/** It counts anew every second. */
const COUNT_MS = 2_500;
const HANG_MS = 8_000;
/** Guests at a whole gate come one after another; so long between them. */
const WHOLE_GUEST_MS = 900;
const SITE = 'arena';
const EVENT = 'concert';

type Fault = 'broker' | 'postgres' | 'partition' | 'cloud' | 'writer' | 'whole';

/** Small and even enough for choosing faults; the same seed gives the same faults (not the same moments). */
function dice(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 4_294_967_296;
  };
}

function shuffled<T>(list: readonly T[], random: () => number): T[] {
  const all = [...list];
  for (let left = all.length - 1; left > 0; left--) {
    const other = Math.floor(random() * (left + 1));
    [all[left], all[other]] = [all[other] as T, all[left] as T];
  }
  return all;
}

interface Cloud {
  start(): Promise<void>;
  kill(): Promise<void>;
  stop(): Promise<void>;
}

/** Runs the whole, and answers what came of it. Throws where the world itself does not work. */
export async function exactlyOnce(options: ExactlyOnceOptions): Promise<ExactlyOnceResult> {
  const beganMs = performance.now();
  const dir = mkdtempSync(join(tmpdir(), 'stile-faults-'));
  const releases: (() => Promise<unknown> | unknown)[] = [
    () => (process.env['KEEP'] === undefined ? rmSync(dir, { recursive: true, force: true }) : options.say(`kept ${dir}`)),
  ];
  try {
    const world = await openWorld();
    releases.push(world.close);
    const { cloud, house } = await openCloud(options, world, dir);
    releases.push(() => cloud.stop());
    const writer = await createWriter({
      dir: join(dir, 'writers'),
      databaseUrl: world.postgres.url,
      mqttUrl: world.gateMqttUrl,
      gates: options.gates,
      ticketsPerGate: 500 + options.burst,
      plant: options.plant === 'puback' ? 'puback' : null,
    });
    releases.push(() => writer.stop());
    const whole = house === null ? [] : await openWholeGates(house, world, options.wholeGates, dir);
    releases.push(...whole.map((gate) => () => gate.close()));
    await cloud.start();
    await writer.start();
    await Promise.all(whole.map((gate) => gate.start()));
    writer.pace(options.guestsPerS);
    const guests = showGuests(whole);
    releases.push(() => guests.stop());

    await storm({ options, world, cloud, writer, whole });
    const { dropped, rows: backlogRows } = options.burst === 0 ? { dropped: 0, rows: 0 } : await backlog({ options, world, writer });
    writer.pace(0);
    await guests.stop();
    return { ...(await judge({ options, world, writer, whole })), dropped, backlogRows, seconds: (performance.now() - beganMs) / 1_000 };
  } finally {
    for (const release of releases.reverse()) await Promise.resolve(release()).catch((error: Error) => options.say(`could not be released: ${error.message}`));
  }
}

/** The cloud as people run it where whole gates need one to fetch from; else the ingest alone, which is where plants live. */
async function openCloud(options: ExactlyOnceOptions, world: World, dir: string): Promise<{ cloud: Cloud; house: House | null }> {
  if (options.wholeGates === 0) {
    const script = options.plant === 'early-ack' ? 'hasty-ingest.ts' : '../ingest-process.ts';
    const ingest = createIngestProcess(join(import.meta.dirname, script), world.cloudEnv);
    return { house: null, cloud: { start: () => ingest.start(), kill: () => ingest.kill(), stop: () => ingest.kill() } };
  }
  const house = await openHouse({
    dir,
    databaseUrl: world.cloudEnv.DATABASE_URL,
    mqtt: { url: world.cloudEnv.STILE_MQTT_URL },
    env: { STILE_LOG_LEVEL: process.env['KEEP'] === undefined ? 'error' : 'info' },
  });
  return { house, cloud: supervised(house) };
}

/**
 * As systemd runs it (Restart=always): where the database goes away while the cloud starts, it ends with 75, "try again". A start that
 * fails is therefore no failure here, only one that never succeeds is: then nothing arrives.
 */
function supervised(house: House): Cloud {
  let wanted = false;
  let first = true;
  const look = async () => {
    while (wanted) {
      if (!house.cloudRunning()) await house.startCloud().catch(() => undefined);
      await sleep(RESTART_MS);
    }
  };
  let looking: Promise<void> = Promise.resolve();
  const stop = async (end: () => Promise<void>) => {
    wanted = false;
    await end();
    await looking;
    await end();
  };
  return {
    async start() {
      if (wanted) return;
      wanted = true;
      // The first start meets no fault: one that fails is a mistake of ours.
      await (first ? house.startCloud() : house.startCloud().catch(() => undefined));
      first = false;
      looking = look();
    },
    kill: () => stop(() => house.killCloud()),
    stop: () => stop(() => house.close()),
  };
}

async function openWholeGates(house: House, world: World, count: number, dir: string): Promise<GateProcess[]> {
  const policies = join(dir, 'policies.json');
  writeFileSync(policies, JSON.stringify({ event: { duplicate_window_s: 0, unknown: 'refuse' } }));
  await house.cloud('event', 'put', EVENT, '--site', SITE, '--name', 'Concert', '--policies', policies, '--no-wait');
  const gates: GateProcess[] = [];
  for (let index = 0; index < count; index++)
    gates.push(
      await house.addGate(`${SITE}/north-${index}`, [EVENT], {
        mqtt: { url: world.gateMqttUrl },
        passageMs: 50,
        settings: { turnstile: { release: 'pulse', sensor: 'per_direction', repeat_ms: 300 } },
      }),
    );
  return gates;
}

/** Guests with codes that nobody knows: each a refusal, which is a row like any other. */
function showGuests(gates: readonly GateProcess[]): { stop(): Promise<void> } {
  let coming = true;
  const all = gates.map(async (gate) => {
    while (coming) {
      if (gate.running()) gate.show(newCode());
      await sleep(WHOLE_GUEST_MS);
    }
  });
  return {
    async stop() {
      coming = false;
      await Promise.all(all);
    },
  };
}

interface Parts {
  readonly options: ExactlyOnceOptions;
  readonly world: World;
  readonly cloud: Cloud;
  readonly writer: Writer;
  readonly whole: readonly GateProcess[];
}

/** All faults in a mixed order, some of them two at a time, each when rows flow again (or CALM_MS after the last). */
async function storm(parts: Parts): Promise<void> {
  const { options, world, writer } = parts;
  const random = dice(options.seed);
  const times = (fault: Fault, count: number): Fault[] => Array.from({ length: count }, () => fault);
  const kills = Math.min(parts.whole.length > 0 ? Math.floor(options.gateKills / 2) : 0, options.gateKills);
  const faults = shuffled(
    [
      ...times('broker', options.brokerKills),
      ...times('postgres', options.postgresKills),
      ...times('partition', options.partitions),
      ...times('cloud', options.cloudKills),
      ...times('whole', kills),
      ...times('writer', options.gateKills - kills),
    ],
    random,
  );
  const total = faults.length;
  const watch = await connectOwner(world.postgres.url).catch(() => null);
  await watch?.close();
  let stored = await countRows(world);
  const calm = async () => {
    const deadline = performance.now() + CALM_MS;
    while (performance.now() < deadline) {
      const now = await countRows(world);
      if (now > stored + options.gates) {
        stored = now;
        return;
      }
      await sleep(POLL_MS);
    }
  };
  while (faults.length > 0) {
    await calm();
    await sleep(random() * 200);
    const first = faults.shift() as Fault;
    const second = random() < 0.45 && faults[0] !== first ? faults.shift() : undefined;
    await Promise.all([first, ...(second === undefined ? [] : [second])].map((fault) => strike(fault, parts, random)));
    const done = total - faults.length;
    if (done % 20 === 0) options.say(`${done} of ${total} faults, ${stored} rows in Postgres, backlog ${writer.stand().backlog}`);
  }
  await calm();
}

async function countRows(world: World): Promise<number> {
  const owner = await connectOwner(world.postgres.url);
  try {
    return Number((await owner.query<{ n: number }>("SELECT count(*)::int AS n FROM ledger_rows WHERE gate NOT LIKE '%/cloud'")).rows[0]?.n ?? 0);
  } finally {
    await owner.close();
  }
}

/** One fault and its end. */
async function strike(fault: Fault, { world, cloud, writer, whole }: Parts, random: () => number): Promise<void> {
  const holdMs = 50 + random() * 600;
  switch (fault) {
    case 'broker': {
      // Now and then it saves what it holds just before: then it comes back with a past.
      const { pid } = world.broker;
      if (random() < 0.3) process.kill(pid() as number, 'SIGUSR1');
      await world.broker.kill();
      await sleep(holdMs);
      return world.broker.restart();
    }
    case 'postgres':
      await world.postgres.kill(random() < 0.5 ? 'head' : 'all');
      await sleep(holdMs);
      return world.postgres.restart();
    case 'partition': {
      const way = [world.ways.gates, world.ways.cloud, world.ways.database][Math.floor(random() * 3)] as World['ways']['gates'];
      const kinds: readonly Weather[] = [{ kind: 'cut' }, { kind: 'silent' }, { kind: 'slow', latencyMs: 300, bytesPerSecond: 20_000 }];
      // Two of three part the sides for good; the third lets something through, late.
      way.weather(kinds[Math.floor(random() * kinds.length)] as Weather);
      await sleep(200 + random() * 900);
      way.weather({ kind: 'fair' });
      return;
    }
    case 'cloud':
      await cloud.kill();
      await sleep(holdMs);
      return cloud.start();
    case 'writer':
      await writer.kill();
      await sleep(holdMs);
      return writer.start();
    case 'whole': {
      const gate = whole[Math.floor(random() * whole.length)] as GateProcess;
      await gate.kill();
      await sleep(holdMs);
      return gate.start();
    }
  }
}

/**
 * A backlog larger than the broker's queue: guests go on while the broker is away; when it is back (another one, with a small queue),
 * Postgres hangs, so that everything piles up before the cloud and the broker lets messages fall.
 */
async function backlog({ options, world, writer }: Pick<Parts, 'options' | 'world' | 'writer'>): Promise<{ rows: number; dropped: number }> {
  await world.broker.kill();
  await writer.burst(options.burst);
  const rows = writer.stand().backlog;
  const small: Broker = await startBroker({ settings: SMALL_QUEUE });
  try {
    options.say(`${rows} rows wait; the broker comes back with a queue of ${SMALL_QUEUE_BYTES / 1000} kB, and Postgres hangs`);
    world.ways.database.weather({ kind: 'silent' });
    world.ways.gates.retarget(small.port);
    world.ways.cloud.retarget(small.port);
    await sleep(HANG_MS);
    world.ways.database.weather({ kind: 'fair' });
    await drained(writer, options);
    return { rows, dropped: await dropsOf(small) };
  } finally {
    await world.broker.restart();
    world.ways.gates.retarget(world.broker.port);
    world.ways.cloud.retarget(world.broker.port);
    await small.stop();
  }
}

/** Messages that this broker has let fall, as it counts them itself. */
async function dropsOf(broker: Broker): Promise<number> {
  const peer = await connectPeer(broker.url);
  await peer.subscribe(DROPPED);
  await sleep(COUNT_MS);
  const count = Number(peer.heard.at(-1)?.payload.toString() ?? 0);
  await peer.end();
  return count;
}

/** Nothing waits at the gates any more, or SETTLE_MS are over (a plant may leave what never goes). */
async function drained(writer: Writer, options: ExactlyOnceOptions): Promise<void> {
  const deadline = performance.now() + SETTLE_MS;
  while (writer.stand().backlog > options.gates * 50 && performance.now() < deadline) await sleep(POLL_MS);
}

async function judge({ options, world, writer, whole }: Omit<Parts, 'cloud'>): Promise<Omit<ExactlyOnceResult, 'dropped' | 'backlogRows' | 'seconds'>> {
  const deadline = performance.now() + (options.plant === null ? SETTLE_MS : PLANTED_SETTLE_MS);
  for (let before = -1; ; ) {
    const own = [...(await writer.rows()), ...(await Promise.all(whole.map(ownLedger))).flat()];
    if (options.plant === 'doubled' && before === -1) await plantDouble(world);
    const difference = compare(own, await heldRows(world.postgres.url));
    if (agrees(difference) || performance.now() > deadline) return { difference, ...(await sums(options, world, writer, own)) };
    before = difference.lost;
    await sleep(POLL_MS * 5);
  }
}

/** The primary key holds the time of arrival as well: a second copy of a row is possible, and must be seen. */
async function plantDouble(world: World): Promise<void> {
  const owner = await connectOwner(world.postgres.url);
  await owner.query(`INSERT INTO ledger_rows (tenant_id, gate, epoch, seq, received_at, kind, readable, hash, entry, at)
    SELECT tenant_id, gate, epoch, seq, received_at + interval '1 second', kind, readable, hash, entry, at FROM ledger_rows WHERE gate NOT LIKE '%/cloud' ORDER BY seq LIMIT 1`);
  await owner.close();
}

async function sums(options: ExactlyOnceOptions, world: World, writer: Writer, own: readonly Row[]) {
  const { told } = writer.stand();
  const last = new Map<string, readonly [number, number]>();
  for (const { gate, epoch, seq } of own) {
    const known = last.get(gate);
    if (known === undefined || epoch > known[0] || (epoch === known[0] && seq > known[1])) last.set(gate, [epoch, seq]);
  }
  let forgotten = 0;
  for (const [gate, [epoch, seq]] of told) {
    const known = last.get(gate);
    if (known === undefined || known[0] < epoch || (known[0] === epoch && known[1] < seq)) forgotten += seq - (known?.[0] === epoch ? known[1] : 0);
  }
  const owner = await connectOwner(world.postgres.url);
  try {
    const why = await owner.query<{ reason: string; detail: string; times: number }>(
      'SELECT reason, detail, sum(times)::int AS times FROM quarantine GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 5',
    );
    for (const { reason, detail, times } of why.rows) options.say(`quarantined ${times} times: ${reason}, ${detail}`);
    const { rows } = await owner.query<{ grants: number; winners: number; excess: number; quarantined: number }>(
      `SELECT (SELECT count(*) FROM ledger_rows WHERE tenant_id = $1 AND kind = 'grant')::int AS grants,
        count(*) FILTER (WHERE verdict = 'winner')::int AS winners, count(*) FILTER (WHERE verdict = 'excess')::int AS excess,
        (SELECT count(*) FROM quarantine)::int AS quarantined FROM admissions WHERE tenant_id = $1`,
      [writer.venue.tenantId],
    );
    return { forgotten, ...(rows[0] as { grants: number; winners: number; excess: number; quarantined: number }) };
  } finally {
    await owner.close();
  }
}

/** Nothing lost, nothing doubled, nothing forgotten, and every ticket's one grant is its winner. */
export function held(result: ExactlyOnceResult): boolean {
  return agrees(result.difference) && result.forgotten === 0 && result.excess === 0 && result.quarantined === 0 && result.grants === result.winners;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      'broker-kills': { type: 'string', default: '50' },
      'postgres-kills': { type: 'string', default: '20' },
      partitions: { type: 'string', default: '50' },
      'cloud-kills': { type: 'string', default: '5' },
      'gate-kills': { type: 'string', default: '6' },
      burst: { type: 'string', default: '6000' },
      gates: { type: 'string', default: '4' },
      'whole-gates': { type: 'string', default: '2' },
      'guests-per-s': { type: 'string', default: '12' },
      seed: { type: 'string', default: '1' },
      plant: { type: 'string' },
    },
  });
  const options: ExactlyOnceOptions = {
    brokerKills: Number(values['broker-kills']),
    postgresKills: Number(values['postgres-kills']),
    partitions: Number(values.partitions),
    cloudKills: Number(values['cloud-kills']),
    gateKills: Number(values['gate-kills']),
    burst: Number(values.burst),
    gates: Number(values.gates),
    wholeGates: values.plant === undefined ? Number(values['whole-gates']) : 0,
    guestsPerS: Number(values['guests-per-s']),
    seed: Number(values.seed),
    plant: (values.plant as Plant | undefined) ?? null,
    say: (line) => void process.stdout.write(`  ${line}\n`),
  };
  const result = await exactlyOnce(options);
  const { difference } = result;
  const ok = held(result) && (options.burst === 0 || result.dropped > 0);
  process.stdout.write(
    `figure: ${options.brokerKills} broker kills, ${options.postgresKills} Postgres kills, ${options.partitions} partitions, ${options.cloudKills} cloud kills, ${options.gateKills} gate kills in ${result.seconds.toFixed(0)} s while ${options.gates + options.wholeGates} gates wrote: ${difference.lost} of ${difference.rows} rows lost, ${difference.doubled} doubled, ${difference.changed} changed, ${difference.foreign} made up\n`,
  );
  if (options.burst > 0)
    process.stdout.write(
      `figure: among them a backlog of ${result.backlogRows} rows (${Math.ceil(result.backlogRows / 100)} messages) before a broker that keeps ${SMALL_QUEUE_BYTES / 1000} kB; it let ${result.dropped} messages fall\n`,
    );
  process.stdout.write(
    `figure: ${result.forgotten} rows forgotten that a caller had been told of; ${result.grants} grants of as many tickets are ${result.winners} winners and ${result.excess} excess; ${result.quarantined} messages quarantined\n`,
  );
  for (const example of difference.examples) process.stdout.write(`  ${example}\n`);
  if (!ok) process.stdout.write('the promise did not hold\n');
  process.exitCode = ok ? 0 : 1;
}

if (import.meta.main) {
  await main();
  // Whatever still holds the loop (a proxy's socket in its last words) is nothing to wait for.
  process.exit();
}
