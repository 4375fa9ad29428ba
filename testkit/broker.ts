/**
 * The real Mosquitto for tests: started on a free loopback port with the configuration from deploy/mosquitto, killed and
 * restarted at will, gone when the test's process is gone.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, closeSync, constants, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type AclGate, aclFile } from '../cloud/mqtt/broker-acl.ts';
import { createTestCa, type TestCa, writeTestCa } from '../deploy/mosquitto/test-ca.ts';

const CHECKOUT = join(import.meta.dirname, '..');
const UNPACKED = join(CHECKOUT, '.tools/mosquitto');
const START_TIMEOUT_MS = 45_000;
const STOP_TIMEOUT_MS = 5_000;

export interface BrokerOptions {
  /** TLS with client certificates, as in production: two listeners. Default: plain. */
  readonly tls?: boolean;
  /** The ACL: gates as enrolled, or the file's text. Default: none when plain, an empty list of gates with TLS. */
  readonly acl?: readonly AclGate[] | string;
  /** Where retained messages and sessions are kept over `restart`. Default: a folder of its own when a folder is needed, removed by `stop`. `true` asks for that one. */
  readonly persistence?: string | true;
  /** Default: a free one. */
  readonly port?: number;
  /** With TLS: what the broker's certificate is made out to. Default: localhost and 127.0.0.1. */
  readonly hosts?: readonly string[];
  /** Settings of mosquitto.conf with other values than deploy's, or more of them, such as `max_queued_messages: '20'`. */
  readonly settings?: Readonly<Record<string, string>>;
}

export interface Broker {
  /** For gates: `mqtt://127.0.0.1:port` or `mqtts://127.0.0.1:port`. */
  readonly url: string;
  /** For the cloud: the second listener with TLS, else the same. */
  readonly cloudUrl: string;
  readonly port: number;
  readonly pid: () => number | undefined;
  /** With TLS: issues certificates; its `ca` is what clients trust. */
  readonly ca: TestCa | null;
  /** With TLS: the list of revoked certificates that it reads; `reload` writes the test authority's own over it. */
  readonly crlFile: string;
  /** Returns the output of Mosquitto so far. */
  log(): string;
  /** Replaces the ACL (and, with TLS, the list of revoked certificates), and has the broker read it again. */
  reload(acl: readonly AclGate[] | string): Promise<void>;
  /** SIGKILL: nothing is saved. */
  kill(): Promise<void>;
  /** Starts again on the same port, with the same files; stops first if it runs. */
  restart(): Promise<void>;
  /** SIGTERM, then SIGKILL; removes what it made. */
  stop(): Promise<void>;
}

/** Finds the binary, and the folder of its libraries where it was only unpacked. Throws with the remedy where there is none. */
export function findMosquitto(): { readonly binary: string; readonly libraries: string | null } {
  const places = [
    process.env['MOSQUITTO'],
    ...(process.env['PATH'] ?? '').split(delimiter).map((folder) => join(folder, 'mosquitto')),
    '/usr/sbin/mosquitto',
    '/usr/local/sbin/mosquitto',
    join(UNPACKED, 'usr/sbin/mosquitto'),
  ];
  for (const binary of places) {
    if (!binary) continue;
    try {
      accessSync(binary, constants.X_OK);
    } catch {
      continue;
    }
    const arch = process.arch === 'arm64' ? 'aarch64-linux-gnu' : 'x86_64-linux-gnu';
    return { binary, libraries: binary.startsWith(UNPACKED) ? [join(UNPACKED, 'usr/lib', arch), join(UNPACKED, 'lib', arch)].join(delimiter) : null };
  }
  throw new Error('Mosquitto is not here: install the package mosquitto, or set MOSQUITTO to the binary, or run make setup, which fetches it');
}

/** Starts it and answers when it accepts connections. */
export async function startBroker(options: BrokerOptions = {}): Promise<Broker> {
  const folder = mkdtempSync(join(tmpdir(), 'stile-broker-'));
  const ca = options.tls ? await createTestCa(options.hosts === undefined ? {} : { hosts: options.hosts }) : null;
  if (ca !== null) await writeTestCa(ca, folder);
  const port = options.port ?? (await freePort());
  const cloudPort = ca === null ? port : await freePort();
  const logFile = join(folder, 'mosquitto.log');
  let acl = options.acl ?? (options.tls ? [] : undefined);
  const saved = options.persistence === true ? join(folder, 'saved') : options.persistence;
  const writeFiles = async () => {
    if (acl !== undefined) writeFileSync(join(folder, 'acl'), typeof acl === 'string' ? acl : aclFile(acl), { mode: 0o600 });
    if (ca !== null) writeFileSync(join(folder, 'gates.crl'), `${await ca.crl()}\n`);
    if (saved !== undefined) mkdirSync(saved, { recursive: true });
    writeFileSync(
      join(folder, 'mosquitto.conf'),
      configuration({ folder, ports: [port, cloudPort], tls: ca !== null, acl: acl !== undefined, saved, settings: options.settings ?? {} }),
    );
  };
  await writeFiles();

  let child: ChildProcess | null = null;
  const dieWithUs = () => {
    child?.kill('SIGKILL');
  };
  const end = async (signal: NodeJS.Signals) => {
    const dying = child;
    child = null;
    if (dying === null || dying.exitCode !== null || dying.signalCode !== null) return;
    const gone = new Promise((resolve) => {
      dying.once('exit', resolve);
    });
    dying.kill(signal);
    const timer = setTimeout(() => dying.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await gone;
    clearTimeout(timer);
  };
  const start = async () => {
    // Else another's broker would be taken for ours.
    if (await accepts(port)) throw new Error(`Mosquitto did not start: port ${port} is in use`);
    child = launch(join(folder, 'mosquitto.conf'), logFile);
    const deadline = Date.now() + START_TIMEOUT_MS;
    while (!(await accepts(port))) {
      if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline)
        throw new Error(`Mosquitto did not start:\n${readFileSync(logFile, 'utf8')}`);
      await sleep(20);
    }
  };
  process.on('exit', dieWithUs);
  const stop = async () => {
    await end('SIGTERM');
    process.off('exit', dieWithUs);
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    await start();
  } catch (error) {
    await stop();
    throw error;
  }
  const scheme = ca === null ? 'mqtt' : 'mqtts';
  return {
    url: `${scheme}://127.0.0.1:${port}`,
    cloudUrl: `${scheme}://127.0.0.1:${cloudPort}`,
    port,
    pid: () => child?.pid,
    ca,
    crlFile: join(folder, 'gates.crl'),
    log: () => readFileSync(logFile, 'utf8'),
    async reload(changed) {
      acl = changed;
      await writeFiles();
      child?.kill('SIGHUP');
      await sleep(200);
    },
    kill: () => end('SIGKILL'),
    async restart() {
      await end('SIGTERM');
      await start();
    },
    stop,
  };
}

/** The configuration from deploy/, with this machine's ports and paths in it. */
function configuration(input: {
  readonly folder: string;
  readonly ports: readonly number[];
  readonly tls: boolean;
  readonly acl: boolean;
  readonly saved: string | undefined;
  readonly settings: Readonly<Record<string, string>>;
}): string {
  const ports = [...input.ports];
  const lines = readFileSync(join(CHECKOUT, 'deploy/mosquitto', input.tls ? 'mosquitto.conf' : 'plain.conf'), 'utf8')
    .split('\n')
    .map((line) => {
      if (line.startsWith('listener ')) return `listener ${ports.shift()} 127.0.0.1`;
      // Its stdout is written in blocks: what it said last would stand nowhere yet.
      if (line === 'log_dest stdout') return 'log_dest stderr';
      if (line.startsWith('persistence ')) return `persistence ${input.saved !== undefined}`;
      if (line.startsWith('persistence_location ')) return `persistence_location ${input.saved ?? input.folder}/`;
      if ((line.split(' ', 1)[0] as string) in input.settings) return '';
      return line.replace('/etc/mosquitto/stile/', `${input.folder}/`);
    });
  // Settings of a listener come last; these are the whole broker's.
  if (input.tls) lines.unshift(`persistence_location ${input.saved ?? input.folder}/`);
  lines.unshift(...Object.entries(input.settings).map(([name, value]) => `${name} ${value}`));
  if (!input.tls && input.acl) lines.push(`acl_file ${join(input.folder, 'acl')}`);
  // Started as root it would change to a user who cannot read this folder.
  if (process.getuid?.() === 0) lines.unshift('user root');
  return lines.join('\n');
}

function launch(config: string, logFile: string): ChildProcess {
  const { binary, libraries } = findMosquitto();
  const log = openSync(logFile, 'a');
  // Where there is setpriv, the kernel ends the broker with the test, however the test ends.
  const guard = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  const [command, args] = guard === undefined ? [binary, ['-c', config]] : [guard, ['--pdeathsig', 'KILL', binary, '-c', config]];
  const child = spawn(command, args, { stdio: ['ignore', log, log], env: { ...process.env, ...(libraries === null ? {} : { LD_LIBRARY_PATH: libraries }) } });
  closeSync(log);
  return child;
}

/** True where somebody listens on this port of loopback. */
export function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' });
    const answer = (yes: boolean) => {
      socket.destroy();
      resolve(yes);
    };
    socket.once('connect', () => answer(true));
    socket.once('error', () => answer(false));
  });
}

/** A port that nobody listens on just now. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}
