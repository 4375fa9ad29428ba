/** The character device of a GPIO chip, called by ioctl through the C library. Each call throws an Error with the kernel's `code`. */
import { closeSync, openSync, readdirSync, readSync, writeSync } from 'node:fs';
import type { Libc } from '../../runtime/libc.ts';
import {
  type ChipInfo,
  decodeChipInfo,
  decodeEdges,
  decodeHolder,
  decodeLineFd,
  decodeValue,
  type Edge,
  EVENT_BYTES,
  emptyChipInfo,
  encodeInputs,
  encodeLineInfo,
  encodeOutputs,
  encodeValue,
  encodeValuesOf,
  GET_CHIPINFO,
  GET_LINE,
  GET_LINEINFO,
  GET_VALUES,
  type InputRequest,
  type OutputRequest,
  SET_VALUES,
} from './gpio-structs.ts';
import type { Level } from './pin-map.ts';

/** Tells of edges until `end`. */
export interface EdgeWatch {
  /** Edges that wait in the kernel, now, without waiting. */
  take(): readonly Edge[];
  /** Ends it and gives the lines back; resolves when both is done. */
  end(): Promise<void>;
}

export interface GpioCalls {
  /** Paths of the chips that there are, in order of their numbers. Empty where there is none. */
  chips(): readonly string[];
  info(path: string): ChipInfo;
  /** Returns the holder of a line, or null. */
  holder(path: string, line: number): string | null;
  /** Answer the descriptor of the lines, held by this process until `close`. */
  outputs(path: string, lines: readonly OutputRequest[]): number;
  inputs(path: string, lines: readonly InputRequest[]): number;
  /** `index`: the line's place in the request. */
  set(fd: number, index: number, level: Level): void;
  get(fd: number, index: number, count: number): Level;
  /** `arrived` on the loop whenever edges wait: take them. `lost`: the kernel has ended this, once; levels must do then. */
  watch(fd: number, arrived: () => void, lost: (error: Error) => void): EdgeWatch;
  close(fd: number): void;
}

const DEVICES = '/dev';
const POLLIN = 1;
/** struct pollfd. */
const POLLFD_BYTES = 8;
const EFD_CLOEXEC_NONBLOCK = 0o2000000 | 0o4000;
/** A wait ends after this at the latest, so that a process that ends without `end` is held up no longer. */
const WAIT_MS = 250;
/** Edges taken in one call; more are taken by the next. */
const MAX_EDGES = 64;

export function createGpioCalls(libc: Libc): GpioCalls {
  const call = (what: string, fd: number, request: number, argument: Buffer): Buffer => {
    if (libc.ioctl(fd, request, argument) < 0) throw failure(libc, what);
    return argument;
  };
  const onChip = <T>(path: string, act: (fd: number) => T): T => {
    const fd = openSync(path, 'r+');
    try {
      return act(fd);
    } finally {
      closeSync(fd);
    }
  };
  return {
    chips() {
      const numbers = readdirSync(DEVICES).flatMap((name) => /^gpiochip(\d+)$/.exec(name)?.[1] ?? []);
      return numbers
        .map(Number)
        .sort((a, b) => a - b)
        .map((number) => `${DEVICES}/gpiochip${number}`);
    },
    info: (path) => onChip(path, (fd) => decodeChipInfo(call(`ask ${path} what it is`, fd, GET_CHIPINFO, emptyChipInfo()))),
    holder: (path, line) => onChip(path, (fd) => decodeHolder(call(`ask who has line ${line}`, fd, GET_LINEINFO, encodeLineInfo(line)))),
    outputs: (path, lines) => onChip(path, (fd) => decodeLineFd(call('claim the outputs', fd, GET_LINE, encodeOutputs(lines)))),
    inputs: (path, lines) => onChip(path, (fd) => decodeLineFd(call('claim the inputs', fd, GET_LINE, encodeInputs(lines)))),
    set: (fd, index, level) => void call('set a line', fd, SET_VALUES, encodeValue(index, level)),
    get: (fd, index, count) => decodeValue(call('read the lines', fd, GET_VALUES, encodeValuesOf(count)), index),
    watch: (fd, arrived, lost) => watchEdges(libc, fd, arrived, lost),
    close: closeSync,
  };
}

/**
 * Node cannot wait for such a descriptor itself, so `poll` waits on one thread of Node's pool (of four), which hands over to
 * the loop within a fraction of a millisecond. Where that thread is kept waiting (all four behind a stalled disk), edges
 * are found when the levels are read.
 */
function watchEdges(libc: Libc, fd: number, arrived: () => void, lost: (error: Error) => void): EdgeWatch {
  const wake = libc.eventfd(0, EFD_CLOEXEC_NONBLOCK);
  if (wake < 0) throw failure(libc, 'make a descriptor to be woken by');
  const fds = Buffer.alloc(2 * POLLFD_BYTES);
  for (const [index, one] of [fd, wake].entries()) {
    fds.writeInt32LE(one, index * POLLFD_BYTES);
    fds.writeInt16LE(POLLIN, index * POLLFD_BYTES + 4);
  }
  const bytes = Buffer.alloc(MAX_EDGES * EVENT_BYTES);
  let ended: PromiseWithResolvers<void> | null = null;
  let waiting = false;
  const giveBack = (): void => {
    closeSync(wake);
    closeSync(fd);
    ended?.resolve();
  };
  const take = (): readonly Edge[] => {
    const ready = Buffer.from(fds.subarray(0, POLLFD_BYTES));
    // Reading where nothing waits would hold up the loop.
    if (libc.poll(ready, 1, 0) !== 1 || (ready.readInt16LE(6) & POLLIN) === 0) return [];
    return decodeEdges(bytes.subarray(0, readSync(fd, bytes)));
  };
  const again = (): void => {
    waiting = true;
    libc.pollAsync(fds, 2, WAIT_MS, (result) => {
      waiting = false;
      if (ended !== null) return giveBack();
      // Interrupted, or out of memory: neither is for long, and the levels are read meanwhile.
      if (result < 0) return void setTimeout(() => (ended === null ? again() : undefined), WAIT_MS).unref();
      const seen = result > 0 ? fds.readInt16LE(6) : 0;
      if (seen !== 0 && (seen & POLLIN) === 0) return lost(Object.assign(new Error('the kernel reports no more edges: the chip is gone'), { code: 'ENODEV' }));
      if (seen !== 0) arrived();
      // The listener may have ended it.
      if (ended === null) again();
    });
  };
  again();
  return {
    take: () => (ended === null ? take() : []),
    end() {
      if (ended !== null) return ended.promise;
      ended = Promise.withResolvers<void>();
      // The waiting thread still has both descriptors: it is woken and ends first.
      if (waiting) writeSync(wake, Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]));
      else giveBack();
      return ended.promise;
    },
  };
}

function failure(libc: Libc, what: string): Error {
  const { number, code } = libc.errno();
  return Object.assign(new Error(`${what}: ${code}`), { code, errno: number });
}
