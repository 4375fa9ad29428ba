/**
 * One gate as a process of its own: its configuration, its reader (a linked pair of pseudo-terminals), its software
 * turnstile, and what it says of itself over the control socket. Used by the demo and by the system tests.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { cutText } from '../contract/text.ts';
import { connectGate } from '../daemon/control/client.ts';
import type { GateStatus, RecentLine, WatchItem } from '../daemon/control/protocol.ts';
import { openPtyPair, type PtyPair } from '../daemon/sim/pty-pair.ts';
import { withParentDeathSignal } from './process-group.ts';

const launcher = fileURLToPath(new URL('../daemon/stile-gate', import.meta.url));
/** A gate that is not ready by then has failed; the end of its log says why. */
const READY_MS = 60_000;
/** After SIGTERM; then SIGKILL. */
const STOP_MS = 12_000;
const RETRY_MS = 50;

export interface GateProcessOptions {
  /** Folder of this gate: configuration, store, sockets, log. Made where it is missing. */
  readonly dir: string;
  readonly gate: string;
  readonly mqtt: { readonly url: string; readonly ca?: string; readonly cert?: string; readonly key?: string };
  readonly cloud: { readonly url: string; readonly tokenFile: string; readonly keys: string };
  /** How long a software guest takes to walk through. */
  readonly passageMs: number;
  /** More of gate.yaml's sections, laid over the demo's. */
  readonly settings?: Readonly<Record<string, unknown>>;
  /** Further environment of the process. */
  readonly env?: Readonly<Record<string, string>>;
}

export interface GateProcess {
  readonly gate: string;
  readonly reader: PtyPair;
  readonly configFile: string;
  readonly logFile: string;
  readonly simSocket: string;
  readonly controlSocket: string;
  /** Starts (again) and resolves when it answers on its socket. */
  start(): Promise<void>;
  /** SIGTERM, and SIGKILL when that is not enough. */
  stop(): Promise<void>;
  /** SIGKILL, as a power cut of the process. */
  kill(): Promise<void>;
  running(): boolean;
  pid(): number | null;
  /** As last heard while watching; its ledger's numbers may be some seconds old. */
  status(): GateStatus | null;
  /** Asked now. */
  fresh(): Promise<GateStatus>;
  /** A local command, as `stile-gate open | mode | reset-emergency` sends it. */
  command(name: 'open' | 'mode' | 'reset-emergency', args: Readonly<Record<string, unknown>>): Promise<unknown>;
  /** Called with every status and line. Returns how to stop listening. */
  watch(listener: (item: WatchItem) => void): () => void;
  /** Next line that fits, or an error after `timeoutMs`. Ask before the thing happens. */
  line(fits: (line: RecentLine) => boolean, timeoutMs: number): Promise<RecentLine>;
  /** Resolves when a status fits. */
  until(fits: (status: GateStatus) => boolean, timeoutMs: number): Promise<GateStatus>;
  /** A guest holds this code before the reader. */
  show(code: string): void;
  close(): Promise<void>;
}

/** Makes the folder, the reader and the configuration; starts nothing. */
export function createGateProcess(options: GateProcessOptions): GateProcess {
  const { dir, gate } = options;
  mkdirSync(join(dir, 'store'), { recursive: true });
  const paths = {
    config: join(dir, 'gate.yaml'),
    log: join(dir, 'gate.log'),
    sim: join(dir, 'sim.sock'),
    control: join(dir, 'gate.sock'),
    guest: join(dir, 'guest'),
    reader: join(dir, 'reader'),
  };
  const reader = openPtyPair({ readerLink: paths.reader, guestLink: paths.guest });
  writeFileSync(paths.config, stringify(settings(options, paths)));

  let child: ChildProcess | null = null;
  let last: GateStatus | null = null;
  let socket: Socket | null = null;
  const listeners = new Set<(item: WatchItem) => void>();
  const tell = (item: WatchItem) => {
    if ('status' in item) last = item.status;
    for (const listener of listeners) listener(item);
  };

  const start = async () => {
    if (child !== null) return;
    // What the last process said of itself is no word of this one.
    last = null;
    const log = openSync(paths.log, 'a');
    const run = withParentDeathSignal(launcher, ['run', '--config', paths.config]);
    const started = spawn(run.command, run.args, { stdio: ['ignore', log, log], env: { ...process.env, ...options.env } });
    closeSync(log);
    child = started;
    started.on('exit', () => {
      if (child === started) child = null;
    });
    socket = await watchSocket(paths.control, () => child === started, tell, `${gate} did not start: see ${paths.log}`);
    socket.on('close', () => {
      socket = null;
    });
  };
  const end = async (signal: 'SIGTERM' | 'SIGKILL') => {
    const ending = child;
    if (ending === null || ending.exitCode !== null || ending.signalCode !== null) return;
    const exited = new Promise<void>((resolve) => ending.once('exit', () => resolve()));
    ending.kill(signal);
    const timer = signal === 'SIGTERM' ? setTimeout(() => ending.kill('SIGKILL'), STOP_MS) : undefined;
    await exited;
    clearTimeout(timer);
    socket?.destroy();
  };
  const ask = async <T>(call: string, args: Readonly<Record<string, unknown>>): Promise<T> => {
    const client = await connectGate(paths.control);
    try {
      return await client.call<T>(call, { ...args });
    } finally {
      client.close();
    }
  };
  const waitFor = <T>(what: string, timeoutMs: number, match: (item: WatchItem) => T | null, now: T | null): Promise<T> =>
    now !== null
      ? Promise.resolve(now)
      : new Promise<T>((resolve, reject) => {
          const timer = setTimeout(() => {
            listeners.delete(listener);
            reject(
              new Error(`${gate}: ${what} did not come within ${timeoutMs} ms; see ${paths.log}; last status: ${cutText(JSON.stringify(last) ?? '', 1500)}`),
            );
          }, timeoutMs);
          const listener = (item: WatchItem) => {
            const found = match(item);
            if (found === null) return;
            clearTimeout(timer);
            listeners.delete(listener);
            resolve(found);
          };
          listeners.add(listener);
        });

  return {
    gate,
    reader,
    configFile: paths.config,
    logFile: paths.log,
    simSocket: paths.sim,
    controlSocket: paths.control,
    start,
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
    running: () => child !== null,
    pid: () => child?.pid ?? null,
    status: () => last,
    fresh: () => ask<GateStatus>('status', {}),
    command: (name, args) => ask(name, args),
    watch: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    line: (fits, timeoutMs) => waitFor('the line', timeoutMs, (item) => ('line' in item && fits(item.line) ? item.line : null), null),
    until: (fits, timeoutMs) =>
      waitFor(
        'the status',
        timeoutMs,
        (item) => ('status' in item && fits(item.status) ? item.status : null),
        last !== null && child !== null && fits(last) ? last : null,
      ),
    show: (code) => writeFileSync(reader.guestPath, `${code}\r\n`),
    close: async () => {
      await end('SIGTERM');
      reader.close();
    },
  };
}

function settings(options: GateProcessOptions, paths: Readonly<Record<string, string>>): Record<string, unknown> {
  const { ca, cert, key, url } = options.mqtt;
  return {
    gate: options.gate,
    // A guest of a test comes again at once; at a lane the same code within the gap is the same presentation.
    readers: [{ name: 'in', path: paths['reader'], baud: 115_200, frame: 'crlf', direction: 'in', same_code_interval_ms: 50 }],
    turnstile: { release: 'pulse', sensor: 'per_direction' },
    board: {
      driver: 'sim',
      outputs: { release_in: 17, green_in: 22, red_in: 23, amber_in: 24, buzzer: 25 },
      inputs: { passage_in: 20, button: 13, fire: 19 },
      sim_socket: paths['sim'],
      sim_passage_ms: options.passageMs,
    },
    mqtt: { url, ...(ca === undefined ? {} : { ca }), ...(cert === undefined ? {} : { cert }), ...(key === undefined ? {} : { key }) },
    cloud: { url: options.cloud.url, token_file: options.cloud.tokenFile, keys: options.cloud.keys },
    store: { path: join(options.dir, 'store') },
    control: { socket: paths['control'] },
    ...options.settings,
  };
}

/** Connects as soon as the socket is there, asks to watch, and hands every item on. */
async function watchSocket(path: string, alive: () => boolean, tell: (item: WatchItem) => void, failed: string): Promise<Socket> {
  const deadline = performance.now() + READY_MS;
  for (;;) {
    const socket = await new Promise<Socket | null>((resolve) => {
      const attempt = connect(path);
      attempt.once('connect', () => resolve(attempt)).once('error', () => resolve(null));
    });
    if (socket !== null) {
      const first = new Promise<void>((resolve, reject) => {
        let text = '';
        socket.setEncoding('utf8').on('data', (chunk: string) => {
          text += chunk;
          for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
            const answer = JSON.parse(text.slice(0, end)) as { item?: WatchItem };
            text = text.slice(end + 1);
            if (answer.item !== undefined) {
              tell(answer.item);
              resolve();
            }
          }
        });
        socket.once('close', () => reject(new Error(failed)));
      });
      socket.on('error', () => socket.destroy());
      socket.write(`${JSON.stringify({ id: 1, call: 'watch', args: {} })}\n`);
      await first;
      return socket;
    }
    if (!alive() || performance.now() > deadline) throw new Error(failed);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}
