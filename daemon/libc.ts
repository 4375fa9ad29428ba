/**
 * The C library that this process is linked with (glibc or musl), called directly for the few things Node has no words for.
 * The only file that imports koffi; loaded at the first call, not on import.
 */
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
  /** Answers the bytes sent, or -1. */
  sendto(fd: number, bytes: Buffer, length: number, flags: number, address: Buffer, addressLength: number): number;
}

/** struct termios has 60 bytes on 64-bit Linux; a buffer of this holds it anywhere. */
export const TERMIOS_BYTES = 128;
export const TCSANOW = 0;

/** Throws where koffi has no prebuilt part for this machine. */
export function loadLibc(): Libc {
  const library = koffi.load(null);
  return {
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
