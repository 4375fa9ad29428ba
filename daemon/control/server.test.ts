/** The bounds of the control socket over a real one: each holds, and none takes another client with it. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { type Control, ControlError, createControl, type Handlers, MAX_CALLS, MAX_CLIENTS, MAX_LINE_BYTES } from './server.ts';

const endings: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

const ECHO: Handlers = { echo: async (args) => args };

async function served(handlers: Handlers = ECHO, group = 'no-such-group-here') {
  const folder = mkdtempSync(join(tmpdir(), 'stile-control-'));
  endings.push(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'gate.sock');
  const warnings: string[] = [];
  const control: Control = createControl({ socket: path, group, handlers, warn: (message) => warnings.push(message) });
  await control.open();
  endings.push(() => control.close());
  return { path, folder, control, warnings };
}

interface Line {
  readonly id: unknown;
  readonly ok?: boolean;
  readonly data?: unknown;
  readonly item?: unknown;
  readonly error?: { readonly code: string; readonly message: string };
}
/** Connects. `lines` are the answers so far; `closed` resolves when the gate has ended the connection. */
async function clientOf(path: string) {
  const lines: Line[] = [];
  const socket: Socket = connect(path);
  endings.push(() => socket.destroy());
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    const parts = text.split('\n');
    text = parts.pop() ?? '';
    lines.push(...parts.map((part) => JSON.parse(part) as Line));
  });
  socket.on('error', () => undefined);
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  await new Promise<void>((resolve) => socket.once('connect', () => resolve()));
  return { socket, lines, closed, say: (line: string) => void socket.write(`${line}\n`) };
}
const answer = (lines: readonly Line[], id: unknown) => expect.poll(() => lines.find((line) => line.id === id && line.ok !== undefined));

test('the control socket closes a client that does not read, and answers the others', async () => {
  const { path } = await served({
    ...ECHO,
    pour: async (_args, { send, gone }) => {
      const item = 'x'.repeat(64 * 1024);
      // Twice what the socket and the bound hold together; whoever pours without looking must not fill the memory.
      for (let sent = 0; sent < 256 && !gone.aborted; sent++) send(item);
      return {};
    },
  });
  const slow = await clientOf(path);
  slow.socket.pause();
  slow.say('{"id":1,"call":"pour"}');
  const other = await clientOf(path);
  other.say('{"id":2,"call":"echo","args":{"a":1}}');
  await answer(other.lines, 2).toMatchObject({ ok: true, data: { a: 1 } });
  slow.socket.resume();
  await slow.closed;
  expect(slow.lines.every(({ ok }) => ok === undefined)).toBe(true);
});

test.each([
  ['with its end', `${'x'.repeat(MAX_LINE_BYTES + 1)}\n`],
  ['without an end', 'x'.repeat(MAX_LINE_BYTES + 1)],
])('the control socket closes a client whose line is too long, %s, before the line is read', async (_name, text) => {
  const { path } = await served();
  const client = await clientOf(path);
  client.socket.write(text);
  await client.closed;
  expect(client.lines).toEqual([]);
});

test('a line of the longest length is answered, with whatever it came beside', async () => {
  const { path } = await served();
  const client = await clientOf(path);
  const head = '{"id":1,"call":"echo","args":{"text":"';
  client.say(`{"id":0,"call":"echo"}\n\n${head}${'x'.repeat(MAX_LINE_BYTES - head.length - 3)}"}}`);
  await answer(client.lines, 0).toMatchObject({ ok: true });
  await answer(client.lines, 1).toMatchObject({ ok: true });
});

test('one client more than there may be is told so and closed; one that leaves makes room', async () => {
  const { path } = await served();
  const clients = await Promise.all(Array.from({ length: MAX_CLIENTS }, () => clientOf(path)));
  for (const client of clients) client.say('{"id":1,"call":"echo"}');
  for (const client of clients) await answer(client.lines, 1).toMatchObject({ ok: true });
  const further = await clientOf(path);
  await further.closed;
  expect(further.lines).toMatchObject([{ id: null, ok: false, error: { code: 'busy' } }]);
  clients[0]?.socket.destroy();
  await expect
    .poll(async () => {
      const again = await clientOf(path);
      again.say('{"id":9,"call":"echo"}');
      await expect.poll(() => again.lines.length).toBe(1);
      return again.lines[0];
    })
    .toMatchObject({ id: 9, ok: true });
});

test('one call more than a client may have under way is refused; one that ends makes room', async () => {
  const held: (() => void)[] = [];
  const { path } = await served({ hold: () => new Promise((resolve) => held.push(() => resolve({}))) });
  const client = await clientOf(path);
  for (let id = 0; id <= MAX_CALLS; id++) client.say(`{"id":${id},"call":"hold"}`);
  await answer(client.lines, MAX_CALLS).toMatchObject({ ok: false, error: { code: 'busy' } });
  expect(held).toHaveLength(MAX_CALLS);
  held[0]?.();
  await answer(client.lines, 0).toMatchObject({ ok: true });
  client.say('{"id":"again","call":"hold"}');
  await expect.poll(() => held.length).toBe(MAX_CALLS + 1);
});

test.each([
  ['{"id":', null, 'malformed'],
  ['null', null, 'malformed'],
  ['{"id":1}', 1, 'malformed'],
  ['{"id":1,"call":5}', 1, 'malformed'],
  ['{"id":1,"call":"echo","args":null}', 1, 'malformed'],
  ['{"id":1,"call":"echo","args":"x"}', 1, 'malformed'],
  ['{"id":1,"call":"toString"}', 1, 'unknown_call'],
  ['{"id":1,"call":"constructor"}', 1, 'unknown_call'],
  ['{"id":1,"call":"refuse"}', 1, 'refused'],
  ['{"id":1,"call":"break"}', 1, 'failed'],
])('the control socket answers %s by name, and the connection goes on', async (line, id, code) => {
  const { path } = await served({
    ...ECHO,
    refuse: async () => {
      throw new ControlError('refused', 'not now');
    },
    break: async () => {
      throw new Error('planted');
    },
  });
  const client = await clientOf(path);
  client.say(line);
  await expect.poll(() => client.lines).toMatchObject([{ id, ok: false, error: { code } }]);
  client.say('{"id":2,"call":"echo"}');
  await answer(client.lines, 2).toMatchObject({ ok: true });
});

test('a call is told when its client has gone, and when the gate stops', async () => {
  const signals: AbortSignal[] = [];
  const { path, control } = await served({
    watch: (_args, { gone }) => {
      signals.push(gone);
      return new Promise(() => undefined);
    },
  });
  for (const _ of [1, 2]) (await clientOf(path)).say('{"id":1,"call":"watch"}');
  const leaves = await clientOf(path);
  leaves.say('{"id":1,"call":"watch"}');
  await expect.poll(() => signals.length).toBe(3);
  leaves.socket.destroy();
  await expect.poll(() => signals.filter(({ aborted }) => aborted).length).toBe(1);
  await control.close();
  await expect.poll(() => signals.filter(({ aborted }) => aborted).length).toBe(3);
});

test('the control socket is its owner’s alone where the group does not exist, and says so', async () => {
  const { path, warnings } = await served();
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(warnings).toEqual([expect.stringContaining('no such group')]);
});

test.skipIf(process.getuid?.() !== 0)('the control socket is open to its group alone', async () => {
  const { path, warnings } = await served(ECHO, 'root');
  expect(statSync(path).mode & 0o777).toBe(0o660);
  expect(warnings).toEqual([]);
});

test('a socket that a killed gate left is replaced; one that answers, and a file that is no socket, are left alone', async () => {
  const { path, folder } = await served();
  const second = createControl({ socket: path, group: 'x', handlers: ECHO, warn: () => undefined });
  await expect(second.open()).rejects.toThrow(/another gate is running/);
  const client = await clientOf(path);
  client.say('{"id":1,"call":"echo"}');
  await answer(client.lines, 1).toMatchObject({ ok: true });

  const file = join(folder, 'precious');
  writeFileSync(file, 'kept');
  await expect(createControl({ socket: file, group: 'x', handlers: ECHO, warn: () => undefined }).open()).rejects.toThrow(/is no socket/);
  expect(existsSync(file)).toBe(true);

  const left = join(folder, 'left.sock');
  const child = spawnSync(process.execPath, [
    '-e',
    `require('node:net').createServer().listen(${JSON.stringify(left)}, () => process.kill(process.pid, 'SIGKILL'))`,
  ]);
  expect([child.signal, existsSync(left)]).toEqual(['SIGKILL', true]);
  const third = createControl({ socket: left, group: 'x', handlers: ECHO, warn: () => undefined });
  await third.open();
  endings.push(() => third.close());
  const again = await clientOf(left);
  again.say('{"id":1,"call":"echo"}');
  await answer(again.lines, 1).toMatchObject({ ok: true });
});
