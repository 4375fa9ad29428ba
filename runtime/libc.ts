/**
 * The C library that this process is linked with (glibc or musl), called directly for the few things Node has no words for.
 * The only file that imports koffi; loaded at the first call, not on import.
 */
import { getSystemErrorName } from 'node:util';
import koffi from 'koffi';

export interface Libc {
  /** Answers a descriptor, or -1. */
  posix_openpt(flags: number): number;
  /** These answer 0, or -1 (ptsname_r: an error number). */
  grantpt(fd: number): number;
  unlockpt(fd: number): number;
  ptsname_r(fd: number, name: Buffer, length: number): number;
  tcgetattr(fd: number, termios: Buffer): number;
  cfmakeraw(termios: Buffer): void;
  tcsetattr(fd: number, when: number, termios: Buffer): number;
  /** Answers a descriptor, or -1. */
  socket(domain: number, type: number, protocol: number): number;
  /** Answers 0 or more, or -1 (see errno). `argument` holds the request's structure, both ways. */
  ioctl(fd: number, request: number, argument: Buffer): number;
  /** `fds`: an array of struct pollfd. Answers how many are ready, 0 when the time is up, or -1. */
  poll(fds: Buffer, count: number, timeoutMs: number): number;
  /** The same on a thread of Node's pool, so that the loop does not wait. `fds` must not be touched until `done`. */
  pollAsync(fds: Buffer, count: number, timeoutMs: number, done: (result: number) => void): void;
  /** Answers a descriptor, or -1. */
  eventfd(initial: number, flags: number): number;
  /** Returns the error of this thread's last failed call: its number, and its name such as EBUSY. */
  errno(): { readonly number: number; readonly code: string };
  /** Answers the bytes sent, or -1. */
  sendto(fd: number, bytes: Buffer, length: number, flags: number, address: Buffer, addressLength: number): number;
}

/** struct termios has 60 bytes on 64-bit Linux; a buffer of this holds it anywhere. */
export const TERMIOS_BYTES = 128;
export const TCSANOW = 0;

/** Throws where koffi has no prebuilt part for this machine. */
export function loadLibc(): Libc {
  const library = koffi.load(null);
  const poll = library.func('int poll(_Inout_ uint8_t *, unsigned long, int)');
  return {
    // Variadic in C; one pointer is passed alike on x64 and arm64 Linux.
    ioctl: library.func('int ioctl(int, unsigned long, _Inout_ uint8_t *)'),
    poll,
    pollAsync: (fds, count, timeoutMs, done) => poll.async(fds, count, timeoutMs, (error: Error | null, result: number) => done(error === null ? result : -1)),
    eventfd: library.func('int eventfd(unsigned int, int)'),
    errno() {
      const number = koffi.errno();
      return { number, code: getSystemErrorName(-number) };
    },
    posix_openpt: library.func('int posix_openpt(int)'),
    grantpt: library.func('int grantpt(int)'),
    unlockpt: library.func('int unlockpt(int)'),
    ptsname_r: library.func('int ptsname_r(int, _Out_ uint8_t *, size_t)'),
    tcgetattr: library.func('int tcgetattr(int, _Out_ uint8_t *)'),
    cfmakeraw: library.func('void cfmakeraw(_Inout_ uint8_t *)'),
    tcsetattr: library.func('int tcsetattr(int, int, uint8_t *)'),
    socket: library.func('int socket(int, int, int)'),
    sendto: library.func('intptr_t sendto(int, uint8_t *, size_t, int, uint8_t *, uint32_t)'),
  };
}
