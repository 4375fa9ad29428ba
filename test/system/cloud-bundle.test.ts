/** The cloud's bundle as it is carried to a server (B2): in a folder with nothing else, started on an empty database, asked for everything that it has. */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectOwner } from '../../cloud/db/database.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { testPostgres } from '../../testkit/database.ts';
import { prepareDatabase } from '../../testkit/prepare-database.ts';
import { openStack, type Stack } from '../../testkit/stack.ts';
import { everyHelp } from './every-command.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** Nothing of the checkout is in its reach. */
const BARE = { PATH: '/usr/bin:/bin', HOME: '/nonexistent' };
const NOW = new Date().toISOString();
const CODE = randomBytes(16).toString('base64url');
/** What stands for each parameter, by what comes before it in the path; a new parameter needs a line, else the test says so. */
const PARAMETERS: Readonly<Record<string, string>> = {
  '/events/{id}': '/events/concert',
  '/offline/manifest/{eventId}': '/offline/manifest/concert',
  '/gates/{site}/{gate}': '/gates/arena/north',
  '/grants/{site}/{gate}/{epoch}/{seq}': '/grants/arena/north/1/1',
  '/sites/{site}': '/sites/arena',
  '/tickets/{id}': '/tickets/T-1',
  '/alerts/{alert}': '/alerts/ledger',
  '/requests/{command}': '/requests/open',
  '/{action}': '/unblock',
};

let folder: string;
let bundle: string;
let database: string;
let broker: Broker;
let stack: Stack;
let token: string;
const admin = async (sql: string) => {
  const owner = await connectOwner((await testPostgres()).url);
  try {
    await owner.query(sql);
  } finally {
    await owner.close();
  }
};

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'stile-cloud-bundle-'));
  // The folder as it is packed; packing it is seen by bundle.test.ts.
  const made = spawnSync(process.execPath, ['deploy/bundle.ts', 'cloud', process.arch, join(folder, 'empty'), '--no-archive'], { cwd: root, encoding: 'utf8' });
  if (made.status !== 0) throw new Error(`no bundle: ${made.stderr}`);
  bundle = join(folder, `empty/cloud-${process.arch}`);
  database = `stile_bundle_${randomBytes(6).toString('hex')}`;
  const { ownerUrl, servingUrl } = await prepareDatabase((await testPostgres()).url, database);
  broker = await startBroker();
  const pki = join(folder, 'pki');
  const certificates = spawnSync(join(bundle, 'bin/stile-cloud'), ['certificates', pki, '--host', '127.0.0.1'], { encoding: 'utf8', env: BARE });
  if (certificates.status !== 0) throw new Error(`no certificates: ${certificates.stderr}`);
  stack = await openStack({
    dir: folder,
    databaseUrl: servingUrl,
    migrateUrl: ownerUrl,
    mqtt: { url: broker.url },
    launcher: join(bundle, 'bin/stile-cloud'),
    env: { ...BARE, STILE_CA_CERT: join(pki, 'gates-ca.crt'), STILE_CA_KEY: join(pki, 'gates-ca.key') },
  });
  await stack.cloud('migrate');
  await stack.cloud('event', 'put', 'concert', '--site', 'arena', '--name', 'Concert', '--starts', NOW, '--no-wait');
  writeFileSync(join(folder, 'tickets.csv'), `ticket_id,code\nT-1,${CODE}\n`);
  await stack.cloud('import', 'concert', join(folder, 'tickets.csv'), '--no-wait');
  await stack.cloud('assign', 'arena/north', 'concert', '--new', '--token-file', join(folder, 'token'), '--no-wait');
  await stack.cloud('operator', 'add', 'bundle', '--token-file', join(folder, 'operator'));
  token = readFileSync(join(folder, 'operator'), 'utf8').trim();
  await stack.startCloud();
});
afterAll(async () => {
  await stack?.close();
  await broker?.stop();
  if (database !== undefined) await admin(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
  rmSync(folder, { recursive: true, force: true });
});

const ask = (method: string, path: string) =>
  fetch(`${stack.cloudUrl}${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(method === 'GET' || method === 'HEAD' ? {} : { 'content-type': 'application/json' }) },
    ...(method === 'GET' || method === 'HEAD' ? {} : { body: '{}' }),
  });

test('B2: the bundled cloud serves every file of the console', async () => {
  const page = join(root, 'cloud/console/page');
  for (const file of readdirSync(page)) {
    const answer = await ask('GET', file === 'index.html' ? '/console' : `/console/${file}`);
    expect([file, answer.status, await answer.text()]).toEqual([file, 200, readFileSync(join(page, file), 'utf8')]);
  }
});

test('B2: every path that the bundled cloud describes gives an answer of its own', async () => {
  const { paths } = (await (await ask('GET', '/openapi.json')).json()) as { paths: Record<string, Record<string, unknown>> };
  const calls = Object.entries(paths).flatMap(([path, methods]) => Object.keys(methods).map((method) => ({ method: method.toUpperCase(), path })));
  expect(calls.length).toBeGreaterThan(20);
  const bad: string[] = [];
  // What only reads comes first: what is asked of it is still there.
  for (const { method, path } of calls.toSorted((a, b) => Number(a.method !== 'GET') - Number(b.method !== 'GET'))) {
    const asked = Object.entries(PARAMETERS).reduce((before, [part, instead]) => before.replace(part, instead), path);
    if (asked.includes('{')) bad.push(`${method} ${path}: PARAMETERS does not say what stands for all of it`);
    const answer = await ask(method, asked);
    const body = await answer.text();
    if (answer.status === 404 || answer.status >= 500) bad.push(`${method} ${asked}: ${answer.status} ${body}`);
  }
  expect(bad).toEqual([]);
});

test('B3: the bundle holds its installer and what that puts in place; the installer says what it wants', () => {
  for (const file of [
    'share/mosquitto.conf',
    'share/database.sql',
    'share/proxy/nginx.conf',
    'share/doc/INSTALL.md',
    'systemd/stile.conf',
    'systemd/stile-cloud.service',
  ])
    expect([file, existsSync(join(bundle, file))]).toEqual([file, true]);
  const install = (...args: string[]) => spawnSync(join(bundle, 'install'), args, { encoding: 'utf8', env: BARE });
  expect(install('--help')).toMatchObject({ status: 0, stdout: expect.stringContaining('--host NAME') });
  for (const wrong of ['https://venue.lan', 'a;b', '$(id)', '-x y/z']) expect([wrong, install('--host', wrong).status]).toEqual([wrong, 2]);
});

test('S7: the bundle says which packages are in it, and on what terms', () => {
  const read = (file: string) => readFileSync(join(bundle, 'share/doc', file), 'utf8');
  const { components } = JSON.parse(read('sbom.cdx.json')) as { components: { name: string; version: string; licenses: unknown[] }[] };
  expect(components.map(({ name }) => name)).toEqual(expect.arrayContaining(['fastify', 'pg', 'mqtt', 'node', 'sqlite']));
  expect(components.filter(({ licenses }) => licenses.length === 0)).toEqual([]);
  for (const { name, version } of components) expect(read('THIRD-PARTY-LICENCES.txt')).toContain(`\n${name} ${version}: `);
  // What is only used to make it is not in it.
  expect(components.map(({ name }) => name)).not.toEqual(expect.arrayContaining(['vitest']));
});

test('B2: every command of the bundled cloud says what it is for', async () => {
  const helps = await everyHelp(join(bundle, 'bin/stile-cloud'), BARE);
  expect(helps.map(({ command }) => command)).toEqual(expect.arrayContaining(['', 'migrate', 'codes keys add', 'operator add']));
  for (const { command, result } of helps) expect([command, result.code, result.stderr, result.stdout.includes('Usage:')]).toEqual([command, 0, '', true]);
});

test('B2: the bundled cloud draws codes in every form, and reads the example of policies that lies in it', async () => {
  const codes = join(folder, 'codes.csv');
  await stack.cloud('codes', 'issue', 'concert', '--count', '3', '--tier', 'standard', '--out', codes, '--no-wait');
  for (const kind of ['svg', 'png', 'html']) {
    const out = join(folder, `sheet.${kind}`);
    await stack.cloud('codes', 'sheet', codes, '--out', out);
    expect(existsSync(out)).toBe(true);
  }
  await stack.cloud(
    'event',
    'put',
    'other',
    '--site',
    'arena',
    '--name',
    'Other',
    '--starts',
    NOW,
    '--policies',
    join(bundle, 'share/policies.yaml.example'),
    '--no-wait',
  );
});

test('B2: a bundle without one of its files is noticed: it does not start, and says which', async () => {
  await stack.stopCloud();
  for (const [part, words] of [
    ['lib/console/page.js', 'console'],
    ['lib/migrations', 'migrations'],
  ] as const) {
    renameSync(join(bundle, part), join(bundle, `${part}.away`));
    const came = await stack.startCloud().then(
      () => 'it started',
      (error: Error) => error.message,
    );
    expect(came).toContain(words);
    renameSync(join(bundle, `${part}.away`), join(bundle, part));
  }
});
