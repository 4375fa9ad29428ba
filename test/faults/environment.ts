/**
 * A world for faults: PostgreSQL, Mosquitto and the cloud as processes, with a proxy on each way between them, gates that write all
 * the time, and the means to kill each of these and start it again. Used by exactly-once.ts and the soaks.
 */
import { type ChildProcess, fork, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectOwner } from '../../cloud/db/database.ts';
import { migrate } from '../../cloud/db/migrate.ts';
import { createSigner, makeManifest, type Signer, ticket } from '../../daemon/decider/testing/store.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { makeVenue, type Venue } from '../../testkit/database.ts';
import { type RunningPostgres, startPostgres } from '../../testkit/postgres.ts';
import { prepareDatabase } from '../../testkit/prepare-database.ts';
import type { Row } from './counts.ts';
import { openProxy, type TcpProxy } from './proxy.ts';
import type { WriterGate, WriterNews, WriterOrder } from './writer.ts';

const START_MS = 60_000;
const RESTART_PAUSE_MS = 50;
/** What a program in the background may take for an answer (a backlog of thousands is written meanwhile), ms. */
const ANSWER_MS = 120_000;

// ---------------------------------------------------------------- PostgreSQL

export interface Postgres {
  /** Past any proxy: for looking. */
  /** A superuser's login, for looking. */
  readonly url: string;
  /** The cloud's. */
  readonly servingUrl: string;
  readonly port: number;
  /** The whole server at once: by SIGKILL of its head (its processes then end by themselves), or all together as in a crash. */
  kill(how: 'head' | 'all'): Promise<void>;
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** A migrated server of its own, that waits for its disk, and that can be killed and started again. */
export async function openPostgres(): Promise<Postgres> {
  // As root the server runs as another user, who may not enter everybody's temporary folder.
  const dir = mkdtempSync(join(process.getuid?.() === 0 ? '/var/tmp' : tmpdir(), 'stile-faults-postgres-'));
  let server: RunningPostgres = await startPostgres({ databaseUrl: undefined, dir, persistent: true });
  const { ownerUrl, servingUrl } = await prepareDatabase(server.url);
  await migrate(ownerUrl);
  const url = Object.assign(new URL(server.url), { pathname: new URL(ownerUrl).pathname }).href;
  const port = Number(new URL(url).port);
  return {
    url,
    servingUrl,
    port,
    async kill(how) {
      if (how === 'all') return server.kill();
      process.kill(Number(readFileSync(join(dir, 'data/postmaster.pid'), 'utf8').split('\n')[0]), 'SIGKILL');
      await server.stop();
    },
    async restart() {
      // Processes of the killed server may still hold its memory for a moment.
      const deadline = performance.now() + START_MS;
      for (;;) {
        try {
          server = await startPostgres({ databaseUrl: undefined, dir, persistent: true, port });
          return;
        } catch (error) {
          if (performance.now() > deadline) throw error;
          await sleep(RESTART_PAUSE_MS);
        }
      }
    },
    async stop() {
      await server.stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** The same server by another way. */
export function through(url: string, proxy: TcpProxy): string {
  const other = new URL(url);
  other.port = String(proxy.port);
  return other.href;
}

// ---------------------------------------------------------------- an ingest as a process

export interface IngestProcess {
  start(): Promise<void>;
  kill(): Promise<void>;
  pid(): number | undefined;
}

/** `script`: testkit/ingest-process.ts or another that says `ready`. */
export function createIngestProcess(script: string, env: Readonly<Record<string, string>>): IngestProcess {
  let child: ChildProcess | null = null;
  return {
    pid: () => child?.pid,
    async start() {
      const started = spawn(process.execPath, [script], { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'] });
      child = started;
      process.once('exit', () => started.kill('SIGKILL'));
      await new Promise<void>((resolve, reject) => {
        started.stdout?.once('data', () => resolve());
        started.once('exit', (code) => reject(new Error(`the ingest ended at its start with ${code}`)));
      });
    },
    async kill() {
      const ending = child;
      child = null;
      if (ending !== null) await ended(ending, 'SIGKILL');
    },
  };
}

function ended(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    child.once('exit', () => resolve());
    child.kill(signal);
  });
}

// ---------------------------------------------------------------- gates that write

export interface Stand {
  /** How far each ledger was committed when it was last heard of: epoch, seq. */
  readonly told: ReadonlyMap<string, readonly [number, number]>;
  readonly backlog: number;
  readonly online: number;
}

export interface Writer {
  readonly venue: Venue;
  start(): Promise<void>;
  kill(): Promise<void>;
  pace(guestsPerS: number): void;
  burst(guests: number): Promise<void>;
  stand(): Stand;
  /** Rows that the gates' ledgers hold. */
  rows(): Promise<Row[]>;
  stop(): Promise<void>;
}

export interface WriterOptions {
  readonly dir: string;
  /** Where the venue is made. */
  readonly databaseUrl: string;
  /** What its gates connect to. */
  readonly mqttUrl: string;
  readonly gates: number;
  readonly ticketsPerGate: number;
  readonly plant?: 'puback' | null;
}

/** A site of its own, in a tenant of its own, with its gates in one process. */
export async function createWriter(options: WriterOptions): Promise<Writer> {
  const { gates, ticketsPerGate } = options;
  const names = Array.from({ length: gates }, (_, index) => `w${index}`);
  const venue = await makeVenue(options.databaseUrl, { site: `w${randomBytes(4).toString('hex')}`, gates: names, tickets: gates * ticketsPerGate });
  const signer = createSigner();
  const manifest = await writerManifest(options.dir, venue, signer);
  const stores = names.map((name): WriterGate & { file: string } => {
    const store = join(options.dir, name);
    mkdirSync(store, { recursive: true });
    const file = `${store}.download`;
    copyFileSync(manifest.file, file);
    const index = names.indexOf(name);
    const own = venue.tickets.slice(index * ticketsPerGate, (index + 1) * ticketsPerGate);
    return { gate: venue.gates[index] as string, store, codes: own.map(({ code }) => code), file };
  });
  rmSync(manifest.file);
  const begin: WriterOrder = {
    order: 'begin',
    url: options.mqttUrl,
    gates: stores.map(({ gate, store, codes }) => ({ gate, store, codes })),
    key: signer.publicKey,
    manifest: { files: stores.map(({ file }) => file), wanted: manifest.wanted },
    plant: options.plant ?? null,
  };
  let child: ChildProcess | null = null;
  let pace = 0;
  const told = new Map<string, readonly [number, number]>();
  let last: Extract<WriterNews, { news: 'stand' }>['gates'] = [];
  let wrong: string | null = null;
  const hears = new Set<(news: WriterNews) => void>();
  const hear = (news: WriterNews) => {
    if (news.news === 'failed') wrong = news.why;
    if (news.news === 'stand') {
      last = news.gates;
      for (const { gate, told: row } of news.gates) if (row !== null) told.set(gate, row);
    }
    for (const listener of [...hears]) listener(news);
  };
  const send = (order: WriterOrder) => void child?.send(order);
  const answer = <K extends WriterNews['news']>(news: K, order: WriterOrder): Promise<Extract<WriterNews, { news: K }>> =>
    new Promise((resolve, reject) => {
      const done = (settle: () => void) => {
        clearTimeout(late);
        hears.delete(listener);
        settle();
      };
      const listener = (item: WriterNews) => {
        if (item.news === 'failed') done(() => reject(new Error(`a writer failed: ${item.why}`)));
        if (item.news === news) done(() => resolve(item as Extract<WriterNews, { news: K }>));
      };
      const late = setTimeout(
        () => done(() => reject(new Error(`a writer did not answer "${order.order}" within ${ANSWER_MS} ms${wrong === null ? '' : `: ${wrong}`}`))),
        ANSWER_MS,
      );
      hears.add(listener);
      send(order);
    });
  return {
    venue,
    async start() {
      const started = fork(join(import.meta.dirname, 'writer.ts'), { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
      child = started;
      process.once('exit', () => started.kill('SIGKILL'));
      started.on('message', (news: WriterNews) => child === started && hear(news));
      started.on('exit', (code) => {
        if (child === started) hear({ news: 'failed', why: `it ended with ${code}` });
      });
      await answer('ready', begin);
      send({ order: 'pace', guestsPerS: pace });
    },
    async kill() {
      const ending = child;
      child = null;
      if (ending !== null) await ended(ending, 'SIGKILL');
    },
    pace(guestsPerS) {
      pace = guestsPerS;
      send({ order: 'pace', guestsPerS });
    },
    burst: async (guests) => void (await answer('burst', { order: 'burst', guests })),
    stand() {
      if (wrong !== null) throw new Error(`a writer failed: ${wrong}`);
      return { told, backlog: last.reduce((sum, { backlog }) => sum + backlog, 0), online: last.filter(({ online }) => online).length };
    },
    rows: async () => [...(await answer('rows', { order: 'export' })).rows],
    async stop() {
      const ending = child;
      child = null;
      if (ending !== null) await ended(ending, 'SIGTERM');
    },
  };
}

async function writerManifest(dir: string, venue: Venue, signer: Signer) {
  mkdirSync(dir, { recursive: true });
  return makeManifest(dir, signer, {
    version: 1,
    eventId: venue.eventId,
    salt: venue.salt,
    tickets: venue.tickets.map(({ code, ticketId, ticketRef }) => ticket(code, { ticket_id: ticketId, ticket_ref: ticketRef })),
    // Rows of peers that a killed broker lost are fetched over HTTP by a whole gate; these have no such part, and go on without.
    policies: { event: { duplicate_window_s: 0, usage_lost: 'admit' } },
    beginsMs: Date.now() - 3_600_000,
  });
}

// ---------------------------------------------------------------- what Postgres holds

/** Every row of the gates (not of the cloud itself), as often as it stands there. */
export async function heldRows(url: string): Promise<Row[]> {
  const owner = await connectOwner(url);
  try {
    const { rows } = await owner.query<Row>(
      "SELECT gate, epoch, seq, encode(hash, 'hex') AS hash FROM ledger_rows WHERE gate NOT LIKE '%/cloud' ORDER BY gate, epoch, seq, received_at",
    );
    return rows.map((row) => ({ ...row, epoch: Number(row.epoch), seq: Number(row.seq) }));
  } finally {
    await owner.close();
  }
}

// ---------------------------------------------------------------- all of it

export interface World {
  readonly postgres: Postgres;
  readonly broker: Broker;
  /** Gates to the broker, the cloud to the broker, the cloud to PostgreSQL. */
  readonly ways: { readonly gates: TcpProxy; readonly cloud: TcpProxy; readonly database: TcpProxy };
  /** By these the cloud reaches what it needs. */
  readonly cloudEnv: { readonly DATABASE_URL: string; readonly STILE_MQTT_URL: string };
  readonly gateMqttUrl: string;
  close(): Promise<void>;
}

/** Database migrated, broker up, proxies fair. Nothing else runs yet. */
export async function openWorld(): Promise<World> {
  const releases: (() => Promise<unknown>)[] = [];
  const close = async () => {
    for (const release of releases.splice(0).reverse()) await release().catch(() => undefined);
  };
  try {
    const postgres = await openPostgres();
    releases.push(() => postgres.stop());
    const broker = await startBroker({ persistence: true });
    releases.push(() => broker.stop());
    const way = async (target: number) => {
      const proxy = await openProxy({ target });
      releases.push(() => proxy.close());
      return proxy;
    };
    const ways = { gates: await way(broker.port), cloud: await way(broker.port), database: await way(postgres.port) };
    return {
      postgres,
      broker,
      ways,
      cloudEnv: { DATABASE_URL: through(postgres.servingUrl, ways.database), STILE_MQTT_URL: `mqtt://127.0.0.1:${ways.cloud.port}` },
      gateMqttUrl: `mqtt://127.0.0.1:${ways.gates.port}`,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
