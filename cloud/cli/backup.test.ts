/** Backup and restore with Debian's PostgreSQL 15 and age, as a server has them. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeVenue } from '../../testkit/database.ts';
import { type RunningPostgres, startPostgres } from '../../testkit/postgres.ts';
import { prepareDatabase } from '../../testkit/prepare-database.ts';
import { connectOwner } from '../db/database.ts';
import { migrate } from '../db/migrate.ts';
import { backupCommand, restoreCommand } from './backup.ts';

const BIN = '/usr/lib/postgresql/15/bin';
const missing =
  ['age', 'age-keygen', 'pg_dump'].find((program) => spawnSync(program, ['--version']).error !== undefined) ?? (existsSync(BIN) ? undefined : 'PostgreSQL 15');
if (missing !== undefined) console.log(`SKIPPED backup and restore: there is no ${missing} here`);
const folder = mkdtempSync(join(tmpdir(), 'stile-backup-'));
const at = (name: string) => join(folder, name);
let server: RunningPostgres;
let url: string;
let recipient: string;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startPostgres({
    fsync: false,
    databaseUrl: undefined,
    programs: { initdb: [join(BIN, 'initdb')], postgres: [join(BIN, 'postgres')], locale: ['--locale=C.UTF-8'] },
  });
  await migrate((await prepareDatabase(server.url, 'stile')).ownerUrl);
  const whole = new URL(server.url);
  whole.pathname = '/stile';
  url = whole.href;
  await makeVenue(url, { tickets: 25 });
  const admin = await connectOwner(url);
  await admin.query("CREATE ROLE stile_backup LOGIN BYPASSRLS PASSWORD 'x y'; GRANT pg_read_all_data TO stile_backup");
  await admin.close();
  execFileSync('age-keygen', ['-o', at('key.txt')], { stdio: 'ignore' });
  recipient = /public key: (age1\w+)/.exec(readFileSync(at('key.txt'), 'utf8'))?.[1] ?? '';
}, 240_000);
afterAll(async () => {
  await server?.stop();
  rmSync(folder, { recursive: true });
});

const said = { out: '', err: '' };
const terminal = { env: {}, interactive: false, out: (text: string) => void (said.out += text), err: (text: string) => void (said.err += text) };
const count = async (of: string) => {
  const admin = await connectOwner(of);
  try {
    return (await admin.query<{ n: number }>('SELECT count(*)::integer AS n FROM tickets')).rows[0]?.n;
  } finally {
    await admin.close();
  }
};
const settingsFor = (user: string, password: string) => {
  const login = new URL(url);
  login.username = user;
  login.password = password;
  writeFileSync(at('backup.env'), `STILE_BACKUP_URL=${login.href}\nSTILE_BACKUP_RECIPIENTS=${recipient}\n`);
};

test.skipIf(missing !== undefined)('a backup by its own login is whole, encrypted, tested and restored', async () => {
  settingsFor('stile_backup', 'x y');
  writeFileSync(at('cloud.env'), 'DATABASE_URL=secret-of-the-settings\n');
  const places = { settings: at('backup.env'), state: at('backup.json'), configuration: [at('cloud.env'), at('none')] };
  await backupCommand(terminal, { to: at('out'), recipient: [] }, places);
  const [database, settings] = said.out.trim().split('\n') as [string, string];
  for (const file of [database, settings]) {
    const bytes = readFileSync(file);
    expect(bytes.subarray(0, 21).toString()).toBe('age-encryption.org/v1');
    expect(bytes.includes('secret-of-the-settings') || bytes.includes('T-1')).toBe(false);
  }
  expect(execFileSync('sh', ['-c', `age -d -i ${at('key.txt')} ${settings} | tar -xzPO`], { encoding: 'utf8' })).toContain('secret-of-the-settings');
  await restoreCommand(terminal, database, { identity: at('key.txt'), database: url, test: true }, places);
  const state = JSON.parse(readFileSync(at('backup.json'), 'utf8')) as Record<string, string>;
  expect([state['file'], Date.parse(state['restored_at'] ?? '') >= Date.parse(state['backup_at'] ?? '')]).toEqual([database, true]);
  const admin = await connectOwner(server.url);
  expect((await admin.query("SELECT 1 FROM pg_database WHERE datname LIKE 'stile_drill%'")).rowCount).toBe(0);
  // A new server's empty database.
  await admin.query('CREATE DATABASE again OWNER stile_owner');
  await admin.close();
  const again = new URL(url);
  again.pathname = '/again';
  await restoreCommand(terminal, database, { identity: at('key.txt'), database: again.href }, places);
  expect([await count(url), await count(again.href)]).toEqual([25, 25]);
});

test.skipIf(missing !== undefined)('a login that row security binds makes no backup, another key restores none, and neither leaves a file', async () => {
  const admin = await connectOwner(url);
  await admin.query("CREATE ROLE blind LOGIN PASSWORD 'x'; GRANT pg_read_all_data TO blind");
  await admin.close();
  const before = readdirSync(at('out'));
  const places = { settings: at('backup.env'), state: at('backup.json'), configuration: [] };
  settingsFor('blind', 'x');
  await expect(backupCommand(terminal, { to: at('out'), recipient: [] }, places)).rejects.toThrow(/pg_dump \(1\).*row-level security/s);
  expect(readdirSync(at('out'))).toEqual(before);
  execFileSync('age-keygen', ['-o', at('other.txt')], { stdio: 'ignore' });
  const file = before.find((name) => name.endsWith('.database.age')) as string;
  await expect(restoreCommand(terminal, join(at('out'), file), { identity: at('other.txt'), database: url, test: true }, places)).rejects.toThrow(/age \(1\)/);
});
