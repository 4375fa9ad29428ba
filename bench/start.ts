/**
 * Start and memory of the whole gate, as a process: from its start to the moment when it can decide (ledger open, manifest of the
 * given size in use, reader open), beside the bare runtime's start; and what it holds in memory then.
 * From the sources, and from the bundle where `make bundle` has made one. Rounds are interleaved.
 *
 *   node bench/start.ts [--rounds 15] [--tickets 100000]
 */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { arch, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { stringify } from 'yaml';
import type { ManifestTicket } from '../contract/manifest.ts';
import { createClock } from '../daemon/clock.ts';
import { createDesk } from '../daemon/desk.ts';
import { createSigner } from '../daemon/desk-fixture.ts';
import { openPtyPair } from '../daemon/sim/pty-pair.ts';
import { buildManifestFile } from '../daemon/store/build-manifest.ts';
import { quantile, table } from './table.ts';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '15' }, tickets: { type: 'string', default: '100000' } } });
const ROUNDS = Number(values.rounds);
const root = fileURLToPath(new URL('..', import.meta.url));
const GATE = 'arena/bench-01';
const START_MS = 30_000;
const folder = mkdtempSync(join(tmpdir(), 'stile-start-'));

function* tickets(count: number): Generator<ManifestTicket> {
  for (let index = 0; index < count; index++) {
    const ref = createHash('sha256').update(String(index)).digest('hex').slice(0, 32);
    yield {
      ticket_id: `T-${index}`,
      ticket_ref: ref,
      tier: 'standard',
      zone: null,
      status: 'valid',
      max_scans: null,
      units: 1,
      valid_from: null,
      valid_until: null,
      vip: false,
      note: null,
    };
  }
}

/** A store with a manifest in use, and the gate's configuration beside it. */
async function prepare(): Promise<{ readonly config: string; readonly close: () => void }> {
  const signer = createSigner();
  const file = join(folder, 'manifest.sqlite');
  const now = Date.now();
  const built = await buildManifestFile(file, {
    head: {
      schema: 1,
      event_id: 'bench',
      version: 1,
      generated_at: new Date(now).toISOString(),
      expires_at: new Date(now + 86_400_000).toISOString(),
      name: 'Bench',
      starts_at: null,
      ends_at: null,
      time_zone: 'UTC',
      salt: randomBytes(16).toString('hex'),
      policies: {},
      keys: [],
      revoked: { version: 0, refs: [] },
      upto: {},
    },
    tickets: tickets(Number(values.tickets)),
    usage: [],
  });
  const desk = createDesk({ path: join(folder, 'store'), gate: GATE, verifyKeys: [signer.publicKey], clock: createClock({ floorMs: 0 }) });
  await desk.open();
  const wanted = signer.sign({
    event_id: 'bench',
    version: 1,
    overlay_version: 1,
    sha256: built.sha256,
    size: built.size,
    url: '/m',
    key_id: signer.publicKey.key_id,
  });
  await desk.want(Buffer.from(JSON.stringify({ schema: 1, events: [wanted] })));
  const installed = await desk.installManifest(file, wanted);
  if (!installed.ok) throw new Error(`the manifest was refused: ${installed.message}`);
  await desk.close();
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
      cloud: { url: 'http://127.0.0.1:9', keys },
      store: { path: join(folder, 'store') },
      control: { socket: join(folder, 'run', 'gate.sock') },
    }),
  );
  return { config, close: () => pty.close() };
}

/** Milliseconds from the process's start to its word that it decides; then its memory, then its end. */
function startOnce(launcher: string, config: string): Promise<{ readonly ms: number; readonly rssMb: number }> {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const child = spawn(launcher, ['run', '--config', config], { stdio: ['ignore', 'ignore', 'pipe'] });
    let text = '';
    let result: { ms: number; rssMb: number } | null = null;
    const timer = setTimeout(() => child.kill('SIGKILL'), START_MS);
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      if (result !== null || !text.includes('the gate decides')) return;
      const ms = performance.now() - began;
      setTimeout(() => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const rss = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1];
        result = { ms, rssMb: Number(rss) / 1024 };
        child.kill('SIGTERM');
      }, 2_000);
    });
    child.on('exit', () => {
      clearTimeout(timer);
      if (result === null) reject(new Error(`the gate did not start:\n${text.slice(-2000)}`));
      else resolve(result);
    });
  });
}

function bareOnce(): Promise<number> {
  return new Promise((resolve) => {
    const began = performance.now();
    spawn(process.execPath, ['-e', '0'], { stdio: 'ignore' }).on('exit', () => resolve(performance.now() - began));
  });
}

try {
  const { config, close } = await prepare();
  const bundle = join(root, 'dist', `gate-${arch()}`, 'bin', 'stile-gate');
  const ways = [['from the sources', join(root, 'daemon', 'stile-gate')], ...(existsSync(bundle) ? [['from the bundle', bundle]] : [])] as [string, string][];
  const bare: number[] = [];
  const times = new Map(ways.map(([name]) => [name, { ms: [] as number[], rss: [] as number[] }]));
  for (let round = 0; round < ROUNDS; round++) {
    bare.push(await bareOnce());
    for (const [name, launcher] of ways) {
      const { ms, rssMb } = await startOnce(launcher, config);
      times.get(name)?.ms.push(ms);
      times.get(name)?.rss.push(rssMb);
    }
  }
  const base = quantile(bare, 0.5);
  process.stdout.write(`start to first possible decision, ${Number(values.tickets).toLocaleString('en')} tickets, ${ROUNDS} rounds\n`);
  process.stdout.write(
    `${table(
      ['', 'p50 ms', 'p90 ms', '× bare', 'MB resident'],
      [
        ['bare runtime, start to end', base.toFixed(0), quantile(bare, 0.9).toFixed(0), '1.00', ''],
        ...[...times].map(([name, { ms, rss }]) => [
          name,
          quantile(ms, 0.5).toFixed(0),
          quantile(ms, 0.9).toFixed(0),
          (quantile(ms, 0.5) / base).toFixed(2),
          quantile(rss, 0.5).toFixed(0),
        ]),
      ],
    )}\n`,
  );
  if (ways.length === 1) process.stdout.write('(no bundle: `make bundle` first to measure it too)\n');
  close();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
