/** watch and sim on a real pseudo-terminal: keys in, pictures out, and the terminal as it was afterwards. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type IPty, spawn } from '@lydell/node-pty';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { CHECKOUT_LAUNCHER, codeOf, createTestGate, GATE, type TestGate, until } from '../../testkit/gate.ts';
import { cut } from './terminal.ts';

let at: TestGate;
const terminals: IPty[] = [];
beforeAll(async () => {
  at = await createTestGate();
});
afterEach(async () => {
  for (const terminal of terminals.splice(0)) terminal.kill('SIGKILL');
  await at.killAll();
});
afterAll(() => at.remove());

/** A command on a terminal of 100 × 30; `shows` waits until its last picture fits. */
function onTerminal(...args: string[]) {
  const terminal = spawn(CHECKOUT_LAUNCHER, [...args, '--config', at.config], {
    cols: 100,
    rows: 30,
    cwd: at.root,
    env: { ...process.env, NO_COLOR: '1' } as Record<string, string>,
  });
  terminals.push(terminal);
  let raw = '';
  terminal.onData((text) => {
    raw += text;
  });
  const ended = new Promise<number>((resolve) => terminal.onExit(({ exitCode }) => resolve(exitCode)));
  const picture = () => (raw.split('\x1b[H').at(-1) ?? '').replaceAll(/\x1b\[[0-9;?]*[A-Za-z]|\r/g, '');
  return {
    press: (keys: string) => terminal.write(keys),
    resize: (columns: number, rows: number) => terminal.resize(columns, rows),
    raw: () => raw,
    picture,
    shows: (pattern: RegExp) => until(picture, (text) => pattern.test(text)),
    ended,
  };
}

test('watch: lamps, mode, decisions with reasons, backlog, health; fits the terminal; q gives it back', async () => {
  const gate = await at.start();
  const screen = onTerminal('watch');
  await screen.shows(/arena\/north-03[\s\S]*in {2}○ ○ ○|arena\/north-03[\s\S]*in {2}. . ./);
  await screen.shows(/controlled, ready[\s\S]*counted[\s\S]*tickets {2}concert 20 tickets, made 1 h ago|made \d+ min ago/);
  await screen.shows(/ledger {3}row \d+[\s\S]*health {3}broker none {2}readers in ok {2}board ok/);
  at.show(codeOf(1));
  await screen.shows(/1 admission[\s\S]*admitted.*ticket t-1/);
  await until(at.status, (now) => now.signals.in === 'ready');
  at.show('NOT-A-TICKET-OF-OURS-0001');
  await screen.shows(/refused: not a ticket for this event/);
  await at.cli('mode', 'locked', '--reason', 'pause', '--actor', 'anna-7');
  await screen.shows(/locked, closed/);
  screen.resize(40, 12);
  await until(
    () => screen.picture().split('\n'),
    (lines) => lines.length <= 12 && lines.length > 3 && lines.every((line) => line.length <= 40),
  );
  screen.press('q');
  expect(await screen.ended).toBe(0);
  // The terminal's last bytes may come after the exit code.
  await until(screen.raw, (text) => /\x1b\[\?25h\x1b\[\?1049l$/.test(text));
  await at.cli('mode', 'controlled', '--reason', 'on', '--actor', 'anna-7');
  await at.end(gate, 'SIGTERM');
});

test('watch: a gate that goes away is told with its exit code', async () => {
  const gate = await at.start();
  const screen = onTerminal('watch');
  await screen.shows(/controlled, ready/);
  await at.end(gate, 'SIGKILL');
  expect(await screen.ended).toBe(69);
  await until(screen.raw, (text) => text.includes('the gate closed the connection'));
});

test('sim: a person shows codes, walks, stands still, gets stuck, presses the button, rings the fire loop', async () => {
  const gate = await at.start();
  const codes = join(at.root, 'codes.txt');
  writeFileSync(codes, `${codeOf(5)}\n${codeOf(6)}\n`);
  const screen = onTerminal('sim', '--codes', codes);
  await screen.shows(/you are the guest at the reader in[\s\S]*1-2 show a sample code/);
  screen.press('1');
  await screen.shows(/showed sample 1[\s\S]*admitted.*ticket t-5/);
  await until(at.status, (now) => now.totals.passages === 2 && now.signals.in === 'ready');
  // A code by hand, with a slip of the finger.
  screen.press('c');
  await screen.shows(/code: ▏/);
  screen.press(`${codeOf(7)}X`);
  screen.press('\x7f');
  screen.press('\r');
  await screen.shows(/showed your own code[\s\S]*admitted.*ticket t-7/);
  await until(at.status, (now) => now.totals.passages === 3 && now.signals.in === 'ready');
  screen.press('s');
  await screen.shows(/guests get stuck/);
  screen.press('2');
  await screen.shows(/admitted.*ticket t-6/);
  await screen.shows(/active: passage_in/);
  screen.press('u');
  await until(at.status, (now) => now.totals.passages === 4 && now.signals.in === 'ready');
  screen.press('n');
  await screen.shows(/guests do not walk/);
  await until(at.status, (now) => now.signals.in === 'ready');
  screen.press('b');
  await screen.shows(/opened by button/);
  screen.press('f');
  await screen.shows(/FIRE: the lane stands open/);
  screen.press('f');
  await screen.shows(/fire has cleared/);
  expect((await at.status()).fire).toEqual({ asserted: false, latched: true });
  screen.press('\x03');
  expect(await screen.ended).toBe(0);
  await at.cli('reset-emergency', '--reason', 'test', '--actor', 'anna-7');
  await at.end(gate, 'SIGTERM');
});

test('sim: a reader that is not there is plugged in, and can be pulled out', async () => {
  mkdirSync(join(at.dir, 'conf.d'), { recursive: true });
  writeFileSync(join(at.dir, 'conf.d/reader.yaml'), 'readers: [{ name: in, path: ../wire/reader-in }]\n');
  mkdirSync(join(at.dir, 'wire'));
  const gate = await at.start();
  expect((await at.status()).readers).toMatchObject([{ ok: false }]);
  const screen = onTerminal('sim', '--code', codeOf(8));
  await screen.shows(/readers in ok/);
  screen.press('p');
  await screen.shows(/readers in down/);
  screen.press('p');
  await screen.shows(/readers in ok/);
  screen.press('w');
  await until(at.status, (now) => now.signals.in === 'ready');
  screen.press('1');
  await screen.shows(/admitted.*ticket t-8/);
  screen.press('q');
  expect(await screen.ended).toBe(0);
  await at.end(gate, 'SIGTERM');
});

test('without a terminal: watch gives lines, sim says what to do', async () => {
  const gate = await at.start();
  expect(await at.cli('sim')).toMatchObject({ code: 2, stderr: expect.stringContaining('needs a terminal') });
  expect((await at.cli('sim', '--help')).stdout).toMatch(/Keys: 1-9 show a sample code[\s\S]*s get stuck/);
  expect(GATE).toBe((await at.status()).gate);
  await at.end(gate, 'SIGTERM');
});

test.each([
  ['short', 10, 'short'],
  ['exactly-10', 10, 'exactly-10'],
  ['longer than ten', 10, 'longer th…'],
  ['\x1b[31mred and long\x1b[0m', 5, '\x1b[31mred …\x1b[0m'],
])('%j cut at %d', (line, columns, expected) => {
  expect(cut(line, columns)).toBe(expected);
});
