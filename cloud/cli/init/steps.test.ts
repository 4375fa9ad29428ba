/** The files that `init` puts in place, on a real folder; programs of the machine are recorded. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runCli } from '../main.ts';
import { createHost, type Host } from './host.ts';
import { runPlan, undoPlan } from './plan.ts';
import { initSteps } from './steps.ts';

const asRoot = process.geteuid?.() === 0;
const repository = join(import.meta.dirname, '../../..');
let root: string;
let share: string;
let ran: string[];

beforeEach(() => {
  // Not below /tmp: root's files are not written where others may rename.
  root = mkdtempSync(join(asRoot ? '/var/lib' : tmpdir(), 'stile-init-'));
  share = join(root, 'share');
  for (const folder of ['etc/mosquitto/conf.d', 'etc/nginx/conf.d', 'etc/stile', 'share/proxy', 'root', 'usr/bin'])
    mkdirSync(join(root, folder), { recursive: true });
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\nmosquitto:x:0:\nstile-cloud:x:0:\n');
  writeFileSync(join(root, 'usr/bin/psql'), '');
  writeFileSync(join(share, 'mosquitto.conf'), readFileSync(join(repository, 'deploy/mosquitto/mosquitto.conf')));
  writeFileSync(join(share, 'proxy/nginx.conf'), readFileSync(join(repository, 'deploy/proxy/nginx.conf')));
  ran = [];
});
afterEach(() => rmSync(root, { recursive: true }));

/** The machine below `root`; of its programs only `install` and `openssl` are run. */
function hostHere(): Host {
  const host = createHost(root);
  return {
    ...host,
    run(program, args, input) {
      if ((program === 'install' && args.includes('root')) || program === 'openssl') return host.run(program, args, input);
      ran.push([program, ...args].join(' '));
      const out =
        input?.includes('count(*)') === true ? '0\n0\n' : args[0] === 'operator' && args[1] === 'list' ? '[]' : args[0] === 'broker-acl' ? 'user x\n' : '';
      return { status: 0, out, err: '' };
    },
  };
}
const options = (hosts: readonly string[]) => ({ hosts, operator: 'admin', start: true, share });
const text = (path: string) => readFileSync(join(root, path), 'utf8');

test.skipIf(!asRoot)('init writes the settings, certificates, broker and proxy of a new server, and finds them done afterwards', async () => {
  const host = hostHere();
  const quiet = { say: () => undefined, dryRun: false };
  await runPlan(initSteps(host, options(['192.168.1.10', 'venue.example'])), quiet);
  expect(text('etc/stile/cloud.env')).toMatch(/^DATABASE_URL=postgres:\/\/stile:[0-9a-f]{48}@127\.0\.0\.1\/stile\n/);
  expect(text('etc/stile/cloud.env')).toContain('STILE_PUBLIC_URL=https://192.168.1.10\n');
  for (const [file, mode] of [
    ['cloud.env', 0o600],
    ['backup.env', 0o600],
    ['ca.key', 0o640],
    ['pki/gates-ca.key', 0o600],
  ] as const)
    expect([file, statSync(join(root, 'etc/stile', file)).mode & 0o777]).toEqual([file, mode]);
  // The passwords of the three logins differ.
  const passwords = `${text('etc/stile/cloud.env')}${text('etc/stile/backup.env')}`.match(/:[0-9a-f]{48}@/g) ?? [];
  expect(new Set(passwords).size).toBe(3);
  expect(text('etc/mosquitto/stile/acl')).toBe('user x\n');
  expect(text('etc/mosquitto/conf.d/stile.conf')).toContain('listener 8883');
  expect(text('etc/nginx/conf.d/stile.conf')).toContain('server_name 192.168.1.10 venue.example;');
  expect(ran).toContain('systemctl restart stile-cloud.service');
  const before = text('etc/stile/cloud.env');

  const said: string[] = [];
  await runPlan(initSteps(host, options([])), { say: (line) => said.push(line), dryRun: false });
  expect(text('etc/stile/cloud.env')).toBe(before);
  for (const name of ['certificates', 'database', 'settings', 'broker', 'proxy']) expect(said.join('\n')).toMatch(new RegExp(`${name} +is so already`));

  await undoPlan(initSteps(host, options([])), { ...quiet, withData: true });
  for (const gone of ['etc/stile/pki', 'etc/stile/cloud.env', 'etc/mosquitto/stile', 'etc/nginx/conf.d/stile.conf'])
    expect(host.exists(`/${gone}`), gone).toBe(false);
});

test.skipIf(!asRoot)('init refuses a database of the same name that no settings name, and says how to go on', async () => {
  const host = hostHere();
  const found: Host = {
    ...host,
    run: (program, args, input) => (input?.includes('count(*)') === true ? { status: 0, out: '1\n1\n', err: '' } : host.run(program, args, input)),
  };
  await expect(runPlan(initSteps(found, options(['venue.example'])), { say: () => undefined, dryRun: false })).rejects.toThrow(
    /step database failed: .*already.*restore that file/,
  );
});

test('init says which option is wrong', async () => {
  const errors: string[] = [];
  const init = (...args: string[]) => runCli(['init', ...args], { env: {}, interactive: false, out: () => undefined, err: (line) => errors.push(line) });
  expect(await init('--host', 'https://venue.example')).toBe(2);
  expect(await init('--host', 'venue.example', '--operator', 'Jane Doe')).toBe(2);
  expect(await init('--with-data')).toBe(2);
  expect(errors.join('')).toMatch(/--host "https.*--operator "Jane.*--with-data goes with --undo/s);
});
