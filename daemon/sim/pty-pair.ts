/**
 * A reader that exists only in software: two pseudo-terminals joined back to back. The daemon opens one end with the
 * real serialport; a person or a test writes codes into the other, as into a wire:
 *
 *   printf 'CODE\r\n' > /run/stile/guest-in
 *
 * Raw on both ends: nothing is echoed or translated. No root, no compiler: the C library is called directly (libc.ts).
 */
import { closeSync, constants, openSync, renameSync, rmSync, symlinkSync, writeSync } from 'node:fs';
import { ReadStream } from 'node:tty';
import { type Libc, loadLibc, TCSANOW, TERMIOS_BYTES } from '../../runtime/libc.ts';

export interface PtyPairOptions {
  /** Stable symlink to the daemon's end; it goes away with `unplug` and comes back with `plug`. */
  readonly readerLink?: string;
  /** Stable symlink to the guest's end. */
  readonly guestLink?: string;
}

export interface PtyPair {
  /** What the daemon opens: the link if there is one, else the device (which may be another after `plug`). */
  readonly readerPath: string;
  /** What guests write into. It may be opened and closed any number of times. */
  readonly guestPath: string;
  readonly plugged: boolean;
  /** Hangs up the daemon's end and removes its link, as pulling a USB plug does. What guests write is lost. */
  unplug(): void;
  plug(): void;
  close(): void;
}

/** The daemon's end takes nothing for so long (4 KiB are waiting in the kernel): further bytes are lost, as on a real wire. */
const FULL_WAIT_MS = 500;
const FULL_RETRY_MS = 2;
const NAME_BYTES = 128;

/** One pseudo-terminal. `device` is held open here too, so that it lives on when others close it. */
interface Pty {
  readonly master: number;
  readonly device: number;
  readonly path: string;
  readonly stream: ReadStream;
}

/** Makes the pair, plugged in. Throws where the machine gives no pseudo-terminals (/dev/ptmx). */
export function openPtyPair(options: PtyPairOptions = {}): PtyPair {
  const c = loadLibc();
  const guest = openPty(c);
  let reader: Pty | null = null;
  let closed = false;

  guest.stream.on('data', (bytes: Buffer) => {
    if (reader !== null) pour(bytes, reader, guest.stream, () => reader);
  });
  // The guest's end stays raw and open whoever opens or closes it; errors can only be those of closing.
  guest.stream.on('error', () => {});

  const plug = (): void => {
    if (closed || reader !== null) return;
    const made = openPty(c);
    reader = made;
    // What the daemon says to its reader goes to whoever listens at the guest's end; nobody does: it is dropped.
    made.stream.on('data', (bytes: Buffer) => tryWrite(guest.master, bytes));
    made.stream.on('error', () => {});
    if (options.readerLink !== undefined) link(made.path, options.readerLink);
  };
  const unplug = (): void => {
    if (reader === null) return;
    const gone = reader;
    reader = null;
    if (options.readerLink !== undefined) rmSync(options.readerLink, { force: true });
    release(gone);
  };

  plug();
  if (options.guestLink !== undefined) link(guest.path, options.guestLink);
  let lastReaderPath = '';
  return {
    get readerPath() {
      lastReaderPath = options.readerLink ?? reader?.path ?? lastReaderPath;
      return lastReaderPath;
    },
    guestPath: options.guestLink ?? guest.path,
    get plugged() {
      return reader !== null;
    },
    unplug,
    plug,
    close() {
      if (closed) return;
      unplug();
      closed = true;
      if (options.guestLink !== undefined) rmSync(options.guestLink, { force: true });
      release(guest);
    },
  };
}

/** Writes all of `bytes`; where the kernel's buffer is full the source waits, for a bounded time. */
function pour(bytes: Uint8Array, to: Pty, source: ReadStream, current: () => Pty | null): void {
  let rest = bytes.subarray(tryWrite(to.master, bytes));
  if (rest.length === 0) return;
  source.pause();
  let waitedMs = 0;
  const timer = setInterval(() => {
    waitedMs += FULL_RETRY_MS;
    const lost = current() !== to || waitedMs > FULL_WAIT_MS;
    if (!lost) {
      const written = tryWrite(to.master, rest);
      if (written > 0) waitedMs = 0;
      rest = rest.subarray(written);
    }
    if (!lost && rest.length > 0) return;
    clearInterval(timer);
    if (!source.destroyed) source.resume();
  }, FULL_RETRY_MS);
}

/** Writes without waiting and returns the number of bytes written; 0 where none could be. */
function tryWrite(fd: number, bytes: Uint8Array): number {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EAGAIN' || code === 'EIO') return 0;
    throw error;
  }
}

function release(pty: Pty): void {
  // Closing the master hangs up everyone who has the device open.
  pty.stream.destroy();
  closeSync(pty.device);
}

function link(target: string, path: string): void {
  const beside = `${path}.${process.pid}.new`;
  rmSync(beside, { force: true });
  symlinkSync(target, beside);
  renameSync(beside, path);
}

function openPty(c: Libc): Pty {
  const master = c.posix_openpt(constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  if (master < 0) throw new Error('no pseudo-terminal to be had: check that /dev/ptmx and /dev/pts are there and that kernel.pty.max is not reached');
  const name = Buffer.alloc(NAME_BYTES);
  if (c.grantpt(master) !== 0 || c.unlockpt(master) !== 0 || c.ptsname_r(master, name, name.length) !== 0) {
    closeSync(master);
    throw new Error('a pseudo-terminal was made but cannot be used: check how /dev/pts is mounted');
  }
  const path = name.toString('latin1', 0, name.indexOf(0));
  const device = openSync(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  const termios = Buffer.alloc(TERMIOS_BYTES);
  c.tcgetattr(device, termios);
  c.cfmakeraw(termios);
  c.tcsetattr(device, TCSANOW, termios);
  return { master, device, path, stream: new ReadStream(master) };
}
