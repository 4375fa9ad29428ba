import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { InputName, OutputName } from '../ports.ts';
import type { Level } from './pin-map.ts';
import { createSimBoard, type SimBoard } from './sim-board.ts';
import { BOARD_CONTRACT, CONTRACT_LANE, CONTRACT_LANES } from './testing/board-conformance.ts';

const clock = { boottimeMs: () => performance.now() };
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'stile-sim-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const lane = () => ({ ...CONTRACT_LANE, simSocket: join(folder, 'sim.sock'), simGuest: false });
const wire = (output: OutputName): Level => (readFileSync(join(folder, 'sim.sock.wires', output), 'utf8').trim() === '1' ? 'high' : 'low');

describe.each(CONTRACT_LANES)('the simulated board, $polarity, keeps the contract:', ({ lane: wired }) => {
  test.each(BOARD_CONTRACT)('$name', async ({ run }) => {
    const board = createSimBoard({ config: { ...lane(), ...wired } }, clock);
    const drive = (input: InputName, level: Level): void => board.setInput(input, level === wired.inputs[input]?.active);
    await run({ board, lane: wired, wire, drive, breakWrites: (broken) => board.injectFault(broken ? 'write' : 'none') });
  });
});

/** Talks to the socket; `seen` waits for the first message that fits. */
async function dial(path: string) {
  const client = connect(path);
  const messages: Record<string, unknown>[] = [];
  let rest = '';
  client.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() ?? '';
    messages.push(...lines.map((line) => JSON.parse(line) as Record<string, unknown>));
  });
  await new Promise<void>((resolve, reject) => client.once('connect', resolve).once('error', reject));
  return {
    messages,
    say: (value: unknown) => client.write(`${typeof value === 'string' ? value : JSON.stringify(value)}\n`),
    seen: (what: (message: Record<string, unknown>) => boolean) => expect.poll(() => messages.findLast(what), { timeout: 5_000, interval: 5 }).toBeDefined(),
    gone: () => expect.poll(() => client.closed).toBe(true),
    end: () => client.destroy(),
  };
}

test('a person at the socket sees the lane and takes part in it', async () => {
  writeFileSync(join(folder, 'sim.sock'), 'left behind');
  const board = createSimBoard({ config: { ...lane(), simGuest: true, simPassageMs: 20 } }, clock);
  const inputs: string[] = [];
  await board.open(
    ({ input, active }) => inputs.push(`${input} ${active}`),
    () => {},
  );
  const person = await dial(join(folder, 'sim.sock'));
  await person.seen(({ snapshot }) => (snapshot as { outputs: object } | undefined)?.outputs !== undefined);
  inputs.length = 0;

  person.say({ walk: { delay_ms: 5 } });
  await person.seen(({ ok }) => ok === true);
  board.write('stop', false);
  board.write('release_in', true);
  await person.seen(({ output, active }) => output === 'release_in' && active === true);
  await person.seen(({ input, active }) => input === 'passage_in' && active === false);
  expect(inputs).toEqual(['passage_in true', 'passage_in false']);

  person.say({ input: 'fire', active: true });
  await person.seen(({ input, active }) => input === 'fire' && active === true);
  expect(board.read('fire')).toBe(true);

  person.say({ fault: 'write', times: 1 });
  await expect.poll(() => person.messages.filter(({ ok }) => ok === true).length).toBe(3);
  expect(() => board.write('green_in', true)).toThrow(/EIO/);
  board.write('green_in', true);
  expect(wire('green_in')).toBe('low');
  person.end();
  await board.close({ releaseOpen: false });
});

test('nonsense at the socket is answered and stops nothing', async () => {
  const board = createSimBoard({ config: lane() }, clock);
  await board.open(
    () => {},
    () => {},
  );
  const person = await dial(join(folder, 'sim.sock'));
  const nonsense = [
    '{',
    '7',
    '{}',
    { input: 'door', active: true },
    { input: 'fire', active: 1 },
    { input: 'beam_a', active: true },
    { walk: { mode: 'fly' } },
    { walk: { rotate_ms: -1 } },
    { walk: { speed: 1 } },
    { walk: 3 },
    { guest: 'up' },
    { fault: 'all' },
    { fault: 'write', times: 0 },
  ];
  for (const line of nonsense) person.say(line);
  await expect.poll(() => person.messages.filter(({ error }) => typeof error === 'string').length).toBe(nonsense.length);
  person.say('x'.repeat(100_000));
  await person.gone();
  expect(board.ok()).toBe(true);
  const next = await dial(join(folder, 'sim.sock'));
  next.say({ snapshot: true });
  await expect.poll(() => next.messages.filter(({ snapshot }) => snapshot !== undefined).length).toBe(2);
  await board.close({ releaseOpen: false });
  await next.gone();
});

test('a socket that cannot be had is a fault with a hint', async () => {
  const board: SimBoard = createSimBoard({ config: { ...lane(), simSocket: join(folder, 'x'.repeat(120)) } }, clock);
  await expect(
    board.open(
      () => {},
      () => {},
    ),
  ).rejects.toMatchObject({ fault: { hint: expect.stringContaining('sim_socket'), healsItself: false } });
});

test('draws its lamps, one line a change', async () => {
  const drawn: string[] = [];
  const board = createSimBoard({ config: { ...CONTRACT_LANE, simDraw: true, simGuest: false }, draw: (line) => drawn.push(line) }, clock);
  await board.open(
    () => {},
    () => {},
  );
  drawn.length = 0;
  board.write('release_in', true);
  board.write('green_in', true);
  board.write('green_in', true);
  await board.close({ releaseOpen: false });
  expect(drawn.slice(0, 2)).toEqual(['in: dark, open | out: dark | stop', 'in: green, open | out: dark | stop']);
});

test('begins open while the fire latch is set', async () => {
  const board = createSimBoard({ config: lane(), startOpen: () => true }, clock);
  await board.open(
    () => {},
    () => {},
  );
  expect([wire('release_in'), wire('release_out'), wire('stop')]).toEqual(['high', 'low', 'low']);
  await board.close({ releaseOpen: true });
});
