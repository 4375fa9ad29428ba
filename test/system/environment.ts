/**
 * A venue for system tests: Mosquitto, Postgres, the cloud and gates as processes, an event with tickets, and a client that
 * hears everything on the wire. Nothing here plays a part of Stile: what is set up goes through `stile-cloud`, guests come by
 * the reader's wire, and what is believed is read from Postgres and from the gates' own ledgers.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { entryHash, firstPredecessor } from '../../contract/hash-chain.ts';
import type { RecentLine } from '../../daemon/control/protocol.ts';
import { writeTestCa } from '../../deploy/mosquitto/test-ca.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { type FreshDatabase, freshDatabase } from '../../testkit/database.ts';
import type { GateProcess } from '../../testkit/gate-process.ts';
import { connectPeer, type Peer } from '../../testkit/mqtt-client.ts';
import { sha256 } from '../../testkit/sha256.ts';
import { type CommandResult, openStack, run, type Stack } from '../../testkit/stack.ts';

export const SITE = 'arena';
export const EVENT = 'concert';
/** How long a guest waits for the reader's answer, ms; no assertion on speed, only the end of patience. */
const ANSWER_MS = 45_000;
const ARRIVAL_MS = 120_000;
const POLL_MS = 50;
const STILE_GATE = fileURLToPath(new URL('../../daemon/stile-gate', import.meta.url));

export interface Ticket {
  readonly ticketId: string;
  readonly code: string;
}

/** One row, from wherever it was read. */
export interface Row {
  readonly gate: string;
  readonly epoch: number;
  readonly seq: number;
  readonly hash: string;
  readonly kind: string;
  readonly entry: Readonly<Record<string, unknown>>;
}

export interface VenueOptions {
  /** Ids within the site; default north, south. */
  readonly gates?: readonly string[];
  /** TLS with client certificates and ACLs, as in production. */
  readonly tls?: boolean;
  readonly tickets?: number;
  /** Over the event's policies. */
  readonly policies?: Readonly<Record<string, unknown>>;
  readonly passageMs?: number;
  /** More of gate.yaml. */
  readonly settings?: Readonly<Record<string, unknown>>;
}

export interface Venue {
  readonly dir: string;
  readonly broker: Broker;
  readonly database: FreshDatabase;
  readonly stack: Stack;
  readonly gates: readonly GateProcess[];
  /** Hears `#`. Its connection ends when the broker is killed. */
  readonly spy: Peer;
  /** The next ticket that no test has had. */
  ticket(): Ticket;
  /** Reads the rows that Postgres holds, in order; of one gate or of all (without the cloud's own and scanners'). */
  stored(gate?: string): Promise<Row[]>;
  /** Asks the database as its owner. */
  ask<T>(sql: string, values?: readonly unknown[]): Promise<T[]>;
  /** Waits until Postgres holds exactly what the running gates' ledgers hold, each row once, chains whole; answers those rows. */
  settled(timeoutMs?: number): Promise<Row[]>;
  close(): Promise<void>;
}

/** Everything up, the gates holding their tickets. */
export async function openVenue(options: VenueOptions = {}): Promise<Venue> {
  const releases: (() => Promise<unknown> | unknown)[] = [];
  const close = async () => {
    const failures: unknown[] = [];
    for (const release of releases.splice(0).reverse())
      try {
        await release();
      } catch (error) {
        failures.push(error);
      }
    if (failures.length > 0) throw failures[0];
  };
  try {
    const names = (options.gates ?? ['north', 'south']).map((gate) => `${SITE}/${gate}`);
    const dir = mkdtempSync(join(tmpdir(), 'stile-system-'));
    releases.push(() => (process.env['KEEP'] === undefined ? rmSync(dir, { recursive: true, force: true }) : process.stderr.write(`kept ${dir}\n`)));
    const broker = await startBroker(options.tls === true ? { tls: true, acl: names.map((gate) => ({ gate, revoked: false })) } : {});
    releases.push(() => broker.stop());
    const pki = join(dir, 'pki');
    if (broker.ca !== null) await writeTestCa(broker.ca, pki, names);
    const identity = (name: string) => ({ ca: join(pki, 'gates-ca.crt'), cert: join(pki, `${name}.crt`), key: join(pki, `${name}.key`) });
    const database = await freshDatabase();
    releases.push(() => database.drop());
    const stack = await openStack({ dir, databaseUrl: database.servingUrl, mqtt: { url: broker.cloudUrl, ...(broker.ca === null ? {} : identity('cloud')) } });
    releases.push(() => stack.close());

    const tickets = Array.from({ length: options.tickets ?? 40 }, (_, index): Ticket => ({ ticketId: `T-${index + 1}`, code: newCode() }));
    const policies = join(dir, 'policies.json');
    writeFileSync(policies, JSON.stringify({ event: { duplicate_window_s: 0, ...options.policies } }));
    const csv = join(dir, 'tickets.csv');
    writeFileSync(csv, ['ticket_id,code,tier', ...tickets.map(({ ticketId, code }) => `${ticketId},${code},standard`)].join('\n'));
    await stack.cloud('event', 'put', EVENT, '--site', SITE, '--name', 'Concert', '--ends', '2099-01-01T00:00Z', '--policies', policies, '--no-wait');
    await stack.cloud('import', EVENT, csv, '--no-wait');
    // The gates' folders are searched for codes: no file of the set-up may hold them any more.
    rmSync(csv);
    const gates: GateProcess[] = [];
    for (const name of names)
      gates.push(
        await stack.addGate(name, [EVENT], {
          mqtt: { url: broker.url, ...(broker.ca === null ? {} : identity(name.replace('/', '_'))) },
          passageMs: options.passageMs ?? 100,
          settings: { turnstile: { release: 'pulse', sensor: 'per_direction', repeat_ms: 300 }, ...options.settings },
        }),
      );
    const spy = await connectPeer(broker.cloudUrl, broker.ca === null ? {} : { ca: broker.ca.ca, cert: broker.ca.cloud.cert, key: broker.ca.cloud.key });
    releases.push(() => spy.end().catch(() => undefined));
    await spy.subscribe(options.tls === true ? 'stile/1/#' : '#');
    await stack.startCloud();
    await Promise.all(gates.map((gate) => gate.start()));
    await Promise.all(gates.map((gate) => gate.until(ready, 90_000)));

    const ask = <T>(sql: string, values: readonly unknown[] = []) =>
      database.database.asOwner((client) => client.query<T>(sql, [...values])).then(({ rows }) => rows as T[]);
    const stored = async (gate?: string) => (await ask<StoredRow>(STORED, [gate ?? null])).map(rowOf);
    let next = 0;
    return {
      dir,
      broker,
      database,
      stack,
      gates,
      spy,
      ticket() {
        const ticket = tickets[next++];
        if (ticket === undefined) throw new Error('no ticket is left: ask openVenue for more');
        return ticket;
      },
      stored,
      ask,
      async settled(timeoutMs = ARRIVAL_MS) {
        const deadline = performance.now() + timeoutMs;
        for (;;) {
          // Exports are dear: they wait until the gates say that everything is acknowledged.
          while (performance.now() < deadline && !(await acknowledged(gates))) await sleep(POLL_MS);
          const own = (await Promise.all(gates.filter((gate) => gate.running()).map(ownLedger))).flat();
          const held = await stored();
          if (same(own, held)) {
            checkChains(held);
            return held;
          }
          if (performance.now() > deadline) throw new Error(`the account did not settle within ${timeoutMs} ms: ${difference(own, held)}`);
          await sleep(POLL_MS * 4);
        }
      },
      close,
    };
  } catch (error) {
    await close().catch(() => undefined);
    throw error;
  }
}

/** No running gate holds a row that the cloud has not acknowledged. */
const acknowledged = async (gates: readonly GateProcess[]): Promise<boolean> =>
  (await Promise.all(gates.filter((gate) => gate.running()).map((gate) => gate.fresh()))).every(({ ledger }) => ledger.backlog === 0);

/** A code as a ticket shop prints it: 128 random bits. */
export const newCode = () => randomBytes(16).toString('hex').toUpperCase();

type Status = NonNullable<ReturnType<GateProcess['status']>>;

/** Takes the next code: tickets are there and no guest is under way. */
export const ready = ({ manifests, signals }: Status) => manifests.length > 0 && (signals.in === 'ready' || signals.in === 'refused');

/** A guest who is told "busy" waits and shows the code again, so often. */
const TRIES = 3;

/** A guest shows a code and is told yes or no. Waits until the lane takes codes. */
export async function show(gate: GateProcess, code: string): Promise<RecentLine> {
  const signals: string[] = [];
  for (let tried = 1; ; tried++) {
    // Asked anew: the watched status may be of before the last guest.
    await eventually(`${gate.gate} to take a code`, async () => ready(await gate.fresh()), ANSWER_MS);
    let busy: () => void = () => undefined;
    const toldBusy = new Promise<null>((resolve) => {
      busy = () => resolve(null);
    });
    const unwatch = gate.watch((item) => {
      if (!('status' in item)) return;
      signals.push(item.status.signals.in);
      if (item.status.signals.in === 'busy' && tried < TRIES) busy();
    });
    const line = gate.line(({ kind }) => kind === 'granted' || kind === 'refused', ANSWER_MS);
    gate.show(code);
    const answer = await Promise.race([line, toldBusy])
      .catch((error: Error) => {
        throw new Error(`${error.message}\nthe guest saw: ${signals.join(', ') || 'nothing'}\n${logOf(gate.logFile).slice(-3_000)}`);
      })
      .finally(unwatch);
    if (answer !== null) return answer;
    line.catch(() => undefined);
  }
}

/** A guest with a ticket goes in, all the way through. */
export async function enter(gate: GateProcess, { code }: Ticket): Promise<RecentLine> {
  const passed = gate.line(({ kind }) => kind === 'passage', ANSWER_MS);
  passed.catch(() => undefined);
  const answer = await show(gate, code);
  if (answer.kind !== 'granted') throw new Error(`${gate.gate} did not admit: ${answer.words}`);
  await passed;
  return answer;
}

/** The gate's own record, through `stile-gate ledger export` as a technician would take it. */
export async function ownLedger(gate: GateProcess): Promise<Row[]> {
  const result = await stileGate(gate, 'ledger', 'export');
  if (result.code !== 0) throw new Error(`ledger export of ${gate.gate}: ${result.stderr}`);
  return result.stdout
    .split('\n')
    .filter((line) => line !== '')
    .flatMap((line) => {
      const message = JSON.parse(line) as { gate: string; epoch: number; entries: (Record<string, unknown> & { seq: number; hash: string; kind: string })[] };
      return message.entries.map((entry) => ({ gate: message.gate, epoch: message.epoch, seq: entry.seq, hash: entry.hash, kind: entry.kind, entry }));
    });
}

/** `stile-gate …` against the running gate. */
export const stileGate = (gate: GateProcess, ...args: readonly string[]): Promise<CommandResult> => run(STILE_GATE, [...args, '--config', gate.configFile]);

/** Waits until something is so; says what it waited for. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | null | undefined | false> | T | null | undefined | false,
  timeoutMs = 60_000,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await look();
    if (found !== null && found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await sleep(POLL_MS);
  }
}

export interface Wires {
  /** Changes of outputs and inputs since it was opened, oldest first. */
  readonly changes: readonly { readonly output?: string; readonly input?: string; readonly active?: boolean }[];
  /** Counts the activations of the release. */
  releases(): number;
  /** Such as {"walk": {"mode": "nobody"}}. */
  send(line: Readonly<Record<string, unknown>>): Promise<void>;
  close(): void;
}

/** Looks at the wires of a gate's software turnstile. Ends with the gate's process. */
export async function openWires(gate: GateProcess): Promise<Wires> {
  const socket = connect(gate.simSocket);
  const changes: { output?: string; input?: string; active?: boolean }[] = [];
  const answers: ((answer: { error?: string }) => void)[] = [];
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const message = JSON.parse(text.slice(0, end)) as { ok?: boolean; error?: string; snapshot?: unknown; output?: string };
      text = text.slice(end + 1);
      if (message.ok !== undefined || message.error !== undefined) answers.shift()?.(message);
      else if (message.snapshot === undefined) changes.push(message);
    }
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve).once('error', reject);
  });
  socket.on('error', () => undefined);
  return {
    changes,
    releases: () => changes.filter(({ output, active }) => output === 'release_in' && active === true).length,
    async send(line) {
      const answered = new Promise<{ error?: string }>((resolve) => answers.push(resolve));
      socket.write(`${JSON.stringify(line)}\n`);
      const { error } = await answered;
      if (error !== undefined) throw new Error(`the software turnstile: ${error}`);
    },
    close: () => void socket.destroy(),
  };
}

/** Every row once, with equal place and hash on both sides. */
export function same(own: readonly Row[], held: readonly Row[]): boolean {
  return own.length === held.length && difference(own, held) === '';
}

/** Returns the rows that are missing, too many or different; empty when there are none. */
export function difference(own: readonly Row[], held: readonly Row[]): string {
  const key = ({ gate, epoch, seq, hash }: Row) => `${gate} ${epoch}/${seq} ${hash.slice(0, 12)}`;
  const count = (rows: readonly Row[]) => {
    const counts = new Map<string, number>();
    for (const row of rows) counts.set(key(row), (counts.get(key(row)) ?? 0) + 1);
    return counts;
  };
  const [gates, postgres] = [count(own), count(held)];
  const lines = [...new Set([...gates.keys(), ...postgres.keys()])]
    .filter((name) => gates.get(name) !== postgres.get(name) || gates.get(name) !== 1)
    .map((name) => `${name}: gate ${gates.get(name) ?? 0}, Postgres ${postgres.get(name) ?? 0}`);
  return lines.length === 0 ? '' : `${own.length} rows at the gates, ${held.length} in Postgres; ${lines.slice(0, 10).join('; ')}`;
}

/** Throws where the stored rows are not each gate's whole chain, hash by hash, from seq 1. */
export function checkChains(rows: readonly Row[]): void {
  for (const [ledger, chain] of Map.groupBy(rows, ({ gate, epoch }) => `${gate}/${epoch}`)) {
    const { gate, epoch } = chain[0] as Row;
    let previous = firstPredecessor(sha256, gate, epoch);
    for (const [index, row] of chain.entries()) {
      if (row.seq !== index + 1) throw new Error(`${ledger}: row ${index + 1} is missing, ${row.seq} is there`);
      previous = entryHash(sha256, previous, row.entry);
      if (previous !== row.hash) throw new Error(`${ledger}/${row.seq}: the hash does not follow from what is stored`);
    }
  }
}

const STORED = `SELECT gate, epoch, seq, encode(hash, 'hex') AS hash, kind, entry FROM ledger_rows
  WHERE gate NOT LIKE '%/cloud' AND gate NOT LIKE '%/@%' AND ($1::text IS NULL OR gate = $1) ORDER BY gate, epoch, seq`;
interface StoredRow {
  readonly gate: string;
  readonly epoch: number | string;
  readonly seq: number | string;
  readonly hash: string;
  readonly kind: string;
  readonly entry: string;
}
const rowOf = (row: StoredRow): Row => ({ ...row, epoch: Number(row.epoch), seq: Number(row.seq), entry: JSON.parse(row.entry) as Row['entry'] });

/** The text of a log, empty where there is none yet. */
export function logOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
