/** What root's commands write where somebody else has planted links, and who may read a secret afterwards. */
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type FreshDatabase, freshDatabase } from '../../testkit/database.ts';
import { runCli } from './main.ts';

const root = process.geteuid?.() === 0;
/** As the user of the broker: somebody who is not root. */
const BROKER = 64_322;

let fresh: FreshDatabase;
let folder: string;
let victim: string;
beforeAll(async () => {
  fresh = await freshDatabase();
  expect(
    await cli('event', 'put', 'concert-1', '--site', 'arena', '--name', 'Concert', '--starts', '2026-12-31T20:00Z', '--ends', '2026-12-31T23:00Z'),
  ).toMatchObject({ code: 0 });
});
afterAll(() => fresh.drop());
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'stile-planted-'));
  chmodSync(folder, 0o755);
  victim = join(folder, 'victim');
  writeFileSync(victim, 'untouched', { mode: 0o640 });
  return () => rmSync(folder, { recursive: true, force: true });
});

async function cli(...args: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ['', ''];
  const code = await runCli(args, {
    env: { DATABASE_URL: fresh.servingUrl, STILE_TENANT: 'venues' },
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
const untouched = () => {
  const { uid, mode } = statSync(victim);
  expect([readFileSync(victim, 'utf8'), uid, mode & 0o777]).toEqual(['untouched', process.geteuid?.() ?? 0, 0o640]);
};

test.skipIf(!root)('S3: broker-acl as root in a folder of the broker follows no link, gives nothing away, and writes where it is told', async () => {
  const place = join(folder, 'stile');
  mkdirSync(place);
  mkdirSync(join(folder, 'secrets'));
  chownSync(place, BROKER, BROKER);
  const acl = join(place, 'acl');
  for (const leads of [victim, join(folder, 'secrets'), join(folder, 'nowhere')]) {
    symlinkSync(leads, acl);
    expect(await cli('broker-acl', '--out', acl)).toMatchObject({ code: 1, err: expect.stringContaining('is a link') });
    rmSync(acl);
  }
  symlinkSync(join(folder, 'secrets'), join(place, 'sub'));
  expect(await cli('broker-acl', '--out', join(place, 'sub', 'acl'))).toMatchObject({ code: 1, err: expect.stringContaining('could lead') });
  expect(readdirSync(join(folder, 'secrets'))).toEqual([]);
  untouched();
  writeFileSync(acl, 'old', { mode: 0o640 });
  chownSync(acl, BROKER, BROKER);
  expect(await cli('broker-acl', '--out', acl)).toMatchObject({ code: 0 });
  expect([statSync(acl).uid, statSync(acl).mode & 0o777, readFileSync(acl, 'utf8').includes('user _cloud')]).toEqual([BROKER, 0o640, true]);
  expect(readdirSync(place).sort()).toEqual(['acl', 'sub']);
});

test('S6: a token is the reader of its file alone, whatever was there before; a link there is refused, and no token made', async () => {
  const made: readonly (readonly [string, ...string[]])[] = [
    ['operator', 'add', 'anna'],
    ['assign', 'arena/north-03', 'concert-1', '--new', '--no-wait'],
    ['gate', 'add', 'arena/north-04'],
    ['gate', 'token', 'arena/north-04'],
  ];
  for (const [n, command] of made.entries()) {
    const file = join(folder, `token-${n}`);
    symlinkSync(victim, join(folder, `link-${n}`));
    expect(await cli(...command, '--token-file', join(folder, `link-${n}`)), command.join(' ')).toMatchObject({
      code: 1,
      out: '',
      err: expect.stringContaining('is a link'),
    });
    untouched();
    writeFileSync(file, 'everybody reads this', { mode: 0o644 });
    chmodSync(file, 0o644);
    expect(await cli(...command, '--token-file', file), command.join(' ')).toMatchObject({ code: 0, out: '' });
    expect([statSync(file).mode & 0o777, readFileSync(file, 'utf8').startsWith('stile-')], command.join(' ')).toEqual([0o600, true]);
  }
});

test('S6: a text that no database can hold is refused with its place in files too, and nothing of them is taken', async () => {
  const policies = join(folder, 'policies.yaml');
  writeFileSync(policies, 'reentry: { kind: always, note: "a\\0b" }\n');
  const put = await cli('event', 'put', 'concert-2', '--site', 'arena', '--ends', '2026-12-31T23:00Z', '--policies', policies);
  expect(put).toMatchObject({ code: 2, err: expect.stringContaining('policies.reentry.note: a text holds U+0000') });
  const tickets = join(folder, 'tickets.csv');
  const code = 'kR7mWx2Tq9ZbN4vPsH8cLd';
  writeFileSync(tickets, `ticket_id,code,tier,note\nT-1,${code},standard,a\0b\n`);
  const csv = await cli('import', 'concert-1', tickets, '--no-wait');
  expect(csv.code).not.toBe(0);
  expect(csv.err).toContain('tickets.csv:2: note: a text holds U+0000');
  writeFileSync(join(folder, 'tickets.jsonl'), `${JSON.stringify({ ticket_id: 'T-1', code, tier: 'standard', note: 'half \ud800' })}\n`);
  const jsonl = await cli('import', 'concert-1', join(folder, 'tickets.jsonl'), '--no-wait');
  expect(jsonl.code).not.toBe(0);
  expect(jsonl.err).toContain('tickets.jsonl:1: note: a text holds U+0000 or half a surrogate pair');
});
