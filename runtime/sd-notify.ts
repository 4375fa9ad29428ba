/**
 * Notifies systemd: ready, alive, stopping. Calls the C library, since Node has no datagram sockets for paths, and only if
 * NOTIFY_SOCKET is set.
 */

import { cutText } from '../contract/text.ts';
import type { Libc } from './libc.ts';

export interface SdNotify {
  /** Sends READY=1 with a line that `systemctl status` shows. */
  ready(status: string): void;
  status(text: string): void;
  /** Sends WATCHDOG=1: call it only after the loop has turned. */
  watchdog(): void;
  stopping(): void;
  /** False: NOTIFY_SOCKET is not set or not usable. */
  readonly active: boolean;
}

const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
/** Flags: never blocks and raises no SIGPIPE. */
const MSG_DONTWAIT_NOSIGNAL = 0x40 | 0x4000;
/** sun_path. */
const MAX_PATH_BYTES = 108;
const MAX_STATUS_CHARS = 200;

/** Most lines queued while the C library loads; further ones are dropped. */
const MAX_WAITING = 16;

export interface SdNotifyOptions {
  /** Default: NOTIFY_SOCKET of the environment. */
  readonly socket?: string | undefined;
  /** Returns the C library, where it is at hand; else it is loaded when it is needed. */
  readonly libc?: () => Pick<Libc, 'socket' | 'sendto'>;
  /** Runs once, when NOTIFY_SOCKET is set but not usable. */
  readonly failed?: (message: string) => void;
}

/** Makes the notifier. Never throws. The C library is loaded only where there is a socket to notify. */
export function createSdNotify(options: SdNotifyOptions = {}): SdNotify {
  const path = options.socket ?? process.env['NOTIFY_SOCKET'] ?? '';
  const plain = (text: string) => cutText(text.replace(/[\r\n]+/g, ' '), MAX_STATUS_CHARS);
  let waiting: string[] = [];
  let send: ((text: string) => void) | null = null;
  let reported = false;
  const fail = (why: string) => {
    if (!reported) options.failed?.(`notifying systemd failed: ${why}`);
    reported = true;
  };
  const address = path === '' ? null : socketAddress(path);
  if (typeof address === 'string') fail(address);
  const begin = (libc: Pick<Libc, 'socket' | 'sendto'>, to: Buffer) => {
    send = openSocket(libc, to, fail);
    for (const lines of waiting) send?.(lines);
    waiting = [];
  };
  const broken = (error: unknown) => fail((error as Error).message);
  if (address instanceof Buffer && options.libc !== undefined) {
    try {
      begin(options.libc(), address);
    } catch (error) {
      broken(error);
    }
  } else if (address instanceof Buffer) {
    import('./libc.ts').then(({ loadLibc }) => begin(loadLibc(), address)).catch(broken);
  }
  const say = (lines: string) => {
    if (send !== null) send(lines);
    else if (address instanceof Buffer && !reported && waiting.length < MAX_WAITING) waiting.push(lines);
  };
  return {
    active: address instanceof Buffer,
    ready: (status) => say(`READY=1\nSTATUS=${plain(status)}`),
    status: (text) => say(`STATUS=${plain(text)}`),
    watchdog: () => say('WATCHDOG=1'),
    stopping: () => say('STOPPING=1\nSTATUS=stopping'),
  };
}

/** Builds a struct sockaddr_un, as long as it need be; a string says why not. */
function socketAddress(path: string): Buffer | string {
  if (!/^[@/]/.test(path)) return 'NOTIFY_SOCKET is neither a path nor an abstract name';
  // `@` stands for the zero byte of an abstract name, which has none at its end.
  const name = path.startsWith('@') ? Buffer.from(`\0${path.slice(1)}`) : Buffer.from(`${path}\0`);
  if (name.byteLength > MAX_PATH_BYTES) return 'NOTIFY_SOCKET is too long';
  const family = Buffer.alloc(2);
  // sa_family_t is in the machine's order; both of ours are little-endian.
  family.writeUInt16LE(AF_UNIX, 0);
  return Buffer.concat([family, name]);
}

function openSocket(libc: Pick<Libc, 'socket' | 'sendto'>, address: Buffer, fail: (why: string) => void): ((text: string) => void) | null {
  const fd = libc.socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
  if (fd < 0) {
    fail('no socket is available');
    return null;
  }
  return (text) => {
    const bytes = Buffer.from(text);
    if (libc.sendto(fd, bytes, bytes.byteLength, MSG_DONTWAIT_NOSIGNAL, address, address.byteLength) < 0) fail('sending failed');
  };
}
