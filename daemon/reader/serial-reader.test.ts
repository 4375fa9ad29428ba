/** The real serialport on real pseudo-terminals. */
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, realpathSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SerialPort } from 'serialport';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Reader, ReaderEvent } from '../ports.ts';
import { openPtyPair, type PtyPair } from '../sim/pty-pair.ts';
import { createSerialReader, REOPEN_FIRST_MS, REOPEN_MAX_MS, reopenWaitMs, type SerialReaderOptions } from './serial-reader.ts';

const clock = { boottimeMs: () => performance.now() };
let folder: string;
let pair: PtyPair;
let reader: Reader | null = null;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'stile-reader-'));
  pair = openPtyPair({ readerLink: join(folder, 'reader'), guestLink: join(folder, 'guest') });
});
afterEach(async () => {
  await reader?.close();
  reader = null;
  pair.close();
  rmSync(folder, { recursive: true, force: true });
});

function read(options: Partial<SerialReaderOptions> = {}): ReaderEvent[] {
  const events: ReaderEvent[] = [];
  reader = createSerialReader({ name: 'in', direction: 'in', path: pair.readerPath, baud: 115_200, frame: 'crlf', ...options }, clock);
  reader.open((event) => events.push(event));
  return events;
}

/** Not synchronously: the pair is joined in this process, and a full wire would wait for it for ever. */
const show = (bytes: string | Uint8Array): Promise<void> => writeFile(pair.guestPath, typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes);

const frames = (events: ReaderEvent[]): string[] => events.flatMap((event) => (event.kind === 'frame' ? [Buffer.from(event.bytes).toString('latin1')] : []));
const kinds = (events: ReaderEvent[]): string[] => events.flatMap(({ kind }) => (kind === 'bytes' ? [] : [kind]));
const isUp = () => expect.poll(() => reader?.ok(), { interval: 5 }).toBe(true);
const readFrames = (events: ReaderEvent[], wanted: string[]) => expect.poll(() => frames(events), { interval: 5 }).toEqual(wanted);

describe.each([9_600, 19_200, 38_400, 57_600, 115_200])('at %i baud', (baud) => {
  test('codes arrive', async () => {
    const events = read({ baud });
    await isUp();
    await show('CODE-1\r\nCODE-2\r');
    await readFrames(events, ['CODE-1', 'CODE-2']);
  });
});

test.each([
  ['cr', 'A\rB\r\n'],
  ['lf', 'A\nB\r\n'],
  ['stx_etx', '\x02A\x03\x02B\x03\r\n'],
] as const)('%s-ended codes arrive', async (frame, wire) => {
  const events = read({ frame });
  await isUp();
  await show(wire);
  await readFrames(events, ['A', 'B']);
});

test('a code that comes in pieces is told of once, before it is whole; one that comes at once, and what ends nothing, is not', async () => {
  const events = read();
  await isUp();
  await show('AT ONCE\r\n');
  await readFrames(events, ['AT ONCE']);
  expect(kinds(events)).not.toContain('coming');
  const comings = () => events.filter(({ kind }) => kind === 'coming').length;
  await show('IN ');
  await expect.poll(comings, { interval: 5 }).toBe(1);
  await show('TWO ');
  await show('PIECES');
  await show('\r');
  await readFrames(events, ['AT ONCE', 'IN TWO PIECES']);
  await show('\n\r\n');
  await show('X');
  await expect.poll(comings, { interval: 5 }).toBe(2);
  expect(kinds(events)).toEqual(['up', 'frame', 'coming', 'frame', 'coming']);
});

test('a code ended by silence arrives by itself, in a process that does nothing else', async () => {
  // Longer than a busy machine keeps this process waiting between two writes.
  const events = read({ frame: 'silence', silenceMs: 600 });
  await isUp();
  await show('SIL');
  await show('ENT');
  await readFrames(events, ['SILENT']);
  await show('AGAIN');
  await readFrames(events, ['SILENT', 'AGAIN']);
});

test("a person may type echo at the guest's end, again and again", async () => {
  const events = read();
  await isUp();
  execFileSync('/bin/sh', ['-c', 'for code in ONE TWO THREE; do echo "$code" > "$0"; done', pair.guestPath]);
  await readFrames(events, ['ONE', 'TWO', 'THREE']);
});

test('every byte gets through as it is, and rubbish does not stop the reader', async () => {
  const events = read();
  await isUp();
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index).filter((byte) => byte !== 10 && byte !== 13);
  await show(bytes);
  await show('\r');
  await readFrames(events, [Buffer.from(bytes).toString('latin1')]);
  for (let index = 0; index < 40; index++) await show(new Uint8Array(4_000).fill(index % 2 === 0 ? 0 : 0xff));
  await show('\rGOOD\r\n');
  await expect.poll(() => frames(events).at(-1)).toBe('GOOD');
  expect(events.filter((event) => event.kind === 'garbled' && event.why === 'too_long')).toHaveLength(1);
});

test('a path that leads to another device is noticed, and the reader behind it is read from then on', async () => {
  const other = openPtyPair({ readerLink: join(folder, 'other-reader'), guestLink: join(folder, 'other-guest') });
  try {
    const events = read();
    await isUp();
    await show('FIRST\r\n');
    await readFrames(events, ['FIRST']);
    symlinkSync(realpathSync(other.readerPath), join(folder, 'beside'));
    renameSync(join(folder, 'beside'), pair.readerPath);
    await expect.poll(() => kinds(events).filter((kind) => kind === 'up').length).toBe(2);
    expect(events.find((event) => event.kind === 'down')).toMatchObject({ fault: { cause: expect.stringContaining('another device') } });
    await writeFile(other.guestPath, 'SECOND\r\n');
    await expect.poll(() => frames(events)).toEqual(['FIRST', 'SECOND']);
  } finally {
    await reader?.close();
    other.close();
  }
});

test('a reader that is unplugged is down at once, and up again under the same path', async () => {
  const events = read();
  await isUp();
  for (let round = 1; round <= 3; round++) {
    pair.unplug();
    await expect.poll(() => reader?.ok(), { interval: 5 }).toBe(false);
    await show('LOST\r\n');
    pair.plug();
    await isUp();
    await show(`ROUND-${round}\r\n`);
    await expect.poll(() => frames(events).at(-1)).toBe(`ROUND-${round}`);
  }
  expect(frames(events)).toEqual(['ROUND-1', 'ROUND-2', 'ROUND-3']);
  expect(kinds(events).filter((kind) => kind === 'up')).toHaveLength(4);
  const down = events.find((event) => event.kind === 'down');
  expect(down).toMatchObject({
    reader: 'in',
    fault: { healsItself: true, cause: expect.stringMatching(/hung up|unplugged|No such file/), hint: expect.stringContaining('plug the reader in') },
  });
});

// On a busy machine one try may be late; where only the look at the path finds it, every one is.
test('a plug that is pulled in the very moment in which a code arrives is seen at once', { retry: 9 }, async () => {
  // serialport's own read, already under way then, takes the hang-up for "nothing yet" and asks again for ever.
  const events: ReaderEvent[] = [];
  reader = createSerialReader({ name: 'in', direction: 'in', path: pair.readerPath, baud: 115_200, frame: 'crlf' }, clock);
  reader.open((event) => {
    events.push(event);
    if (event.kind === 'frame') pair.unplug();
  });
  await isUp();
  await show('CODE\r\n');
  // Before the path is looked at, which is every 2 s: that would find it as well.
  await expect.poll(() => kinds(events).slice(0, 3), { timeout: 1_000, interval: 5 }).toEqual(['up', 'frame', 'down']);
});

// On a busy machine one try may be late; where only the timer finds it, every one is.
test('a code is reported when it arrives, in a process in which nothing else happens', { retry: 9 }, async () => {
  const arrived = Promise.withResolvers<void>();
  reader = createSerialReader({ name: 'in', direction: 'in', path: pair.readerPath, baud: 115_200, frame: 'crlf' }, clock);
  reader.open((event) => event.kind === 'frame' && arrived.resolve());
  await isUp();
  // Written from outside and quietly: neither a timer nor the end of a child turns this process's loop meanwhile.
  const guest = spawn('/bin/sh', ['-c', 'sleep 0.3; echo CODE > "$0"; exec sleep 10', pair.guestPath], { stdio: 'ignore' });
  const beganMs = performance.now();
  await arrived.promise;
  // serialport's own read would go on with the next timer, which is that of the path, 2 s after the port was opened.
  expect(performance.now() - beganMs).toBeLessThan(1_500);
  guest.kill();
});

test('a half-read code does not survive the plug', async () => {
  const events = read();
  await isUp();
  await show('HALF');
  pair.unplug();
  await expect.poll(() => reader?.ok(), { interval: 5 }).toBe(false);
  pair.plug();
  await isUp();
  await show('WHOLE\r\n');
  await readFrames(events, ['WHOLE']);
});

test('a port that is not there at the start is waited for', async () => {
  pair.unplug();
  const events = read();
  await expect.poll(() => kinds(events)).toEqual(['down']);
  pair.plug();
  await isUp();
  await show('CODE\r\n');
  await readFrames(events, ['CODE']);
});

test('a port that another program has locked is waited for, with a hint', async () => {
  const other = new SerialPort({ path: pair.readerPath, baudRate: 9_600, autoOpen: false });
  await new Promise<void>((resolve, reject) => other.open((error) => (error ? reject(error) : resolve())));
  const events = read();
  await expect.poll(() => kinds(events)).toEqual(['down']);
  expect(events[0]).toMatchObject({ fault: { cause: expect.stringContaining('lock'), hint: expect.stringContaining('another program') } });
  await new Promise((resolve) => other.close(resolve));
  await isUp();
  await show('CODE\r\n');
  await readFrames(events, ['CODE']);
});

test('a file that is no port is a fault, not a crash', async () => {
  const path = join(folder, 'file');
  closeSync(openSync(path, 'w'));
  const events = read({ path });
  await expect.poll(() => kinds(events)).toEqual(['down']);
  expect(reader?.ok()).toBe(false);
});

test('nothing is reported after close, and the port is free', async () => {
  const events = read();
  await isUp();
  await reader?.close();
  events.length = 0;
  await show('LATE\r\n');
  const next = read();
  await isUp();
  await show('CODE\r\n');
  await expect.poll(() => frames(next).at(-1)).toBe('CODE');
  expect(events).toEqual([]);
});

test('closing while it waits or opens ends it', async () => {
  for (const plugged of [true, false]) {
    if (!plugged) pair.unplug();
    const events = read();
    await reader?.close();
    const count = events.length;
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect([events.length, reader?.ok()]).toEqual([count, false]);
  }
});

test('the wait before reopening grows, is jittered and bounded', () => {
  expect([reopenWaitMs(0, 1), reopenWaitMs(1, 1), reopenWaitMs(2, 1)]).toEqual([REOPEN_FIRST_MS, REOPEN_FIRST_MS * 2, REOPEN_FIRST_MS * 4]);
  expect([reopenWaitMs(1_000_000, 1), reopenWaitMs(1_000_000, 0)]).toEqual([REOPEN_MAX_MS, REOPEN_MAX_MS / 2]);
});
