import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { afterEach, expect, test } from 'vitest';
import { until } from '../daemon/link/testing/ports.ts';
import { loadLibc } from './libc.ts';
import { createSdNotify } from './sd-notify.ts';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const MSG_DONTWAIT = 0x40;
const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const clean of cleanups.splice(0)) clean();
});

/** A real datagram socket, as systemd has one. */
function listen(name: Buffer): () => string[] {
  const library = koffi.load(null);
  const fd = loadLibc().socket(AF_UNIX, SOCK_DGRAM, 0);
  const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), name]);
  expect(library.func('int bind(int, uint8_t *, uint32_t)')(fd, address, address.byteLength)).toBe(0);
  const recv = library.func('long recv(int, _Out_ uint8_t *, size_t, int)');
  const close = library.func('int close(int)');
  cleanups.push(() => close(fd));
  const got: string[] = [];
  return () => {
    const buffer = Buffer.alloc(4096);
    for (let n = Number(recv(fd, buffer, buffer.length, MSG_DONTWAIT)); n > 0; n = Number(recv(fd, buffer, buffer.length, MSG_DONTWAIT)))
      got.push(buffer.subarray(0, n).toString());
    return got;
  };
}

for (const abstract of [false, true]) {
  test(`tells systemd over ${abstract ? 'an abstract name' : 'a path'}, in order, also what was said while the library was loaded`, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'stile-notify-'));
    cleanups.push(() => rmSync(folder, { recursive: true }));
    const path = join(folder, 'notify');
    const received = listen(Buffer.from(abstract ? `\0${path}` : `${path}\0`));
    const failures: string[] = [];
    const notify = createSdNotify({ socket: abstract ? `@${path}` : path, failed: (message) => failures.push(message) });
    expect(notify.active).toBe(true);
    notify.ready('gate arena/north-03\nREADY=0, 2 events');
    notify.watchdog();
    await until('both', () => received().length === 2);
    notify.status('online');
    notify.stopping();
    expect(received()).toEqual(['READY=1\nSTATUS=gate arena/north-03 READY=0, 2 events', 'WATCHDOG=1', 'STATUS=online', 'STOPPING=1\nSTATUS=stopping']);
    expect(failures).toEqual([]);
  });
}

test('is silent where nobody asked, and says once where it cannot', async () => {
  const before = process.env['NOTIFY_SOCKET'];
  delete process.env['NOTIFY_SOCKET'];
  const quiet = createSdNotify({ failed: () => expect.unreachable() });
  expect(quiet.active).toBe(false);
  quiet.ready('x');
  if (before !== undefined) process.env['NOTIFY_SOCKET'] = before;

  const failures: string[] = [];
  const failed = (message: string) => failures.push(message);
  createSdNotify({ socket: 'relative', failed }).watchdog();
  createSdNotify({ socket: `/${'x'.repeat(200)}`, failed }).watchdog();
  expect(failures).toHaveLength(2);
  const nobody = createSdNotify({ socket: '/nonexistent/notify', libc: loadLibc, failed });
  nobody.watchdog();
  nobody.watchdog();
  expect(failures).toHaveLength(3);
});
