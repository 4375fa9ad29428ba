/**
 * The way of a code through this gate and through what people would use instead, in one run on one disk: a Node-RED flow, a plain
 * Python script with Debian's libraries, and bare C as the floor of the whole way. Each is a process of its own that reads a
 * pseudo-terminal, looks the code up among the same tickets, records it in SQLite, opens the lane, and publishes a row by MQTT.
 * Codes go to one after the other in turn, so that what else the machine does meets all of them alike.
 *
 *   node bench/peers/edge.ts [--codes 200] [--tickets 10000] [--dir <folder on the disk to measure>] [--bundle <folder of a gate's bundle>]
 *
 * What each does, and what it leaves out: README.md beside this file. A peer that cannot be had here is left out, with the reason.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { appendFileSync, closeSync, constants, existsSync, fdatasyncSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs';
import { connect, Socket } from 'node:net';
import { arch, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import Database from 'better-sqlite3';
import { connectAsync } from 'mqtt';
import { parseTopic, topicOf } from '../../contract/topics.ts';
import { ticketRefOf } from '../../daemon/decider/resolve-ticket.ts';
import { openPtyPair } from '../../daemon/sim/pty-pair.ts';
import { startBroker } from '../../testkit/broker.ts';
import { CHECKOUT_LAUNCHER, codeOf, createTestGate, GATE } from '../../testkit/gate.ts';
import { quantile, table } from '../table.ts';
import { edgeFlow } from './edge-flow.ts';
import { fetchNodeRed, PEERS, startNodeRed } from './node-red.ts';

const { values } = parseArgs({
  options: {
    codes: { type: 'string', default: '200' },
    tickets: { type: 'string', default: '10000' },
    dir: { type: 'string', default: tmpdir() },
    bundle: { type: 'string' },
  },
});
const CODES = Number(values.codes);
const TICKETS = Number(values.tickets);
/** First codes of each, which are not counted: what is compiled as it runs has run by then. */
const WARM_UP = 20;
/** Between the codes of two peers, ms: the guest before is through, and the disk at rest. */
const PAUSE_MS = 90;
/** Such a code had no answer, ms. */
const LOST_MS = 5_000;
const SALT = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
const PYTHON = '/usr/bin/python3';
const FLOOR_BYTES = 4_120;
const root = join(import.meta.dirname, '../..');

interface Peer {
  readonly name: string;
  /** Its lane's release, and the microsecond of it. */
  readonly release: { heard: (() => void) | null };
  readonly guest: number;
  readonly child: ChildProcess;
  readonly times: number[];
  published: number;
  lost: number;
}

const folder = mkdtempSync(join(values.dir, 'stile-peers-'));
const endings: (() => Promise<void> | void)[] = [];
const left: string[] = [];

/** Tickets and tables as a script would have them. */
function makeDatabase(name: string): string {
  const path = join(folder, `${name}.sqlite`);
  const db = new Database(path);
  db.exec(
    'CREATE TABLE tickets (ref BLOB PRIMARY KEY, id TEXT NOT NULL, status INTEGER NOT NULL) WITHOUT ROWID; CREATE TABLE used (ref BLOB PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID; CREATE TABLE ledger (seq INTEGER PRIMARY KEY, entry TEXT NOT NULL)',
  );
  const put = db.prepare('INSERT INTO tickets VALUES (?, ?, 0)');
  db.transaction(() => {
    for (let n = 0; n < TICKETS; n++) put.run(ticketRefOf(SALT, codeOf(n)), `t-${n}`);
  })();
  db.close();
  return path;
}

/** A wire, a lane and a database for a peer; `start` gives the process. */
async function addPeer(
  name: string,
  wal: boolean,
  start: (at: { reader: string; database: string; output: string; topic: string }) => Promise<ChildProcess>,
): Promise<Peer> {
  const id = name.replaceAll(/[^a-z]+/gi, '-');
  const database = makeDatabase(id);
  if (wal) {
    const db = new Database(database);
    db.pragma('journal_mode = WAL');
    db.close();
  }
  const pty = openPtyPair();
  endings.push(() => pty.close());
  const output = join(folder, `${id}.lane`);
  execFileSync('mkfifo', [output]);
  const lane = new Socket({ fd: openSync(output, constants.O_RDWR | constants.O_NONBLOCK), readable: true, writable: false });
  endings.push(() => void lane.destroy());
  const release: Peer['release'] = { heard: null };
  lane.on('data', () => release.heard?.());
  const child = await start({ reader: pty.readerPath, database, output, topic: `peers/${id}` });
  return { name, release, guest: openSync(pty.guestPath, 'w'), child, times: [], published: 0, lost: 0 };
}

async function addStile(name: string, launcher: string, port: number): Promise<Peer> {
  const at = await createTestGate(launcher, TICKETS);
  endings.push(async () => {
    await at.killAll();
    at.remove();
  });
  appendFileSync(at.config, `mqtt: { url: "mqtt://127.0.0.1:${port}" }\nturnstile: { pulse_ms: 50 }\n`);
  const child = await at.start();
  // A quick guest: the lane is free again before the next code.
  await at.tellTurnstile({ walk: { mode: 'auto', delay_ms: 5, rotate_ms: 10, relock_ms: 20 } });
  const release: Peer['release'] = { heard: null };
  const lane = connect(join(at.dir, 'sim.sock'));
  endings.push(() => void lane.destroy());
  let text = '';
  lane.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    if (lines.some((line) => line.includes('"release_in"') && line.includes('true'))) release.heard?.();
  });
  return { name, release, guest: openSync(join(at.dir, 'guest'), 'w'), child, times: [], published: 0, lost: 0 };
}

const ready = (child: ChildProcess): Promise<ChildProcess> =>
  new Promise((resolve, reject) => {
    child.stdout?.once('data', () => resolve(child));
    child.once('exit', (code) => reject(new Error(`it ended with ${code}`)));
  });

function compileEdge(): string {
  const program = join(PEERS, 'edge');
  const source = join(import.meta.dirname, 'edge.c');
  if (existsSync(program) && statSync(program).mtimeMs > statSync(source).mtimeMs) return program;
  const sqlite = join(root, 'node_modules/better-sqlite3/deps/sqlite3');
  execFileSync(
    'gcc',
    ['-O2', '-w', '-DSQLITE_THREADSAFE=0', '-DSQLITE_OMIT_LOAD_EXTENSION', `-I${sqlite}`, source, join(sqlite, 'sqlite3.c'), '-lm', '-o', program],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  return program;
}

const writtenBytes = ({ child }: Peer): number => Number(/write_bytes: (\d+)/.exec(readFileSync(`/proc/${child.pid}/io`, 'utf8'))?.[1]);
const residentMb = ({ child }: Peer): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]) / 1024;

async function showCode(peer: Peer, code: string): Promise<number | null> {
  const began = performance.now();
  const heard = new Promise<number | null>((resolve) => {
    const timer = setTimeout(() => resolve(null), LOST_MS);
    peer.release.heard = () => {
      clearTimeout(timer);
      peer.release.heard = null;
      resolve((performance.now() - began) * 1_000);
    };
  });
  writeSync(peer.guest, `${code}\r\n`);
  return heard;
}

const broker = await startBroker();
try {
  const peers: Peer[] = [];
  const tryPeer = async (name: string, make: () => Promise<Peer>) => {
    try {
      peers.push(await make());
    } catch (error) {
      const stderr = (error as { stderr?: Buffer }).stderr?.toString() ?? '';
      left.push(`${name}: ${(error as Error).message.split('\n')[0]} ${stderr.trim().split('\n').slice(-2).join(' ')}`.slice(0, 400));
    }
  };
  const bundle = join(values.bundle ?? join(root, 'dist', `gate-${arch()}`), 'bin/stile-gate');
  const launcher = existsSync(bundle) ? bundle : CHECKOUT_LAUNCHER;
  const stileName = launcher === bundle ? 'Stile' : 'Stile, from the sources';
  const cloud = await connectAsync(broker.url);
  endings.push(() => cloud.endAsync());
  await cloud.subscribeAsync(['peers/#', topicOf({ kind: 'ledger', gate: GATE })], { qos: 1 });
  const seen = new Set<string>();
  const refusals = new Map<string, number>();
  cloud.on('message', (topic, payload) => {
    if (topic.startsWith('peers/')) {
      const peer = peers.find(({ name }) => topic === `peers/${name.replaceAll(/[^a-z]+/gi, '-')}`);
      if (peer !== undefined) peer.published += 1;
      return;
    }
    if (parseTopic(topic)?.kind !== 'ledger') return;
    const { epoch, entries } = JSON.parse(payload.toString()) as { epoch: number; entries: { seq: number; kind: string; reason?: string }[] };
    // The cloud's part: without an acknowledgement a gate sends no more than its window.
    const ack = { schema: 1, cloud_time: new Date().toISOString(), epochs: [{ epoch, upto_seq: Math.max(...entries.map(({ seq }) => seq)), missing: [] }] };
    cloud.publish(topicOf({ kind: 'ack', gate: GATE }), JSON.stringify(ack), { qos: 1, retain: true });
    const peer = peers.find(({ name }) => name === stileName);
    for (const { seq, kind, reason } of entries) {
      if (reason !== undefined) refusals.set(reason, (refusals.get(reason) ?? 0) + 1);
      if (kind !== 'grant' || seen.has(`${epoch}/${seq}`)) continue;
      seen.add(`${epoch}/${seq}`);
      if (peer !== undefined) peer.published += 1;
    }
  });

  await tryPeer(stileName, () => addStile(stileName, launcher, broker.port));
  await tryPeer('bare C', () =>
    addPeer('bare C', true, ({ reader, database, output, topic }) =>
      ready(spawn(compileEdge(), [reader, database, SALT.toString('hex'), output, String(broker.port), topic], { stdio: ['ignore', 'pipe', 'inherit'] })),
    ),
  );
  for (const wal of [true, false]) {
    const how = wal ? 'WAL, FULL' : 'as it comes';
    await tryPeer(`Python, ${how}`, () =>
      addPeer(`Python, ${how}`, wal, ({ reader, database, output, topic }) =>
        ready(
          spawn(
            PYTHON,
            [join(import.meta.dirname, 'edge.py'), reader, database, SALT.toString('hex'), output, String(broker.port), topic, wal ? 'wal' : 'plain'],
            {
              stdio: ['ignore', 'pipe', 'inherit'],
            },
          ),
        ),
      ),
    );
    await tryPeer(`Node-RED, ${how}`, () => {
      fetchNodeRed({ native: true });
      return addPeer(`Node-RED, ${how}`, wal, ({ reader, database, output, topic }) =>
        startNodeRed(join(folder, `node-red-${wal}`), edgeFlow({ reader, database, saltHex: SALT.toString('hex'), output, port: broker.port, topic, wal })),
      );
    });
  }
  for (const { child } of peers) endings.push(() => void child.kill('SIGKILL'));
  await sleep(3_000);

  const floorFile = openSync(join(folder, 'floor'), 'w');
  const page = Buffer.alloc(FLOOR_BYTES, 7);
  for (let n = 0; n < 256; n++) writeSync(floorFile, page, 0, FLOOR_BYTES, n * FLOOR_BYTES);
  fdatasyncSync(floorFile);
  const floor: number[] = [];
  let before: number[] = [];
  for (let n = 0; n < CODES + WARM_UP; n++) {
    if (n === WARM_UP) before = peers.map(writtenBytes);
    for (let turn = 0; turn < peers.length; turn++) {
      const peer = peers[(turn + n) % peers.length] as Peer;
      const us = await showCode(peer, codeOf(n));
      if (us === null) peer.lost += 1;
      else if (n >= WARM_UP) peer.times.push(us);
      await sleep(PAUSE_MS);
    }
    const began = performance.now();
    writeSync(floorFile, page, 0, FLOOR_BYTES, (n % 256) * FLOOR_BYTES);
    fdatasyncSync(floorFile);
    floor.push((performance.now() - began) * 1_000);
  }
  closeSync(floorFile);
  await sleep(1_500);

  const after = peers.map(writtenBytes);
  const p50 = (peer: Peer | undefined) => (peer === undefined ? Number.NaN : quantile(peer.times, 0.5));
  const own = peers.find(({ name }) => name === stileName);
  const ratio = (peer: Peer) => (peer === own ? '1.00' : (p50(peer) / p50(own)).toFixed(2));
  process.stdout.write(
    `last byte → release, ${CODES} codes each in turn, ${TICKETS.toLocaleString('en')} tickets, load ${loadavg()[0]?.toFixed(1)}; this disk's floor (${FLOOR_BYTES.toLocaleString('en')} bytes, fdatasync): p50 ${quantile(floor, 0.5).toFixed(0)} µs\n`,
  );
  process.stdout.write(
    `${table(
      ['', 'p50 µs', 'p90 µs', 'p99 µs', '× Stile', 'KiB written a code', 'MB resident', 'rows published', 'codes without a release'],
      peers.map((peer, at) => [
        peer.name,
        p50(peer).toFixed(0),
        quantile(peer.times, 0.9).toFixed(0),
        quantile(peer.times, 0.99).toFixed(0),
        ratio(peer),
        (((after[at] as number) - (before[at] as number)) / CODES / 1_024).toFixed(1),
        residentMb(peer).toFixed(0),
        `${peer.published}/${CODES + WARM_UP - peer.lost}`,
        String(peer.lost),
      ]),
    )}\n`,
  );
  if (refusals.size > 0) process.stdout.write(`refused by Stile: ${[...refusals].map(([reason, count]) => `${reason} ${count}`).join(', ')}\n`);
  for (const line of left) process.stdout.write(`left out: ${line}\n`);
  const found = (name: string) => peers.find((peer) => peer.name === name);
  const over = (name: string, target: number) => {
    const times = p50(own) / p50(found(name));
    return Number.isNaN(times) ? `${name}: not measured` : `${times.toFixed(2)} × ${name} (target ≤ ${target}: ${times <= target ? 'reached' : 'not reached'})`;
  };
  process.stdout.write(`verdict: ${over('bare C', 1.5)}; ${over('Node-RED, WAL, FULL', 0.6)}; ${over('Python, WAL, FULL', 1)}\n`);
} finally {
  for (const end of endings.reverse()) await end();
  await broker.stop();
  rmSync(folder, { recursive: true, force: true });
}
