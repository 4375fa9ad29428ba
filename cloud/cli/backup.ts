/**
 * Runs `backup` and `restore`: the database by PostgreSQL's own programs, settings and signing key apart, both encrypted with age to people who keep the
 * key elsewhere. The keys that issue certificates are in no backup: a copy of /etc/stile/pki is kept apart.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { writeSafeFile } from '../../runtime/safe-file.ts';
import { CliError, EXIT, type Terminal } from './context.ts';
import { BACKUP_STATE } from './doctor.ts';

const SETTINGS = '/etc/stile/backup.env';
/** What a restored server needs besides the database; folders with issuing keys are not among it. */
const CONFIGURATION = ['/etc/stile/cloud.env', '/etc/stile/backup.env', '/var/lib/stile-cloud/signing-key.pem'];

/** Other places in tests. */
export interface BackupPlaces {
  readonly settings?: string;
  readonly state?: string;
  readonly configuration?: readonly string[];
}

interface Step {
  readonly program: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs programs, each into the next; `into`: the last one's output goes there. Throws with the words of the first that failed. */
async function pipe(steps: readonly Step[], into: number | 'ignore' = 'ignore'): Promise<void> {
  const started = steps.map(({ program, args, env }, index) =>
    spawn(program, [...args], {
      env: { ...process.env, ...env },
      stdio: [index === 0 ? 'ignore' : 'pipe', index === steps.length - 1 ? into : 'pipe', 'pipe'],
    }),
  );
  const ends = started.map(
    (child, index) =>
      new Promise<string | null>((done) => {
        let words = '';
        child.stderr?.on('data', (chunk: Buffer) => {
          if (words.length < 4_096) words += chunk.toString('utf8');
        });
        child.on('error', (error) => done(`${steps[index]?.program}: ${error.message}`));
        child.on('close', (code) => done(code === 0 ? null : `${steps[index]?.program} (${code}): ${words.trim().split('\n').slice(-3).join('; ')}`));
      }),
  );
  for (const [index, child] of started.entries()) {
    const next = started[index + 1];
    if (next?.stdin == null || child.stdout === null) continue;
    next.stdin.on('error', () => undefined);
    child.stdout.pipe(next.stdin);
  }
  const failed = (await Promise.all(ends)).find((end) => end !== null);
  if (failed !== undefined) throw new CliError(EXIT.failed, failed);
}

/** Returns the address without its password, and the password as programs of PostgreSQL take it: not for everybody to see in the list of processes. */
function connection(given: string): { readonly url: string; readonly env: Readonly<Record<string, string>> } {
  const url = new URL(given);
  const env = { PGPASSWORD: decodeURIComponent(url.password) };
  url.password = '';
  return { url: url.href, env };
}

function note(file: string, changes: Readonly<Record<string, string>>): void {
  let before: object = {};
  try {
    before = JSON.parse(readFileSync(file, 'utf8')) as object;
  } catch {
    // The first one, or one that cannot be read: it is written anew.
  }
  writeSafeFile(file, `${JSON.stringify({ ...before, ...changes })}\n`, { mode: 0o644 });
}

/** Makes a backup: two files in `to`. What failed leaves none behind. */
export async function backupCommand(terminal: Terminal, options: { readonly to: string; readonly recipient: readonly string[] }, places: BackupPlaces = {}) {
  const { settings = SETTINGS, state = BACKUP_STATE, configuration = CONFIGURATION } = places;
  const lines = existsSync(settings) ? readFileSync(settings, 'utf8') : '';
  const setting = (name: string) => terminal.env[name] ?? new RegExp(`^${name}=(.*)$`, 'm').exec(lines)?.[1];
  const database = setting('STILE_BACKUP_URL');
  if (database === undefined)
    throw new CliError(EXIT.badConfig, `STILE_BACKUP_URL is missing: ${settings} names the login that reads everything (stile-cloud init makes it)`);
  const recipients = [...options.recipient, ...(setting('STILE_BACKUP_RECIPIENTS') ?? '').split(' ').filter((one) => one !== '')];
  if (recipients.length === 0)
    throw new CliError(
      EXIT.usage,
      `to whom is it encrypted? --recipient age1…, or STILE_BACKUP_RECIPIENTS in ${settings}; age-keygen makes a key, which is kept elsewhere`,
    );
  mkdirSync(options.to, { recursive: true, mode: 0o700 });
  const at = new Date().toISOString();
  const name = join(options.to, `stile-${at.replace(/[:.]/g, '-')}`);
  const age: Step = { program: 'age', args: recipients.flatMap((one) => ['-r', one]) };
  const { url, env } = connection(database);
  const there = configuration.filter((file) => existsSync(file));
  await into(`${name}.database.age`, [{ program: 'pg_dump', args: ['--format=custom', '--no-password', url], env }, age]);
  if (there.length > 0) await into(`${name}.settings.age`, [{ program: 'tar', args: ['-czP', ...there] }, age]);
  note(state, { backup_at: at, file: `${name}.database.age` });
  terminal.out(`${name}.database.age\n${there.length > 0 ? `${name}.settings.age\n` : ''}`);
}

async function into(file: string, steps: readonly Step[]): Promise<void> {
  const fd = openSync(`${file}.part`, 'wx', 0o600);
  try {
    await pipe(steps, fd);
    fsyncSync(fd);
    if (statSync(`${file}.part`).size === 0) throw new CliError(EXIT.failed, `${basename(file)}: nothing was written`);
    renameSync(`${file}.part`, file);
  } catch (error) {
    rmSync(`${file}.part`, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
}

export interface RestoreOptions {
  readonly identity: string;
  /** A superuser's login; its own database is not touched with `test`. */
  readonly database: string;
  readonly test?: boolean;
}

/** Restores a database's backup into an empty database; `test`: into one of its own, which is dropped again. */
export async function restoreCommand(terminal: Terminal, file: string, options: RestoreOptions, places: BackupPlaces = {}): Promise<void> {
  if (!existsSync(file)) throw new CliError(EXIT.usage, `${file} is not there`);
  const { url, env } = connection(options.database);
  const sql = (text: string, of = url): Step => ({ program: 'psql', args: ['--no-password', '-qtA', '-v', 'ON_ERROR_STOP=1', '-c', text, of], env });
  const drill = `stile_drill_${randomBytes(4).toString('hex')}`;
  const target = new URL(url);
  if (options.test === true) {
    target.pathname = `/${drill}`;
    await pipe([sql(`CREATE DATABASE ${drill}`)]);
  }
  const began = Date.now();
  try {
    await pipe([
      { program: 'age', args: ['-d', '-i', options.identity, file] },
      { program: 'pg_restore', args: ['--exit-on-error', '--single-transaction', '--no-password', '-d', target.href], env },
    ]);
    // A backup by a login that row security binds would be empty, and restore without a word.
    await pipe([sql("DO $$ BEGIN IF NOT EXISTS (SELECT FROM tenants) THEN RAISE EXCEPTION 'the backup holds no tenant'; END IF; END $$", target.href)]);
  } finally {
    if (options.test === true) await pipe([sql(`DROP DATABASE IF EXISTS ${drill} WITH (FORCE)`)]);
  }
  const seconds = ((Date.now() - began) / 1000).toFixed(1);
  if (options.test === true) note(places.state ?? BACKUP_STATE, { restored_at: new Date().toISOString() });
  terminal.out(
    options.test === true
      ? `${file} restores, in ${seconds} s; it was dropped again\n`
      : `${file} is restored, in ${seconds} s: start stile-cloud; its gates send what it lacks\n`,
  );
}
