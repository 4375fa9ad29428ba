/**
 * Start and memory of the whole gate, as a process: from its start to the moment when it can decide (ledger open, manifest of the
 * given size in use, reader open), beside the bare runtime's start and beside a runtime that starts a worker and loads the native
 * parts, which is the least that a gate must do; and what it holds in memory later, connected to a broker, with what is wanted fetched.
 * From the sources, and from the bundle where `make bundle` has made one, as a service that ran before. Rounds are interleaved.
 *
 *   node bench/start.ts [--rounds 15] [--tickets 100000] [--bundle <folder>] [--before <folder>] [--connected-s 5] [--first]
 *
 * `--before`: an earlier commit's bundle, measured in the same rounds. `--first`: the bundle's very first start as well, with nothing kept compiled. Without Mosquitto the gate works alone.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { arch, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { connectAsync } from 'mqtt';
import { stringify } from 'yaml';
import { topicOf } from '../contract/topics.ts';
import { createClock } from '../daemon/clock/clock.ts';
import { createDeciderClient } from '../daemon/decider/client.ts';
import { openPtyPair } from '../daemon/sim/pty-pair.ts';
import { type Broker, startBroker } from '../testkit/broker.ts';
import { quantile, table } from './table.ts';
import { makeTicketList } from './ticket-list.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '15' },
    tickets: { type: 'string', default: '100000' },
    bundle: { type: 'string' },
    before: { type: 'string' },
    'connected-s': { type: 'string', default: '5' },
    first: { type: 'boolean', default: false },
  },
});
const ROUNDS = Number(values.rounds);
const root = fileURLToPath(new URL('..', import.meta.url));
const GATE = 'arena/bench-01';
const START_MS = 30_000;
/** The service keeps its compiled code so long after its start (deploy/compile-cache.ts), ms, and some more. */
const COMPILED_MS = 22_000;
const folder = mkdtempSync(join(tmpdir(), 'stile-start-'));

/** A store with a manifest in use, and the gate's configuration beside it. */
async function prepare(broker: Broker | null): Promise<{ readonly config: string; readonly close: () => void }> {
  const { file, wanted, signer } = await makeTicketList(folder, Number(values.tickets), Date.now());
  const decider = createDeciderClient({ path: join(folder, 'store'), gate: GATE, verifyKeys: [signer.publicKey], clock: createClock({ floorMs: 0 }) });
  await decider.open();
  const want = JSON.stringify({ schema: 1, events: [wanted] });
  await decider.want(Buffer.from(want));
  const installed = await decider.installManifest(file, wanted);
  if (!installed.ok) throw new Error(`the manifest was refused: ${installed.message}`);
  await decider.close();
  if (broker !== null) {
    const cloud = await connectAsync(broker.url);
    await cloud.publishAsync(topicOf({ kind: 'want', gate: GATE }), want, { qos: 1, retain: true });
    await cloud.endAsync();
  }
  const keys = join(folder, 'keys.json');
  writeFileSync(keys, JSON.stringify([signer.publicKey]));
  const pty = openPtyPair();
  const config = join(folder, 'gate.yaml');
  mkdirSync(join(folder, 'run'));
  writeFileSync(
    config,
    stringify({
      gate: GATE,
      readers: [{ name: 'in', path: pty.readerPath, baud: 115_200, frame: 'crlf', direction: 'in' }],
      board: { driver: 'sim', outputs: { release_in: 17, green_in: 22 }, inputs: { passage_in: 20 } },
      ...(broker === null ? {} : { mqtt: { url: broker.url } }),
      cloud: { url: 'http://127.0.0.1:9', keys },
      store: { path: join(folder, 'store') },
      control: { socket: join(folder, 'run', 'gate.sock') },
    }),
  );
  return { config, close: () => pty.close() };
}

interface Start {
  readonly ms: number;
  readonly rssMb: number;
  /** Of that, not the program's own file and libraries, whose pages the kernel can drop and read again. */
  readonly ownMb: number;
}

/** Milliseconds from the process's start to its word that it decides; then its memory, then its end. */
function startOnce(launcher: string, config: string, state: string, thenMs: number): Promise<Start> {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const child = spawn(launcher, ['run', '--config', config], { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, STATE_DIRECTORY: state } });
    let text = '';
    let result: Start | null = null;
    const timer = setTimeout(() => child.kill('SIGKILL'), START_MS + thenMs);
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      if (result !== null || !text.includes('the gate decides')) return;
      const ms = performance.now() - began;
      setTimeout(() => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
        const field = (name: string) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]) / 1024;
        result = { ms, rssMb: field('VmRSS'), ownMb: field('RssAnon') };
        child.kill('SIGTERM');
      }, thenMs);
    });
    child.on('close', () => {
      clearTimeout(timer);
      if (result === null) reject(new Error(`the gate did not start:\n${text.slice(-2000)}`));
      else resolve(result);
    });
  });
}

function bareOnce(program: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    spawn(process.execPath, ['-e', program], { stdio: 'ignore', cwd: root }).on('exit', (code) =>
      code === 0 ? resolve(performance.now() - began) : reject(new Error('a bare runtime failed')),
    );
  });
}
/** What no gate can do without: a second thread, and in the two of them the parts for the database and the reader. */
const LEAST = `const { Worker } = require('node:worker_threads');
const worker = new Worker("new (require('better-sqlite3'))(':memory:'); require('node:worker_threads').parentPort.postMessage(1)", { eval: true });
require('@serialport/bindings-cpp');
worker.once('message', () => process.exit(0));`;

let broker: Broker | null = null;
try {
  try {
    broker = await startBroker();
  } catch (error) {
    process.stderr.write(`${(error as Error).message}: measured without a broker\n`);
  }
  const { config, close } = await prepare(broker);
  const bundle = join(values.bundle ?? join(root, 'dist', `gate-${arch()}`), 'bin', 'stile-gate');
  const ways: [string, string][] = [['from the sources', join(root, 'daemon', 'stile-gate')]];
  if (values.before !== undefined) ways.push(['from the earlier bundle', join(values.before, 'bin', 'stile-gate')]);
  if (existsSync(bundle)) ways.push(['from the bundle', bundle]);
  const state = (name: string) => join(folder, `state ${name}`);
  const first: Start[] = [];
  for (const [name, launcher] of ways) {
    if (values.first) {
      for (let round = 0; round < ROUNDS; round++) {
        rmSync(state(name), { recursive: true, force: true });
        first.push(await startOnce(launcher, config, state(name), 0));
      }
    }
    await startOnce(launcher, config, state(name), COMPILED_MS);
    if (launcher !== bundle) first.length = 0;
  }
  const bare: number[] = [];
  const least: number[] = [];
  const times = new Map(ways.map(([name]) => [name, [] as Start[]]));
  for (let round = 0; round < ROUNDS; round++) {
    bare.push(await bareOnce('0'));
    least.push(await bareOnce(LEAST));
    for (const [name, launcher] of ways) times.get(name)?.push(await startOnce(launcher, config, state(name), Number(values['connected-s']) * 1_000));
  }
  const base = quantile(bare, 0.5);
  const line = (name: string, ms: readonly number[], starts: readonly Start[]) => [
    name,
    quantile(ms, 0.5).toFixed(0),
    quantile(ms, 0.9).toFixed(0),
    Math.min(...ms).toFixed(0),
    (quantile(ms, 0.5) / base).toFixed(2),
    starts.length === 0
      ? ''
      : quantile(
          starts.map(({ rssMb }) => rssMb),
          0.5,
        ).toFixed(0),
    starts.length === 0
      ? ''
      : quantile(
          starts.map(({ ownMb }) => ownMb),
          0.5,
        ).toFixed(0),
  ];
  const msOf = (starts: readonly Start[]) => starts.map(({ ms }) => ms);
  process.stdout.write(
    `start to first possible decision, ${Number(values.tickets).toLocaleString('en')} tickets, ${ROUNDS} rounds, load ${loadavg()[0]?.toFixed(1)}; memory ${broker === null ? 'alone' : 'connected'}, ${values['connected-s']} s later\n`,
  );
  process.stdout.write(
    `${table(
      ['', 'p50 ms', 'p90 ms', 'least ms', '× bare', 'MB resident', 'of them own'],
      [
        line('bare runtime, start to end', bare, []),
        line('bare runtime, a worker and the native parts', least, []),
        ...[...times].map(([name, starts]) => line(name, msOf(starts), starts)),
        ...(first.length === 0 ? [] : [line('from the bundle, its very first start', msOf(first), [])]),
      ],
    )}\n`,
  );
  if (!existsSync(bundle)) process.stdout.write('(no bundle: `make bundle` first to measure it too)\n');
  close();
} finally {
  await broker?.stop();
  rmSync(folder, { recursive: true, force: true });
}
