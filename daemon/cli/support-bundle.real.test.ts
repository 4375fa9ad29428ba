/** The archive for whoever helps from afar: everything that helps, nothing that opens anything. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { codeOf, createTestGate, GATE, type TestGate, until } from '../../testkit/gate.ts';
import { mask } from './support-bundle.ts';

const PASSWORD = 'correct-horse-battery';
const TOKEN = 'a-device-token-0123456789abcdef';
let at: TestGate;
beforeAll(async () => {
  at = await createTestGate();
  for (const [name, text] of [
    ['password', PASSWORD],
    ['token', TOKEN],
  ] as const)
    writeFileSync(join(at.dir, name), `${text}\n`, { mode: 0o600 });
  mkdirSync(join(at.dir, 'conf.d'));
  writeFileSync(
    join(at.dir, 'conf.d/secrets.yaml'),
    'mqtt: { url: "mqtt://127.0.0.1:9", username: north, password_file: ../password }\ncloud: { url: "http://127.0.0.1:9", token_file: ../token, keys: ../keys.json }\n',
  );
});
afterEach(() => at.killAll());
afterAll(() => at.remove());

async function bundle(...args: string[]): Promise<Record<string, string>> {
  const out = join(at.root, `bundle-${readdirSync(at.root).length}.tar.gz`);
  const ran = await at.cli('support-bundle', '--out', out, ...args);
  expect(ran).toMatchObject({ code: 0, stdout: expect.stringContaining(out) });
  expect(statSync(out).mode & 0o077).toBe(0);
  const folder = `${out}.d`;
  mkdirSync(folder);
  execFileSync('tar', ['-C', folder, '--strip-components=1', '-xzf', out]);
  return Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'utf8')]));
}

test('with a running gate: every part is there, and neither code nor secret in any of them', async () => {
  const gate = await at.start();
  for (const n of [1, 2]) {
    at.show(codeOf(n));
    await until(at.status, (now) => now.totals.passages === n && now.signals.in === 'ready');
  }
  at.show('NOT-A-TICKET-OF-OURS-0001');
  await until(at.status, (now) => now.totals.refusals === 1);
  const log = join(at.root, 'log');
  writeFileSync(log, `{"msg":"the gate decides"}\n{"msg":"somebody logged ${TOKEN} and password=${PASSWORD}"}\n`);
  const files = await bundle('--log', log);
  expect(Object.keys(files).sort()).toEqual(
    ['README.txt', 'config.json', 'doctor.json', 'doctor.txt', 'ledger.json', 'log.txt', 'ports.json', 'status.json', 'versions.json'].sort(),
  );
  expect(JSON.parse(files['ledger.json'] as string)).toMatchObject({ ok: true, problem: null, kinds: { grant: 2, passage: 2, refusal: 1 } });
  expect(JSON.parse(files['status.json'] as string)).toMatchObject({ gate: GATE, totals: { admissions: 2 } });
  expect(JSON.parse(files['config.json'] as string)).toMatchObject({ settings: { mqtt: { username: 'north', password_file: join(at.dir, 'password') } } });
  expect(files['log.txt']).toContain('the gate decides');
  const all = Object.values(files).join('\n');
  for (const secret of [PASSWORD, TOKEN, codeOf(1), codeOf(2), 'NOT-A-TICKET', 'PRIVATE KEY-----']) expect(all).not.toContain(secret);
  await at.end(gate, 'SIGTERM');
});

test('without a gate and with a broken configuration it is made all the same', async () => {
  const files = await bundle();
  expect(JSON.parse(files['status.json'] as string)).toEqual({ error: expect.stringContaining('no gate answers') });
  expect(JSON.parse(files['ledger.json'] as string)).toMatchObject({ gate: GATE, unreadable: 0 });
  writeFileSync(join(at.dir, 'conf.d/zz.yaml'), 'reders: []\n');
  const broken = await bundle();
  expect(broken['doctor.txt']).toContain('did you mean readers');
});

test('S3: a link in the place of the archive is refused, and what it leads to stays as it is', async () => {
  const [victim, planted] = [join(at.root, 'victim'), join(at.root, 'planted.tar.gz')];
  writeFileSync(victim, 'untouched', { mode: 0o640 });
  symlinkSync(victim, planted);
  expect(await at.cli('support-bundle', '--out', planted)).toMatchObject({ code: 1, stderr: expect.stringContaining('is a link') });
  expect([readFileSync(victim, 'utf8'), statSync(victim).mode & 0o777]).toEqual(['untouched', 0o640]);
});

test.each([
  ['a private key', '-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----', 'MIIabc'],
  ['half of one', 'x -----BEGIN EC PRIVATE KEY-----\nMIIabc', 'MIIabc'],
  ['a bearer token', 'authorization: Bearer abc.def-123', 'abc.def'],
  ['a password in an address', 'mqtts://north:hunter22@broker', 'hunter22'],
  ['a password by its name', '{"password": "hunter22", "x": 1}', 'hunter22'],
])('%s is masked', (_what, text, secret) => {
  expect(mask(text, [])).not.toContain(secret);
});
