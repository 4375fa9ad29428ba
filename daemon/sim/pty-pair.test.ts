import { execFileSync } from 'node:child_process';
import { closeSync, constants, existsSync, mkdtempSync, openSync, readlinkSync, readSync, rmSync, writeSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openPtyPair, type PtyPair } from './pty-pair.ts';

let folder: string;
let pair: PtyPair | null = null;
const ends: number[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'stile-pty-'));
});
afterEach(() => {
  for (const fd of ends.splice(0)) closeSync(fd);
  pair?.close();
  pair = null;
  rmSync(folder, { recursive: true, force: true });
});

const hold = (path: string): number => {
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOCTTY);
  ends.push(fd);
  return fd;
};
/** Reads the bytes that wait there now. */
function taken(fd: number): string {
  const buffer = Buffer.alloc(65_536);
  try {
    return buffer.toString('latin1', 0, readSync(fd, buffer));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return '';
    throw error;
  }
}
async function collect(fd: number, length: number): Promise<string> {
  let text = '';
  await expect.poll(() => (text += taken(fd)).length, { timeout: 5_000, interval: 2 }).toBeGreaterThanOrEqual(length);
  return text;
}

test('what a guest writes arrives as it was written, and nothing comes back', async () => {
  pair = openPtyPair();
  const daemon = hold(pair.readerPath);
  const guest = hold(pair.guestPath);
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
  writeSync(guest, bytes);
  expect(await collect(daemon, 256)).toBe(bytes.toString('latin1'));
  expect(taken(guest)).toBe('');
});

test('what the daemon says to its reader arrives too', async () => {
  pair = openPtyPair();
  const guest = hold(pair.guestPath);
  writeSync(hold(pair.readerPath), '~\r\n\x03');
  expect(await collect(guest, 4)).toBe('~\r\n\x03');
});

test('a shell may write again and again, and more than the wire holds at once', async () => {
  pair = openPtyPair({ readerLink: join(folder, 'reader'), guestLink: join(folder, 'guest') });
  const daemon = hold(pair.readerPath);
  for (const code of ['ONE', 'TWO']) execFileSync('/bin/sh', ['-c', 'echo "$1" > "$0"', pair.guestPath, code]);
  expect(await collect(daemon, 8)).toBe('ONE\nTWO\n');
  const long = Array.from({ length: 5_000 }, (_, index) => `code-${index}\n`).join('');
  const written = writeFile(pair.guestPath, long);
  expect(await collect(daemon, long.length)).toBe(long);
  await written;
});

test('pulling the plug hangs the daemon up and takes the link away; plugging in brings both back', async () => {
  const readerLink = join(folder, 'reader');
  pair = openPtyPair({ readerLink });
  const before = hold(pair.readerPath);
  pair.unplug();
  pair.unplug();
  expect([pair.plugged, existsSync(readerLink)]).toEqual([false, false]);
  expect(readSync(before, Buffer.alloc(10))).toBe(0);
  await writeFile(pair.guestPath, 'lost\n');
  await new Promise((resolve) => setTimeout(resolve, 50));
  pair.plug();
  pair.plug();
  expect([pair.plugged, pair.readerPath]).toEqual([true, readerLink]);
  const after = hold(pair.readerPath);
  await writeFile(pair.guestPath, 'found\n');
  expect(await collect(after, 6)).toBe('found\n');
});

test('links that another run left behind are replaced, and gone after close', () => {
  const links = { readerLink: join(folder, 'reader'), guestLink: join(folder, 'guest') };
  execFileSync('ln', ['-s', '/nowhere', links.readerLink]);
  pair = openPtyPair(links);
  expect(readlinkSync(links.readerLink)).toMatch(/^\/dev\/pts\/\d+$/);
  pair.close();
  pair.close();
  expect([existsSync(links.readerLink), existsSync(links.guestLink)]).toEqual([false, false]);
});

test('a daemon that does not read does not stop the pair for good', async () => {
  pair = openPtyPair();
  await writeFile(pair.guestPath, 'x'.repeat(20_000));
  pair.unplug();
  pair.plug();
  const daemon = hold(pair.readerPath);
  await writeFile(pair.guestPath, 'y\n');
  await expect.poll(() => taken(daemon).endsWith('y\n')).toBe(true);
});
