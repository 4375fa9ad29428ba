/** Nobody is kept inside: the whole gate as a process, a real pseudo-terminal for the outward reader, a real store that fails. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { CHECKOUT_LAUNCHER, codeOf, createTestGate, type TestGate, until } from '../../testkit/gate.ts';
import { openPtyPair, type PtyPair } from '../sim/pty-pair.ts';

let at: TestGate;
let outward: PtyPair;
beforeAll(async () => {
  at = await createTestGate(CHECKOUT_LAUNCHER, 8, {
    policies: { event: { passback: { mode: 'hard' }, clock_untrusted: 'refuse', manifest_stale: 'refuse', unknown: 'refuse' } },
    tickets: { 2: { status: 'blocked' }, 3: { status: 'canceled' } },
  });
  outward = openPtyPair({ readerLink: join(at.dir, 'reader-out'), guestLink: join(at.dir, 'guest-out') });
  mkdirSync(join(at.dir, 'conf.d'));
  writeFileSync(
    join(at.dir, 'conf.d/two-ways.yaml'),
    'readers: [{ name: in, path: ../reader }, { name: out, path: ../reader-out, direction: out }]\nturnstile: { exit: code, release: hold }\n',
  );
});
afterEach(() => at.killAll());
afterAll(() => {
  outward.close();
  at.remove();
});

type Entry = Readonly<Record<string, unknown>> & { readonly kind: string };
const rows = async (): Promise<Entry[]> =>
  (JSON.parse((await at.cli('ledger', 'ls', '-n', '500', '--json')).stdout) as { entry: Entry }[]).map(({ entry }) => entry);
/** Tells whether a row is a passage of a grant. A guest who left while the gate was starting has a passage without `of`. */
const isPassage = ({ kind, of }: Entry): boolean => kind === 'passage' && of !== undefined;
const leave = (text: string | Uint8Array) => writeFileSync(join(at.dir, 'guest-out'), text);

/** Shows something to the outward reader and waits until the lane has opened for it and somebody has gone through. */
async function letsOut(outputs: { readonly seen: string[] }, what: string, text: string | Uint8Array): Promise<void> {
  const before = outputs.seen.filter((change) => change === 'release_out on').length;
  // What is written before the reader is open is nobody's.
  await until(at.status, ({ readers }) => readers.every(({ ok }) => ok));
  leave(text);
  await until(
    () => `${what}: ${outputs.seen.filter((change) => change === 'release_out on').length}`,
    (now) => now === `${what}: ${before + 1}`,
  );
  await until(
    () => outputs.seen,
    (seen) => seen.lastIndexOf('green_out off') > seen.lastIndexOf('green_out on'),
  );
}

test('whatever is shown outwards opens at once, in every mode; what matches no admission is a row of its own', async () => {
  const gate = await at.start();
  const outputs = at.outputs();
  await letsOut(outputs, 'unknown', 'NOT-A-TICKET-OF-OURS-0001\r\n');
  await letsOut(outputs, 'garbage', Buffer.concat([Buffer.from([0xff, 0xfe, 0x80, 0x81, 0x82, 0x83]), Buffer.from('\r\n')]));
  await letsOut(outputs, 'blocked', `${codeOf(2)}\r\n`);
  await letsOut(outputs, 'cancelled', `${codeOf(3)}\r\n`);
  await letsOut(outputs, 'no entry known', `${codeOf(4)}\r\n`);
  expect(await at.cli('mode', 'locked', '--reason', 'full', '--actor', 'lead-1')).toMatchObject({ code: 0 });
  await letsOut(outputs, 'locked', `${codeOf(5)}\r\n`);
  expect(await at.cli('mode', 'out_of_service', '--direction', 'out', '--reason', 'x', '--actor', 'lead-1')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('--confirm-exit-closed'),
  });
  await letsOut(outputs, 'not confirmed', `${codeOf(6)}\r\n`);
  expect((await at.status()).modes).toMatchObject({ in: { mode: 'locked' }, out: { mode: 'controlled' } });
  const written = await until(rows, (found) => found.filter(isPassage).length === 7);
  expect(written.filter(({ kind }) => kind === 'exit_unmatched').map(({ direction, reason }) => [direction, reason])).toEqual([
    ['out', 'invalid'],
    ['out', 'unreadable'],
    ['out', 'blocked'],
    ['out', 'canceled'],
    ['out', 'passback'],
    ['out', 'passback'],
    ['out', 'passback'],
  ]);
  expect(written.filter(isPassage).map(({ direction, outcome }) => [direction, outcome])).toEqual(Array(7).fill(['out', 'free']));
  expect(written.filter(({ kind, outcome }) => kind === 'refusal' || outcome === 'forced')).toEqual([]);

  // The one order that closes it: it alarms, and does not outlive the process.
  expect(await at.cli('mode', 'locked', '--direction', 'out', '--confirm-exit-closed', '--reason', 'crush', '--actor', 'lead-1')).toMatchObject({ code: 0 });
  expect((await at.status()).alerts).toContainEqual(expect.objectContaining({ id: 'exit-closed', severity: 'critical' }));
  leave(`${codeOf(7)}\r\n`);
  await until(rows, (found) => found.some(({ kind, reason, direction }) => kind === 'refusal' && reason === 'gate_locked' && direction === 'out'));
  outputs.close();
  await at.end(gate, 'SIGKILL');
  await at.start();
  const after = at.outputs();
  await letsOut(after, 'after a restart', `${codeOf(7)}\r\n`);
  expect((await at.status()).alerts.map(({ id }) => id)).not.toContain('exit-closed');
  after.close();
});

test('a store that takes no row refuses nobody outwards; the rows follow when it does', async () => {
  await at.start();
  expect(await at.cli('mode', 'controlled', '--reason', 'doors', '--actor', 'lead-1')).toMatchObject({ code: 0 });
  const before = (await rows()).length;
  const outputs = at.outputs();
  const other = new DatabaseSync(join(at.dir, 'store/ledger.sqlite'));
  other.exec('BEGIN IMMEDIATE');
  await letsOut(outputs, 'while the store is held', 'NOT-A-TICKET-OF-OURS-0002\r\n');
  await letsOut(outputs, 'once more', `${codeOf(4)}\r\n`);
  other.exec('ROLLBACK');
  other.close();
  const written = await until(
    async () => (await rows()).slice(before),
    (found) => found.filter(isPassage).length === 2,
  );
  expect(written.filter(({ kind }) => kind === 'exit_unmatched')).toHaveLength(2);
  outputs.close();
});

test('without any store at all the lane opens outwards', async () => {
  mkdirSync(join(at.root, 'broken/ledger.sqlite'), { recursive: true });
  const { spawn } = await import('node:child_process');
  const gate = spawn(CHECKOUT_LAUNCHER, ['run', '--config', at.config], {
    stdio: 'ignore',
    env: { ...process.env, STILE_STORE_PATH: join(at.root, 'broken') },
  });
  try {
    await until(
      async () => (await at.status().catch(() => null))?.alerts.map(({ id }) => id) ?? [],
      (alerts) => alerts.includes('disk'),
    );
    const outputs = at.outputs();
    await letsOut(outputs, 'no store', 'NOT-A-TICKET-OF-OURS-0003\r\n');
    outputs.close();
  } finally {
    const ended = new Promise((resolve) => gate.once('exit', resolve));
    gate.kill('SIGKILL');
    await ended;
  }
});
