/** B4: what an administrator runs once is enough, each wrong set-up is told with the SQL that mends it, and that SQL does. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { testPostgres } from '../../testkit/database.ts';
import { runCli } from '../cli/main.ts';
import { readConfig } from '../config.ts';
import { connectOwner, type DatabaseClient, type OwnerConnection } from './database.ts';
import { checkOwner, checkServingUrl, SETUP_SQL, SetupError } from './logins.ts';
import { migrate, migrationFiles } from './migrate.ts';

let admin: OwnerConnection;
let adminUrl: string;
const PASSWORD = 'of-its-own';
/** A superuser's, or a login's. */
const urlOf = (login: string | null, database: string) =>
  Object.assign(new URL(adminUrl), { pathname: `/${database}`, ...(login === null ? {} : { username: login, password: PASSWORD }) }).href;
const inDatabase = async <T>(database: string, work: (client: OwnerConnection) => Promise<T>): Promise<T> => {
  const client = await connectOwner(urlOf(null, database));
  try {
    return await work(client);
  } finally {
    await client.close();
  }
};
const messageOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'nothing was refused',
    (error: unknown) => (error instanceof SetupError ? error.message : `another error: ${String(error)}`),
  );
/** Runs the SQL that the message gives as its remedy. */
async function hint(message: string, database: string): Promise<void> {
  const sql = /by a superuser.*:\n([\s\S]*?)(?=A new installation begins|Then DATABASE_URL|$)/.exec(message)?.[1] ?? '';
  expect(sql, message).not.toBe('');
  await inDatabase(database, (client) => client.query(sql.replaceAll('serving-password', PASSWORD).replaceAll('owner-password', PASSWORD)));
}

beforeAll(async () => {
  adminUrl = (await testPostgres()).url;
  admin = await connectOwner(adminUrl);
});
afterAll(() => admin.close());

test('B4: the message names all that a new server lacks, its SQL is enough, and nothing was made before', async () => {
  await admin.query(`CREATE ROLE "Early Bird" LOGIN NOINHERIT PASSWORD '${PASSWORD}'`);
  await admin.query('CREATE DATABASE early');
  const url = urlOf('Early%20Bird', 'early');
  const message = await messageOf(migrate(url));
  for (const part of [
    'stile_service is missing',
    'stile_resolver is missing',
    'not a member of stile_service and stile_resolver',
    'does not own the database early',
    SETUP_SQL,
  ])
    expect(message).toContain(part);
  expect(message).not.toContain(PASSWORD);
  expect(await inDatabase('early', async (client) => (await client.query("SELECT 1 FROM pg_class WHERE relnamespace = 'public'::regnamespace")).rowCount)).toBe(
    0,
  );
  expect(await messageOf(checkServingUrl(url))).toContain('the role stile_service is missing');
  await hint(message, 'early');
  expect(await migrate(url)).toEqual([...migrationFiles().keys()]);
});

test('B4: a superuser is warned, and what it made is handed over by the SQL of the message', async () => {
  await admin.query('CREATE DATABASE late');
  const warnings: string[] = [];
  await migrate(urlOf(null, 'late'), { onWarning: (text) => warnings.push(text) });
  expect(warnings).toEqual([expect.stringContaining('postgres (STILE_MIGRATE_URL) is a superuser')]);
  expect(warnings[0]).toContain(SETUP_SQL);
  await admin.query(`CREATE ROLE late_owner LOGIN PASSWORD '${PASSWORD}'; GRANT stile_service, stile_resolver TO late_owner`);
  const message = await messageOf(migrate(urlOf('late_owner', 'late')));
  expect(message).toContain('tables in it belong to postgres');
  await hint(message, 'late');
  expect(await migrate(urlOf('late_owner', 'late'))).toEqual([]);
  const left = await inDatabase('late', (client) =>
    client.query(
      "SELECT relname AS it, relowner::regrole::text AS of FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relowner <> 'late_owner'::regrole UNION ALL SELECT proname, proowner::regrole::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proowner NOT IN ('late_owner'::regrole, 'stile_resolver'::regrole) UNION ALL SELECT typname, typowner::regrole::text FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typowner <> 'late_owner'::regrole",
    ),
  );
  expect(left.rows).toEqual([]);
});

test('B4: roles that may too much or too little are named with their mend', async () => {
  await admin.query('ALTER ROLE stile_resolver NOBYPASSRLS; ALTER ROLE stile_service CREATEDB');
  const message = await messageOf(migrate(urlOf('late_owner', 'late')));
  for (const part of ['stile_service may do more than serve', 'stile_resolver must bypass row security']) expect(message).toContain(part);
  await hint(message, 'late');
  expect(await migrate(urlOf('late_owner', 'late'))).toEqual([]);
});

test('B4: who is not let in hears of what, where and how; never the password', async () => {
  await admin.query(`CREATE ROLE shut NOLOGIN PASSWORD '${PASSWORD}'`);
  for (const [url, parts] of [
    [urlOf('late_owner', 'nowhere'), ['there is no database "nowhere" at 127.0.0.1:', '(STILE_MIGRATE_URL)', SETUP_SQL]],
    [
      urlOf('late_owner', 'late').replace(PASSWORD, 'wrong-one'),
      ['refuses the login "late_owner"', 'its password is another one', "ALTER ROLE late_owner PASSWORD '…'"],
    ],
    [urlOf('nobody-here', 'late'), ['refuses the login "nobody-here"', 'there is no such role', 'ALTER ROLE "nobody-here"']],
    [urlOf('shut', 'late'), ['does not let "shut" in', 'ALTER ROLE shut LOGIN', 'pg_hba.conf']],
  ] as const) {
    const message = await messageOf(migrate(url));
    for (const part of parts) expect(message).toContain(part);
    expect(message).not.toMatch(new RegExp(`${PASSWORD}|wrong-one`));
  }
  const old: DatabaseClient = { query: async () => ({ rows: [{ version: 14 }] as never[], rowCount: 1 }) };
  await expect(checkOwner(old, 'STILE_MIGRATE_URL')).rejects.toThrow('this is PostgreSQL 14, and Stile needs 15 or newer');
});

test('B4: a login that serves owns nothing and bypasses nothing; else it is refused, with the SQL that makes one', async () => {
  await admin.query(`CREATE ROLE bypassing LOGIN BYPASSRLS PASSWORD '${PASSWORD}'; CREATE ROLE stranger LOGIN PASSWORD '${PASSWORD}'`);
  await admin.query(`CREATE ROLE helper LOGIN NOINHERIT PASSWORD '${PASSWORD}'; GRANT late_owner TO helper; GRANT stile_service TO helper, bypassing`);
  for (const [login, what] of [
    [null, 'postgres (DATABASE_URL) is a superuser'],
    ['bypassing', 'bypassing (DATABASE_URL) is able to bypass row security'],
    ['helper', 'helper (DATABASE_URL) is the owner of the database or of its tables, or a member'],
    ['late_owner', 'late_owner (DATABASE_URL) is the owner of the database'],
    ['stranger', 'stranger (DATABASE_URL) may not act as stile_service'],
  ] as const)
    expect(await messageOf(checkServingUrl(urlOf(login, 'late')))).toContain(what);
  await admin.query(`CREATE ROLE plain LOGIN CREATEROLE PASSWORD '${PASSWORD}'; GRANT stile_service TO plain`);
  expect(await messageOf(checkServingUrl(urlOf('plain', 'late')))).toContain('plain (DATABASE_URL) is able to make roles');
  await hint(await messageOf(checkServingUrl(urlOf('stranger', 'late'))), 'late');
  await checkServingUrl(urlOf('stranger', 'late'));
  await hint(await messageOf(checkServingUrl(urlOf('late_owner', 'late'))), 'late');
  await checkServingUrl(urlOf('stile', 'late'));
  // The one that serves does not migrate, and hears which setting is wrong.
  expect(await messageOf(migrate(urlOf('stile', 'late'), { setting: 'DATABASE_URL' }))).toBe(
    'stile (DATABASE_URL) does not own the database late, late_owner does, and only the owner migrates: set STILE_MIGRATE_URL to this database with the login late_owner (it is not set); DATABASE_URL stays the login that serves',
  );

  const said: string[] = [];
  const env = { DATABASE_URL: urlOf(null, 'late'), STILE_MQTT_URL: 'mqtt://127.0.0.1:1', STILE_HTTP_PORT: '0' };
  for (const command of ['serve', 'ingest', 'all'])
    expect(await runCli([command], { env, interactive: false, out: () => {}, err: (text) => said.push(text) })).toBe(78);
  expect(said.filter((text) => text.includes('postgres (DATABASE_URL) is a superuser'))).toHaveLength(3);
});

test('B4: a password that was left as the documents print it is refused', () => {
  const [owner, serving] = ['owner', 'serving'].map((word) => `postgres://stile:${word}-password@127.0.0.1/stile`);
  const result = readConfig({ DATABASE_URL: serving, STILE_MIGRATE_URL: owner }, { mqtt: false });
  expect(result.ok ? [] : result.errors).toEqual([
    expect.stringContaining('DATABASE_URL: has the password that the documents print'),
    expect.stringContaining('STILE_MIGRATE_URL: has the password that the documents print'),
  ]);
});
