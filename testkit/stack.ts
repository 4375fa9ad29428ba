/**
 * Starts the whole system on one machine: a database, the cloud as a process, gates as processes, set up through the command lines that people use.
 * The demo, the system tests and benches use it. It touches nothing outside its folder.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createGateProcess, type GateProcess, type GateProcessOptions } from './gate-process.ts';
import { withParentDeathSignal } from './process-group.ts';

const CHECKOUT_LAUNCHER = fileURLToPath(new URL('../cloud/stile-cloud', import.meta.url));
/** Bound of a start, ms, until /readyz answers; later the start throws with the end of the log. */
const READY_MS = 60_000;
const STOP_MS = 15_000;
const POLL_MS = 100;

export interface StackOptions {
  /** An existing folder; holds every file that the stack makes. */
  readonly dir: string;
  /** The login that serves. */
  readonly databaseUrl: string;
  /** The owner's, for `migrate`; default: somebody else has migrated. */
  readonly migrateUrl?: string;
  /** For the cloud and, where `gateMqtt` says nothing else, for the gates. */
  readonly mqtt: { readonly url: string; readonly ca?: string; readonly cert?: string; readonly key?: string };
  /** The `stile-cloud` to run; default: the checkout's. */
  readonly launcher?: string;
  /** Further environment of the cloud. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Exit code and output of one command. */
export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Stack {
  readonly cloudUrl: string;
  /** Address of the cloud's metrics. */
  readonly metricsUrl: string;
  readonly cloudLog: string;
  /** Environment of its commands and services. */
  readonly env: NodeJS.ProcessEnv;
  /** Runs `stile-cloud …`; throws with its output where the exit code is not 0. */
  cloud(...args: readonly string[]): Promise<string>;
  /** Runs the same, and returns its result whatever the exit code. */
  tryCloud(...args: readonly string[]): Promise<CommandResult>;
  /** Starts `stile-cloud all` as a process; resolves when it is ready. */
  startCloud(): Promise<void>;
  stopCloud(): Promise<void>;
  killCloud(): Promise<void>;
  cloudRunning(): boolean;
  /** Gives a gate its events, token and keys, and its process; does not start it. */
  addGate(
    gate: string,
    events: readonly string[],
    options?: {
      readonly zones?: readonly string[];
      readonly mqtt?: GateProcessOptions['mqtt'];
      readonly passageMs?: number;
      readonly settings?: Readonly<Record<string, unknown>>;
    },
  ): Promise<GateProcess>;
  close(): Promise<void>;
}

export async function openStack(options: StackOptions): Promise<Stack> {
  const { dir, mqtt } = options;
  const launcher = options.launcher ?? CHECKOUT_LAUNCHER;
  const [port, metricsPort] = [await freePort(), await freePort()];
  const cloudUrl = `http://127.0.0.1:${port}`;
  const cloudLog = join(dir, 'cloud.log');
  const keysFile = join(dir, 'keys.json');
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    DATABASE_URL: options.databaseUrl,
    ...(options.migrateUrl === undefined ? {} : { STILE_MIGRATE_URL: options.migrateUrl }),
    STILE_MQTT_URL: mqtt.url,
    ...(mqtt.ca === undefined ? {} : { STILE_MQTT_CA: mqtt.ca }),
    ...(mqtt.cert === undefined ? {} : { STILE_MQTT_CERT: mqtt.cert }),
    ...(mqtt.key === undefined ? {} : { STILE_MQTT_KEY: mqtt.key }),
    STILE_HTTP_PORT: String(port),
    STILE_METRICS_PORT: String(metricsPort),
    STILE_PUBLIC_URL: cloudUrl,
    STILE_SIGNING_KEY_FILE: join(dir, 'signing-key.pem'),
    STILE_HOST: 'cloud-1',
    ...options.env,
  };
  const gates: GateProcess[] = [];
  let child: ChildProcess | null = null;

  const tryCloud = (...args: readonly string[]) => run(launcher, args, env);
  const cloud = async (...args: readonly string[]) => {
    const { code, stdout, stderr } = await tryCloud(...args);
    if (code !== 0) throw new Error(`stile-cloud ${args.join(' ')} ended with ${code}:\n${stderr}${stdout}`);
    return stdout;
  };
  const endCloud = async (signal: 'SIGTERM' | 'SIGKILL') => {
    const ending = child;
    if (ending === null) return;
    const exited = new Promise<void>((resolve) => ending.once('exit', () => resolve()));
    ending.kill(signal);
    const timer = signal === 'SIGTERM' ? setTimeout(() => ending.kill('SIGKILL'), STOP_MS) : undefined;
    await exited;
    clearTimeout(timer);
  };

  return {
    cloudUrl,
    metricsUrl: `http://127.0.0.1:${metricsPort}/metrics`,
    cloudLog,
    env,
    cloud,
    tryCloud,
    async startCloud() {
      if (child !== null) return;
      const log = openSync(cloudLog, 'a');
      const all = withParentDeathSignal(launcher, ['all']);
      const started = spawn(all.command, all.args, { stdio: ['ignore', log, log], env });
      closeSync(log);
      child = started;
      started.on('exit', () => {
        if (child === started) child = null;
      });
      const deadline = performance.now() + READY_MS;
      for (;;) {
        const ready = await fetch(`${cloudUrl}/readyz`).then(
          (response) => response.ok,
          () => false,
        );
        if (ready) return;
        if (child !== started || performance.now() > deadline)
          throw new Error(`the cloud did not start: see ${cloudLog}\n${readFileSync(cloudLog, 'utf8').slice(-2000)}`);
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    },
    stopCloud: () => endCloud('SIGTERM'),
    killCloud: () => endCloud('SIGKILL'),
    cloudRunning: () => child !== null,
    async addGate(gate, events, gateOptions = {}) {
      const folder = join(dir, gate.replace('/', '-'));
      const tokenFile = `${folder}.token`;
      await cloud(
        'assign',
        gate,
        ...events,
        '--new',
        '--token-file',
        tokenFile,
        '--no-wait',
        ...(gateOptions.zones === undefined ? [] : ['--zones', gateOptions.zones.join(',')]),
      );
      if (!existsSync(keysFile)) writeFileSync(keysFile, await cloud('keys'));
      const made = createGateProcess({
        dir: folder,
        gate,
        mqtt: gateOptions.mqtt ?? mqtt,
        cloud: { url: cloudUrl, tokenFile, keys: keysFile },
        passageMs: gateOptions.passageMs ?? 400,
        ...(gateOptions.settings === undefined ? {} : { settings: gateOptions.settings }),
      });
      gates.push(made);
      return made;
    },
    async close() {
      await Promise.all(gates.map((gate) => gate.close()));
      await endCloud('SIGTERM');
    },
  };
}

/** Runs a program to its end. */
export function run(file: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, [...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject).on('close', (code) => resolve({ code: code ?? 1, stdout, stderr }));
  });
}

/** A port of 127.0.0.1 that nobody listens on now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as { port: number };
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}
