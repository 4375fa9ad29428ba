import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { PublicKey } from '../../contract/manifest.ts';
import { type Broker, startBroker } from '../../testkit/broker.ts';
import { type FreshDatabase, freshDatabase } from '../../testkit/database.ts';
import { connectPeer } from '../../testkit/mqtt-client.ts';
import { readConfig } from '../config.ts';
import { connectOwner } from '../db/database.ts';
import { SILENT } from '../log.ts';
import { startCloud } from '../main.ts';
import { runCli } from './main.ts';

let fresh: FreshDatabase;
let mosquitto: Broker;
const folder = mkdtempSync(join(tmpdir(), 'stile-cli-'));
beforeAll(async () => {
  [fresh, mosquitto] = await Promise.all([freshDatabase(), startBroker()]);
});
afterAll(async () => {
  await mosquitto.stop();
  await fresh.drop();
  rmSync(folder, { recursive: true, force: true });
});

const env = () => ({
  DATABASE_URL: fresh.servingUrl,
  STILE_MQTT_URL: mosquitto.cloudUrl,
  STILE_SIGNING_KEY_FILE: join(folder, 'key.pem'),
  STILE_HTTP_PORT: '0',
  STILE_TENANT: 'venues',
  STILE_HOST: 'cli-test',
});
async function cli(args: readonly string[], extra: Record<string, string | undefined> = {}): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ['', ''];
  const code = await runCli(args, {
    env: { ...env(), ...extra },
    interactive: false,
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
  });
  return { code, out, err };
}
function tickets(name: string, count: number): string {
  const path = join(folder, name);
  writeFileSync(
    path,
    `ticket_id,code,tier\n${Array.from({ length: count }, (_, n) => `T-${n},${randomBytes(16).toString('base64url')},standard`).join('\n')}\n`,
  );
  return path;
}

async function query<Row>(text: string): Promise<Row[]> {
  const owner = await connectOwner(fresh.url);
  try {
    return (await owner.query<Row>(text)).rows;
  } finally {
    await owner.close();
  }
}

test('--version says which Stile this is', async () => {
  expect(await cli(['--version'])).toEqual({ code: 0, out: expect.stringMatching(/^stile-cloud \d+\.\d+\.\d+ \(a checkout\)\n$/), err: '' });
});

test('the commands lead from an empty database to a gate with its tickets', async () => {
  expect(await cli(['migrate'], { STILE_MIGRATE_URL: fresh.ownerUrl })).toMatchObject({ code: 0, err: expect.stringContaining('up to date') });
  expect(await cli(['gates'])).toMatchObject({ code: 1, err: expect.stringContaining('there is no tenant "venues" yet') });
  const put = await cli([
    'event',
    'put',
    'concert-1',
    '--site',
    'arena',
    '--name',
    'Concert',
    '--starts',
    '2026-07-01T20:00+02:00',
    '--policies',
    join(import.meta.dirname, '../../docs/policies.yaml.example'),
  ]);
  expect(put).toMatchObject({ code: 0, out: 'event concert-1: made\n' });
  expect(put.err).toContain('made the tenant "venues"\nmade the site arena\n');
  expect(put.err).toContain('--ends was not given: it ends 2026-07-02T06:00:00.000Z, 12 h after its beginning');
  expect(await cli(['import', 'concert-1', tickets('good.csv', 30), '--json'])).toMatchObject({ code: 0, out: expect.stringContaining('"created":30') });
  const tokenFile = join(folder, 'north.token');
  const assigned = await cli(['assign', 'arena/north-03', 'concert-1', '--new', '--zones', 'A,B', '--token-file', tokenFile, '--no-wait']);
  expect(assigned).toMatchObject({ code: 0, out: '', err: expect.stringContaining('arena/north-03 is for concert-1 (zones A,B)') });
  expect([readFileSync(tokenFile, 'utf8').startsWith('stile-device-'), statSync(tokenFile).mode & 0o777]).toEqual([true, 0o600]);
  const { keys } = JSON.parse((await cli(['keys'])).out) as { keys: unknown[] };
  expect(keys.map((key) => PublicKey.parse(key).use)).toEqual(['manifest']);
  expect(JSON.parse((await cli(['gates', '--json'])).out)).toMatchObject([{ gate: 'arena/north-03', state: 'never_seen', event_ids: ['concert-1'] }]);

  const result = readConfig(env(), { mqtt: true });
  const running = await startCloud(result.ok ? result.config : (undefined as never), { serve: true, ingest: true }, SILENT);
  const gate = await connectPeer(mosquitto.url);
  try {
    await gate.subscribe('stile/1/arena/north-03/#', 1);
    await gate.wait(({ topic, payload }) => topic.endsWith('manifest/want') && JSON.parse(payload.toString()).events.length === 1);
    expect(await cli(['assign', 'arena/*', 'concert-1'])).toMatchObject({ code: 0, err: expect.stringContaining('the gates are notified') });
    const asked = cli(['request', 'arena/north-03', 'mode', '--actor', 's-17', '--reason', 'end of the show', '--arg', 'mode=free']);
    const request = JSON.parse((await gate.wait(({ topic }) => topic.endsWith('/request/mode'))).payload.toString()) as { transaction: string };
    expect(request).toMatchObject({ actor: 's-17', args: { mode: 'free' } });
    await gate.publish('stile/1/arena/north-03/response/mode', {
      schema: 1,
      transaction: request.transaction,
      status: 'error',
      error: { code: 'refused', message: 'a rotation is in progress' },
      duration_ms: 2,
    });
    expect(await asked).toMatchObject({ code: 1, out: expect.stringContaining('refused: a rotation is in progress') });
  } finally {
    await gate.end();
    await running.stop();
  }
});

test('exit codes say what kind of failure it was', async () => {
  const nobody = { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none' };
  const empty = { DATABASE_URL: Object.assign(new URL(fresh.servingUrl), { pathname: '/postgres' }).href };
  const cases: [readonly string[], Record<string, string | undefined>, number, RegExp][] = [
    [['--help'], {}, 0, /^$/],
    [['import', '--help'], {}, 0, /^$/],
    [['nonsense'], {}, 2, /unknown command/],
    [['import', 'concert-1'], {}, 2, /name the event and the file of its tickets/],
    [['gates'], { DATABASE_URL: undefined }, 78, /DATABASE_URL: missing/],
    [['gates'], nobody, 69, /the database can't be reached/],
    [['serve'], empty, 78, /run stile-cloud migrate first/],
    [['event', 'list'], empty, 78, /stile-cloud migrate/],
    [['serve'], { STILE_MQTT_URL: '' }, 78, /STILE_MQTT_URL: missing/],
    [['serve'], { STILE_SIGNING_KEY_FILE: join(folder, 'another.pem') }, 78, /whose file is not here/],
    [['import', 'nowhere', tickets('x.csv', 1)], {}, 1, /there is no event nowhere/],
    [['import', 'concert-1', join(folder, 'none.csv')], {}, 1, /there is no such file/],
    [['event', 'put', 'concert-1', '--starts', 'tomorrow'], {}, 2, /--starts "tomorrow": write the time with its zone/],
    [['event', 'put', 'concert-1', '--time-zone', 'Mars'], {}, 2, /time_zone "Mars"/],
    [['assign', 'arena', 'concert-1'], {}, 2, /a gate is named <site>\/<gate>/],
    [['assign', 'arena/x', 'nowhere', '--new'], {}, 1, /there is no event nowhere/],
    [
      ['assign', 'arena/nrth-03', 'concert-1'],
      {},
      1,
      /there is no gate arena\/nrth-03 \(did you mean arena\/north-03\?\): make it with stile-cloud gate add arena\/nrth-03, or give --new/,
    ],
    [['assign', 'aren/north-03', 'concert-1'], {}, 1, /there is no gate aren\/north-03: /],
    [['request', 'arena/north-03', 'explode', '--actor', 'a', '--reason', 'x'], {}, 2, /there is no command "explode"/],
    [['request', 'arena/north-03', 'open', '--actor', 'a', '--reason', 'x'], { STILE_MQTT_URL: 'mqtt://127.0.0.1:1' }, 69, /the broker .* can't be reached/],
    [['refusals', '--since', 'yesterday'], {}, 2, /--since "yesterday"/],
    [['settle', 'arena/north-03', '1', '1', 'passed', '--actor', 'a', '--reason', 'x'], {}, 1, /there is no grant/],
  ];
  for (const [args, extra, code, message] of cases) {
    const result = await cli(args, { ...extra });
    expect({ args, code: result.code, err: result.err }).toEqual({ args, code, err: expect.stringMatching(message) });
  }
});

test('serve publishes no start when its port is taken: the message names the port and what to set', async () => {
  const taken = createServer();
  await new Promise<void>((done) => taken.listen(0, '127.0.0.1', done));
  const { port } = taken.address() as AddressInfo;
  const peer = await connectPeer(mosquitto.url);
  try {
    await peer.subscribe('stile/1/_cloud/second/#', 1);
    for (const command of ['all', 'serve']) {
      const result = await cli([command], { STILE_HTTP_PORT: String(port), STILE_HOST: 'second', STILE_LOG_LEVEL: 'error' });
      expect(result).toMatchObject({ code: 1, out: '', err: expect.stringContaining(`port ${port} on 127.0.0.1 is taken by another program`) });
      expect(result.err).toContain('set STILE_HTTP_PORT');
    }
    await peer.publish('stile/1/_cloud/second/state', { last: true });
    await peer.wait(({ payload }) => payload.toString() === '{"last":true}');
    expect(peer.received.map(({ payload }) => payload.toString())).toEqual(['{"last":true}']);
  } finally {
    await peer.end();
    taken.close();
  }
});

test('K1, K6: a command keeps the fields that it does not name, and refuses an event that would never end', async () => {
  const show = async () => JSON.parse((await cli(['event', 'show', 'concert-1'])).out) as Record<string, unknown>;
  const before = await show();
  expect((await cli(['event', 'put', 'concert-1', '--name', 'B', '--no-wait'])).code).toBe(0);
  expect(await show()).toEqual({ ...before, name: 'B', version: expect.any(Number) });
  await cli(['assign', 'arena/*', 'concert-1', '--no-wait']);
  const serves = async () => (await query<{ zones: string[] | null }>("SELECT zones FROM gate_assignments WHERE gate = 'arena/north-03'"))[0]?.zones;
  expect(await serves()).toEqual(['A', 'B']);
  await cli(['assign', 'arena/*', 'concert-1', '--zones', 'all', '--no-wait']);
  expect(await serves()).toBeNull();
  expect(await cli(['event', 'put', 'concert-8', '--site', 'arena', '--no-wait'])).toMatchObject({ code: 2, err: expect.stringContaining('ENDS_AT_NEEDED') });
  await query('UPDATE events SET starts_at = NULL, ends_at = NULL');
  for (const command of [
    ['event', 'list'],
    ['event', 'show', 'concert-1'],
    ['event', 'put', 'concert-1', '--name', 'C', '--no-wait'],
  ])
    expect({ command, ...(await cli(command)) }).toMatchObject({ command, code: 0, err: expect.stringContaining('warning: event concert-1 has no end') });
  await cli(['event', 'put', 'concert-1', '--starts', '2026-07-01T20:00+02:00', '--no-wait']);
});

test('an event goes to another site only where that is said', async () => {
  const site = async () => JSON.parse((await cli(['event', 'show', 'concert-1'])).out).site as string;
  const typo = await cli(['event', 'put', 'concert-1', '--site', 'arean', '--no-wait']);
  expect(typo).toMatchObject({ code: 1, out: '', err: expect.stringContaining('is at the site arena') });
  expect(typo.err).toContain('--move');
  expect(typo.err).not.toContain('made the site');
  expect([await site(), (await cli(['event', 'put', 'concert-1', '--site', 'arena', '--no-wait'])).code]).toEqual(['arena', 0]);
  expect(await cli(['event', 'put', 'concert-1', '--site', 'stadium', '--move', '--no-wait'])).toMatchObject({
    code: 0,
    err: expect.stringContaining('made the site stadium'),
  });
  expect(await site()).toBe('stadium');
  expect(await cli(['event', 'put', 'concert-1', '--site', 'arena', '--move', '--no-wait'])).toMatchObject({ code: 0 });
});

test('errors are told in plain words', async () => {
  const path = join(folder, 'plain.yaml');
  writeFileSync(path, 'event:\n  duplicate_window_s: soon\n  reentry: { rule: sometimes, max: -1 }\n  admision: {}\ngates:\n  North: {}\n');
  const policies = await cli(['event', 'put', 'concert-1', '--policies', path]);
  const request = await cli(['request', 'arena/north-03', 'open', '--actor', 's-17', '--reason', 'x', '--arg', 'direction=up', '--arg', 'units=many']);
  const site = await cli(['event', 'put', 'concert-9', '--site', 'Arena!']);
  expect([policies.code, request.code, site.code]).toEqual([2, 2, 2]);
  const all = policies.err + request.err + site.err;
  expect(all).not.toMatch(/Invalid |Too (big|small)|Unrecognized|expected|received|pattern/);
  expect(policies.err).toContain('policies.event.reentry.rule: must be one of none, after_exit, always');
  expect(policies.err).toContain('policies.event.duplicate_window_s: must be a number');
  expect(policies.err).toContain('knows no admision');
});

test('errors of a policies file are all named, with its line where it is not YAML', async () => {
  const path = join(folder, 'policies.yaml');
  writeFileSync(path, 'event:\n  reentry: { rule: sometimes }\n  no_such_rule: 1\n');
  const wrong = await cli(['event', 'put', 'concert-1', '--policies', path]);
  expect(wrong).toMatchObject({ code: 2 });
  expect(wrong.err).toMatch(/policies\.event\.reentry\.rule/);
  expect(wrong.err).toMatch(/no_such_rule/);
  writeFileSync(path, 'event:\n  - {');
  expect(await cli(['event', 'put', 'concert-1', '--policies', path])).toMatchObject({ code: 2, err: expect.stringMatching(/line 2/) });
});

test('a bad line ends in 1, and what was good is in', async () => {
  const path = join(folder, 'mixed.csv');
  writeFileSync(path, `ticket_id,code\nM-1,${randomBytes(16).toString('base64url')}\nM-2,guessable\n`);
  const result = await cli(['import', 'concert-1', path, '--no-wait']);
  expect(result).toMatchObject({ code: 1, out: '1 new, 0 changed, 0 as before, 1 refused, of 2 lines\n' });
  expect(result.err).toContain(`${path}:3: code: has at most`);
});

test("an operator's token is shown once, acts for one person, and can be taken away", async () => {
  expect(await cli(['operator', 'add', 'anna', '--actor', 's-17'])).toMatchObject({ code: 0, out: expect.stringMatching(/^stile-operator-\S{43}\n$/) });
  expect(await cli(['operator', 'add', 'anna'])).toMatchObject({ code: 1, err: expect.stringContaining('there is an operator anna already') });
  expect((await cli(['operator', 'list'])).out).toContain('anna  acts for s-17');
  expect(await cli(['operator', 'revoke', 'anna'])).toMatchObject({ code: 0 });
  expect(await cli(['operator', 'add', 'Anna Miller'])).toMatchObject({ code: 2, err: expect.stringContaining('is not a staff id') });
});

test('a gate is not made for a mistyped event, nor where its token cannot be written', async () => {
  const mistyped = await cli(['assign', 'arena/east-09', 'no-such-event', '--new', '--no-wait']);
  expect(mistyped).toMatchObject({ code: 1, out: '', err: expect.stringContaining('there is no event no-such-event') });
  const unwritable = await cli(['gate', 'add', 'arena/east-09', '--token-file', join(folder, 'nowhere', 'token')]);
  expect(unwritable).toMatchObject({ code: 1, out: '', err: expect.stringContaining('cannot be written (ENOENT)') });
  expect((await cli(['gates', '--json'])).out).not.toContain('east-09');
});

test('the ACL of the broker is made from enrolment, over all tenants', async () => {
  await cli(['gate', 'add', 'hall/door-1'], { STILE_TENANT: 'another' });
  await cli(['gate', 'add', 'hall/door-2'], { STILE_TENANT: 'another' });
  await cli(['gate', 'revoke', 'hall/door-2', '--yes', 'hall/door-2'], { STILE_TENANT: 'another' });
  const out = join(folder, 'acl');
  expect(await cli(['broker-acl', '--out', out])).toMatchObject({ code: 0, out: '' });
  const text = readFileSync(out, 'utf8');
  expect(text).toContain('user hall/door-1\n');
  expect(text).toContain('topic write stile/1/hall/door-1/ledger\n');
  expect(text).toContain('user arena/north-03\n');
  expect(text).toContain('# hall/door-2 is revoked');
  expect(text).not.toContain('user hall/door-2');
  expect((await cli(['broker-acl'])).out).toBe(text);
  // The broker reads it as a user of its own; what an administrator changed stays.
  expect(statSync(out).mode & 0o777).toBe(0o644);
  chmodSync(out, 0o640);
  expect(await cli(['broker-acl', '--out', out])).toMatchObject({ code: 0 });
  expect(statSync(out).mode & 0o777).toBe(0o640);
});

test('the launcher finds its runtime from any folder and through a link', async () => {
  const launcher = join(import.meta.dirname, '..', 'stile-cloud');
  if (!existsSync(join(import.meta.dirname, '../../.tools/node/bin/node'))) throw new Error('the pinned runtime is missing: run make setup');
  const link = join(folder, 'stile-cloud');
  symlinkSync(launcher, link);
  const help = await new Promise<string>((done, failed) =>
    execFile(link, ['--help'], { cwd: '/', env: { PATH: '/usr/bin:/bin' } }, (error, stdout) => (error === null ? done(stdout) : failed(error))),
  );
  expect(help).toContain('From an empty database to a gate with its tickets');
});
