/** `ledger export --store` and `ledger recover` read a dead gate's store and damaged databases without changing a byte. */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { codeOf, createTestGate, GATE, type TestGate, until } from '../../testkit/gate.ts';

let at: TestGate;
beforeAll(async () => {
  at = await createTestGate();
});
afterEach(() => at.killAll());
afterAll(() => at.remove());

const fingerprint = (folder: string) =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .sort()
    .map((name) =>
      statSync(join(folder, name)).isFile()
        ? `${name} ${createHash('sha256')
            .update(readFileSync(join(folder, name)))
            .digest('hex')}`
        : name,
    );
type Message = { schema: number; gate: string; epoch: number; entries: { seq: number; kind: string; hash: string }[] };
const messages = (text: string) =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Message);

test("ledger export --store writes every row of a dead gate's store, from the WAL too, and changes nothing there", async () => {
  const gate = await at.start();
  for (const n of [1, 2, 3]) {
    at.show(codeOf(n));
    await until(at.status, (now) => now.totals.passages === n && now.signals.in === 'ready');
  }
  const live = messages((await at.cli('ledger', 'export')).stdout);
  expect(await at.cli('ledger', 'export', '--store', join(at.dir, 'store'))).toMatchObject({ code: 75, stderr: expect.stringContaining('a gate is running') });
  // The plug is pulled: the newest rows are only in the write-ahead log.
  await at.end(gate, 'SIGKILL');
  const offlineLedger = join(at.root, 'card');
  cpSync(join(at.dir, 'store'), offlineLedger, { recursive: true });
  for (const name of readdirSync(offlineLedger)) if (statSync(join(offlineLedger, name)).isFile()) chmodSync(join(offlineLedger, name), 0o444);
  const before = fingerprint(offlineLedger);
  const { code, stdout, stderr } = await at.cli('ledger', 'export', '--store', offlineLedger);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(messages(stdout)).toEqual(live);
  expect(fingerprint(offlineLedger)).toEqual(before);
  expect(await at.cli('ledger', 'export', '--store', at.root)).toMatchObject({ code: 1, stderr: expect.stringContaining('no ledger') });
});

test('ledger recover lists a damaged database and exports its rows, those from ledger.rows too that it cannot give', async () => {
  const file = join(at.dir, 'store/ledger.sqlite');
  let gate = await at.start();
  for (let n = 4; n < 12; n++) {
    at.show(codeOf(n));
    await until(at.status, (now) => now.recent.some(({ words }) => words.includes(`ticket t-${n}`)));
    await until(at.status, (now) => now.signals.in === 'ready');
  }
  const rows = JSON.parse((await at.cli('ledger', 'ls', '-n', '1000', '--json')).stdout) as { entry: { hash: string } }[];
  await at.end(gate, 'SIGTERM');
  expect(existsSync(file)).toBe(true);
  // One row of the middle is changed on the disk.
  const bytes = readFileSync(file);
  const hash = rows[Math.floor(rows.length / 2)]?.entry.hash as string;
  const place = bytes.indexOf(hash);
  expect(place).toBeGreaterThan(0);
  const fd = openSync(file, 'r+');
  writeSync(fd, Buffer.from(`${hash[0] === 'a' ? 'b' : 'a'}`), 0, 1, place);
  closeSync(fd);
  rmSync(`${file}-wal`, { force: true });
  gate = await at.start();
  await until(at.status, (now) => now.ledger.usage_complete === false);
  const { code, stdout } = await at.cli('ledger', 'recover', '--json');
  expect(code).toBe(0);
  const found = JSON.parse(stdout) as { databases: { file: string; gate: string; rows: number; unacknowledged: number; unreadable: number }[] };
  const { databases } = found;
  expect(databases).toHaveLength(1);
  expect(databases[0]).toMatchObject({ gate: GATE, rows: rows.length, unacknowledged: rows.length, unreadable: 0 });
  const out = join(at.root, 'saved.jsonl');
  expect(await at.cli('ledger', 'recover', '--export', out, '--unacknowledged')).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('stile-cloud import --ledger'),
  });
  const saved = messages(readFileSync(out, 'utf8')).flatMap(({ entries }) => entries.map((entry) => entry.hash));
  expect(saved).toEqual(rows.map(({ entry }) => entry.hash));
  await at.end(gate, 'SIGTERM');
  // Without the second copy: the changed row does not follow from the one before it; the one behind it has nothing to be compared with and stands.
  for (const name of readdirSync(join(at.dir, 'store'))) if (name.startsWith('ledger.rows')) rmSync(join(at.dir, 'store', name));
  const without = JSON.parse((await at.cli('ledger', 'recover', '--json')).stdout) as typeof found;
  expect(without.databases[0]).toMatchObject({ gate: GATE, rows: rows.length - 1, unacknowledged: rows.length - 1, unreadable: 1 });
});

test('ledger recover takes every row from ledger.rows where nothing of the database can be read', async () => {
  const gate = await at.start();
  at.show(codeOf(12));
  await until(at.status, (now) => now.recent.some(({ words }) => words.includes('ticket t-12')) && now.signals.in === 'ready');
  const live = messages((await at.cli('ledger', 'export')).stdout).flatMap(({ entries }) => entries.map(({ hash }) => hash));
  const last = live.at(-1) as string;
  await until(
    () => readFileSync(join(at.dir, 'store/ledger.rows'), 'utf8'),
    (text) => text.includes(last),
  );
  await at.end(gate, 'SIGKILL');
  const store = join(at.root, 'unreadable');
  cpSync(join(at.dir, 'store'), store, { recursive: true });
  for (const name of readdirSync(store)) if (/^ledger\..*sqlite/.test(name)) rmSync(join(store, name), { recursive: true });
  writeFileSync(join(store, 'ledger.damaged-20260101T000000-000Z.sqlite'), 'not a database at all');
  const out = join(at.root, 'copied.jsonl');
  expect(await at.cli('ledger', 'recover', '--store', store, '--gate', GATE, '--export', out)).toMatchObject({ code: 0 });
  const copied = messages(readFileSync(out, 'utf8')).flatMap(({ entries }) => entries.map(({ hash }) => hash));
  expect(copied).toEqual(expect.arrayContaining([last]));
  expect(copied.every((hash) => live.includes(hash))).toBe(true);
});

test('ledger recover says that nothing can be read of a file that is no database', async () => {
  const offlineLedger = join(at.root, 'rubbish');
  cpSync(join(at.dir, 'store'), offlineLedger, { recursive: true });
  for (const name of readdirSync(offlineLedger)) if (name.startsWith('ledger')) rmSync(join(offlineLedger, name));
  writeFileSync(join(offlineLedger, 'ledger.damaged-20260101T000000-000Z.sqlite'), 'not a database at all');
  expect(JSON.parse((await at.cli('ledger', 'recover', '--store', offlineLedger, '--json')).stdout)).toMatchObject({
    databases: [{ gate: null, rows: 0, unacknowledged: 0, epochs: [] }],
  });
  expect(await at.cli('ledger', 'recover', 'nothing.sqlite', '--store', offlineLedger)).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('there is no'),
  });
});

test("S3: links in the gate's folder lead root nowhere: neither where rows are written nor what is read", async () => {
  const service = join(at.root, 'service');
  mkdirSync(service);
  const victim = join(at.root, 'victim');
  writeFileSync(victim, 'untouched', { mode: 0o600 });
  symlinkSync(victim, join(service, 'rows.jsonl'));
  const recover = (...args: string[]) => at.cli('ledger', 'recover', '--store', service, ...args);
  expect(await recover('--export', join(service, 'rows.jsonl'))).toMatchObject({ code: 1, stderr: expect.stringContaining('is a link') });
  expect([readFileSync(victim, 'utf8'), statSync(victim).mode & 0o777]).toEqual(['untouched', 0o600]);
  symlinkSync(victim, join(service, 'ledger.sqlite'));
  expect(await at.cli('ledger', 'export', '--store', service, '--gate', GATE)).toMatchObject({ code: 1, stderr: expect.stringContaining('is a link') });
});
