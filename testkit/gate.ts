/**
 * For tests: one gate as a process, in a folder of its own, with tickets on it as the cloud would have brought them, a real
 * pseudo-terminal for a reader and the software turnstile for a lane. Any launcher: the checkout's or a bundle's.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { generateKeyPairSync, sign } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { signedText } from '../contract/hash-chain.ts';
import type { ManifestTicket } from '../contract/manifest.ts';
import { createSimClock } from '../daemon/clock/clock.ts';
import { connectGate, type GateClient } from '../daemon/control/client.ts';
import type { GateStatus, LedgerRow } from '../daemon/control/protocol.ts';
import { createDeciderClient } from '../daemon/decider/client.ts';
import { ticketRefOf } from '../daemon/decider/resolve-ticket.ts';
import { PLAIN_TICKET } from '../daemon/decider/testing/store.ts';
import { openPtyPair } from '../daemon/sim/pty-pair.ts';
import { buildManifestFile } from '../manifest-format/testing/build.ts';

export const CHECKOUT_LAUNCHER = new URL('../daemon/stile-gate', import.meta.url).pathname;
export const GATE = 'arena/north-03';
/** Tickets `t-0` … `t-19` (or as many as asked for), of these codes. */
export const codeOf = (n: number): string => `STILE-TEST-CODE-${String(n).padStart(8, '0')}`;
const TICKETS = 20;
const SALT = '00112233445566778899aabbccddeeff';
const HOUR_MS = 3_600_000;
/** A test waits for an event so long at most, ms: the end of patience on a busy machine, no assertion on speed. */
const PATIENCE_MS = 45_000;

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export type TestGate = Awaited<ReturnType<typeof createTestGate>>;

export interface TestEvent {
  readonly policies?: Readonly<Record<string, unknown>>;
  /** Of single tickets, by their number. */
  readonly tickets?: Readonly<Record<number, Partial<ManifestTicket>>>;
}

/** Makes everything; starts nothing. */
export async function createTestGate(launcher = CHECKOUT_LAUNCHER, tickets = TICKETS, event: TestEvent = {}) {
  const root = mkdtempSync(join(tmpdir(), 'stile-gate-'));
  const dir = join(root, 'gate');
  const config = join(dir, 'gate.yaml');
  mkdirSync(join(dir, 'store'), { recursive: true });
  const reader = openPtyPair({ readerLink: join(dir, 'reader'), guestLink: join(dir, 'guest') });
  writeFileSync(
    config,
    `gate: ${GATE}
readers: [{ name: in, path: ./reader }]
board: { driver: sim, sim_socket: ./sim.sock, sim_passage_ms: 50 }
cloud: { url: "http://127.0.0.1:9", keys: ./keys.json }
store: { path: ./store }
control: { socket: ./gate.sock }
`,
  );
  await bringTickets(root, dir, tickets, event);
  const children = new Set<ChildProcess>();

  const end = (child: ChildProcess, signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> => {
    children.delete(child);
    if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve(child.exitCode);
    const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)));
    child.kill(signal);
    return ended;
  };
  /** Runs a command line to its end. */
  const run = (args: readonly string[], options: { readonly cwd?: string; readonly launcher?: string } = {}): Promise<Ran> =>
    new Promise((resolve) => {
      execFile(options.launcher ?? launcher, [...args], { cwd: options.cwd ?? root, maxBuffer: 16 * 1024 * 1024 }, (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number((error as { code?: number }).code), stdout, stderr });
      });
    });
  const cli = (...args: string[]) => run([...args, '--config', config]);
  const ask = async <T>(work: (client: GateClient) => Promise<T>): Promise<T> => {
    const client = await connectGate(join(dir, 'gate.sock'));
    try {
      return await work(client);
    } finally {
      client.close();
    }
  };
  return {
    root,
    dir,
    config,
    /** The wire from the reader: it can be pulled. */
    reader,
    run,
    /** With this gate's configuration. */
    cli,
    end,
    /** Resolves when guests are decided. */
    async start(env: Record<string, string> = {}): Promise<ChildProcess> {
      const child = spawn(launcher, ['run', '--config', config], { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ...env } });
      children.add(child);
      let log = '';
      await new Promise<void>((resolve, reject) => {
        child.stderr?.setEncoding('utf8').on('data', (text: string) => {
          log += text;
          if (log.includes('the gate decides')) resolve();
        });
        child.once('exit', (code) => reject(new Error(`the gate ended with ${code}:\n${log}`)));
      });
      return child;
    },
    /** Over the gate's own socket: a command line for each look costs a whole start of the runtime. */
    status: () => ask((client) => client.call<GateStatus>('status')),
    /** The gate's own rows, oldest first. */
    rows: () =>
      ask(async (client) => {
        const rows: LedgerRow[] = [];
        await client.call('ledger', { limit: 500 }, (item) => void rows.push(item as LedgerRow));
        return rows;
      }),
    /** A guest holds this text before the reader. */
    show: (code: string) => writeFileSync(join(dir, 'guest'), `${code}\r\n`),
    /** One command to the software turnstile (daemon/board/sim-board.ts); resolves when it has obeyed. */
    tellTurnstile: (command: object) => tellTurnstile(join(dir, 'sim.sock'), command),
    /** Outputs as the software turnstile sees them, from now on: `release_in on`. */
    outputs: (onChange?: (change: string) => void) => watchOutputs(join(dir, 'sim.sock'), onChange),
    async killAll(): Promise<void> {
      for (const child of children) await end(child, 'SIGKILL');
    },
    remove(): void {
      reader.close();
      rmSync(root, { recursive: true });
    },
  };
}

async function bringTickets(root: string, dir: string, tickets: number, given: TestEvent): Promise<void> {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const spki = publicKey.export({ format: 'der', type: 'spki' }).toString('base64');
  const key = { key_id: 'k1', use: 'manifest' as const, alg: 'Ed25519' as const, spki, not_after: null };
  writeFileSync(join(dir, 'keys.json'), JSON.stringify([key]));
  const at = (ms: number) => new Date(Date.now() + ms).toISOString();
  const file = join(root, 'manifest.download');
  const event = {
    event_id: 'concert',
    version: 1,
    name: 'Concert',
    time_zone: 'Europe/Berlin',
    salt: SALT,
    policies: given.policies ?? {},
    keys: [],
    revoked: { version: 0, refs: [] },
    upto: {},
  };
  const times = { generated_at: at(-HOUR_MS), expires_at: at(24 * HOUR_MS), starts_at: at(-HOUR_MS), ends_at: at(6 * HOUR_MS) };
  const { sha256, size } = await buildManifestFile(file, {
    head: { schema: 1, ...event, ...times },
    tickets: Array.from({ length: tickets }, (_, n) => ({
      ...PLAIN_TICKET,
      ticket_id: `t-${n}`,
      ticket_ref: ticketRefOf(Buffer.from(SALT, 'hex'), codeOf(n)).toString('hex'),
      ...given.tickets?.[n],
    })),
  });
  const payload = { event_id: 'concert', version: 1, overlay_version: 1, sha256, size, url: '/m', key_id: 'k1' };
  const wanted = { ...payload, signature: sign(null, Buffer.from(signedText(payload)), privateKey).toString('base64') };
  const decider = createDeciderClient({ path: join(dir, 'store'), gate: GATE, verifyKeys: [key], clock: createSimClock({ wallMs: Date.now() }) });
  await decider.open();
  await decider.want(Buffer.from(JSON.stringify({ schema: 1, events: [wanted] })));
  const installed = await decider.installManifest(file, wanted);
  await decider.close();
  if (!installed.ok) throw new Error(`the test's own manifest is not taken: ${installed.message}`);
}

function tellTurnstile(path: string, command: object): Promise<void> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connect(path, () => socket.write(`${JSON.stringify(command)}\n`));
    socket.on('error', reject);
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      const answer = text.split('\n').find((line) => line.startsWith('{"ok"') || line.startsWith('{"error"'));
      if (answer === undefined) return;
      socket.destroy();
      if (answer.startsWith('{"ok"')) resolve();
      else reject(new Error(answer));
    });
  });
}

function watchOutputs(path: string, onChange: (change: string) => void = () => undefined): { readonly seen: string[]; close(): void } {
  const seen: string[] = [];
  const socket = connect(path);
  let text = '';
  socket.on('error', () => undefined);
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n')) {
      const message = JSON.parse(text.slice(0, at)) as { output?: string; active?: boolean };
      text = text.slice(at + 1);
      if (message.output === undefined) continue;
      const change = `${message.output} ${message.active ? 'on' : 'off'}`;
      seen.push(change);
      onChange(change);
    }
  });
  return { seen, close: () => socket.destroy() };
}

/** Asks again until it fits; an error that shows the last value where it does not within PATIENCE_MS. */
export async function until<T>(what: () => T | Promise<T>, fits: (value: T) => boolean): Promise<T> {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await what();
    if (fits(value)) return value;
    if (Date.now() > deadline) throw new Error(`did not come true; last: ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
