/**
 * A QR reader on a serial port. The only file that imports serialport.
 *
 * A port that is not there, cannot be opened, hangs up or is unplugged is a `down` event and is tried again for ever,
 * with a growing, jittered wait; nothing here throws. The configured path is opened anew each time, so a udev symlink
 * that goes away and comes back for another device node is followed.
 */
import { readSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { SerialPort } from 'serialport';
import type { Direction } from '../../contract/ids.ts';
import type { Clock, Fault, Reader, ReaderEvent } from '../ports.ts';
import { type FrameMode, type FramingConfig, initialFraming, stepFraming } from './framing.ts';
import { portHolders } from './port-holders.ts';

export interface SerialReaderOptions {
  /** As configured; names the reader in events and alerts. */
  readonly name: string;
  readonly direction: Direction;
  /** Best a stable name: /dev/serial/by-id/… or a udev symlink. */
  readonly path: string;
  /** 9,600 to 115,200. */
  readonly baud: number;
  readonly frame: FrameMode;
  /** Only with frame silence. */
  readonly silenceMs?: number;
}

/** First wait before the port is opened again; doubled each time. */
export const REOPEN_FIRST_MS = 100;
/** Longest wait between two attempts: a reader that is plugged in again works within this and a little. */
export const REOPEN_MAX_MS = 3_000;
/** Time after which an open port counts as stable, ms: the next outage begins with the first wait again. */
const STABLE_MS = 5_000;
/** Interval of the check that the path still leads to the device that is open, ms (a hang-up can be missed). */
const CHECK_MS = 2_000;
/** Longest wait of `close` for the port, ms. At the bound: the operating system closes it. */
const CLOSE_WAIT_MS = 1_000;
/** Chunk read at once; a reader sends far less. */
const CHUNK_BYTES = 4_096;
const DEFAULT_SILENCE_MS = 50;

/** Returns the wait before attempt `attempt` (0, 1, …): doubled up to the bound, then 50–100 % of it, so that readers don't march in step. */
export function reopenWaitMs(attempt: number, random: number): number {
  const fullMs = Math.min(REOPEN_MAX_MS, REOPEN_FIRST_MS * 2 ** Math.min(attempt, 16));
  return fullMs * (0.5 + random / 2);
}

export function createSerialReader(options: SerialReaderOptions, clock: Pick<Clock, 'boottimeMs'>): Reader {
  const { name, direction } = options;
  const framing: FramingConfig = { mode: options.frame, silenceMs: options.silenceMs ?? DEFAULT_SILENCE_MS };
  let listener: ((event: ReaderEvent) => void) | null = null;
  let port: SerialPort | null = null;
  let device: number | null = null;
  let up = false;
  let openedMs = 0;
  let attempt = 0;
  let lastCause: string | null = null;
  let state = initialFraming;
  let reopenTimer: NodeJS.Timeout | undefined;
  let frameTimer: NodeJS.Timeout | undefined;
  let checkTimer: NodeJS.Timeout | undefined;

  const receive = (bytes: Uint8Array): void => {
    const atMs = clock.boottimeMs();
    if (bytes.length > 0) listener?.({ kind: 'bytes', reader: name, direction, bytes, atMs });
    const step = stepFraming(framing, state, bytes, atMs);
    const begins = state.held.length === 0 && !state.dropping && step.state.held.length > 0 && step.framed.length === 0;
    state = step.state;
    clearTimeout(frameTimer);
    if (step.deadlineMs !== null) frameTimer = setTimeout(() => receive(new Uint8Array(0)), Math.max(1, Math.ceil(step.deadlineMs - atMs)));
    if (begins) listener?.({ kind: 'coming', reader: name, direction });
    for (const framed of step.framed) {
      if (framed.kind === 'frame') listener?.({ kind: 'frame', reader: name, direction, bytes: framed.bytes, atMs, lastByteMs: framed.lastByteMs });
      else listener?.({ kind: 'garbled', reader: name, direction, why: framed.why, atMs });
    }
  };

  const connect = (): void => {
    if (listener === null) return;
    const candidate = new SerialPort({ path: options.path, baudRate: options.baud, autoOpen: false, highWaterMark: CHUNK_BYTES, ...HANGUP_SAFE });
    port = candidate;
    candidate.on('data', (bytes: Buffer) => port === candidate && receive(bytes));
    candidate.on('error', (error) => lose(candidate, error));
    candidate.on('close', (error: Error | null) => lose(candidate, error ?? new Error('the port was closed')));
    candidate.open((error) => {
      if (error) return lose(candidate, error);
      if (port !== candidate || listener === null) return candidate.close(() => {});
      up = true;
      openedMs = clock.boottimeMs();
      lastCause = null;
      state = initialFraming;
      device = null;
      void check(candidate);
      listener({ kind: 'up', reader: name });
    });
  };

  /** Handles the loss of the port. Called for every sign of it; the first one counts. */
  const lose = (lost: SerialPort, error: Error): void => {
    if (port !== lost) return;
    port = null;
    clearTimeout(checkTimer);
    clearTimeout(frameTimer);
    if (lost.isOpen) lost.close(() => {});
    if (listener === null) return;
    if (up && clock.boottimeMs() - openedMs >= STABLE_MS) attempt = 0;
    up = false;
    const fault = faultOf(options, error);
    // An outage is reported once, and again when its cause changes.
    if (fault.cause !== lastCause) listener({ kind: 'down', reader: name, fault });
    lastCause = fault.cause;
    reopenTimer = setTimeout(connect, reopenWaitMs(attempt++, Math.random()));
  };

  /** Checks that the path still leads to the device that is open. */
  const check = async (open: SerialPort): Promise<void> => {
    const found = await stat(options.path).then(
      ({ rdev, ino }) => ({ rdev, ino }),
      (error: Error) => error,
    );
    if (port !== open) return;
    if (found instanceof Error) return lose(open, new Error(`the port was unplugged (${found.message})`));
    if (device !== null && device !== found.rdev) return lose(open, new Error('the path leads to another device now'));
    device = found.rdev;
    checkTimer = setTimeout(() => void check(open), CHECK_MS);
  };

  return {
    name,
    direction,
    open(given) {
      if (listener !== null) throw new Error(`reader ${name}: opened twice; close it first`);
      listener = given;
      connect();
    },
    async close() {
      listener = null;
      up = false;
      for (const timer of [reopenTimer, frameTimer, checkTimer]) clearTimeout(timer);
      const closing = port;
      port = null;
      if (closing === null) return;
      await new Promise<void>((done) => {
        const timer = setTimeout(done, CLOSE_WAIT_MS);
        const finish = (): void => {
          clearTimeout(timer);
          done();
        };
        if (closing.isOpen) closing.close(finish);
        else if (closing.opening)
          closing
            .once('open', () => closing.isOpen && closing.close(finish))
            .once('error', finish)
            .once('close', finish);
        else finish();
      });
    },
    ok: () => up,
    holders: () => portHolders(options.path).map((holder) => `${holder.name} (pid ${holder.pid})`),
  };
}

/** The used part of an open port of serialport's Linux binding. */
interface OpenPort {
  fd: number | null;
  readonly poller: { once(event: 'readable', callback: (error: Error | null) => void): unknown };
  read(buffer: Buffer, offset: number, length: number): Promise<{ buffer: Buffer; bytesRead: number }>;
}

/**
 * serialport's binding, but for reading: its own read takes 0 bytes (what the kernel gives after a hang-up) for "not yet" and
 * asks again for ever, at the full load of a core and without a `close` (serialport/bindings-cpp #162). Here 0 bytes are
 * what they are, the end of the port. The descriptor is non-blocking, so a plain read spares two hops through the thread pool.
 *
 * Its poller calls back without a callback scope: promises that it settles go on only when something else happens in
 * the loop, which in a quiet night is the next timer. Hence setImmediate.
 */
const HANGUP_SAFE = {
  binding: {
    ...SerialPort.binding,
    async open(options: never): Promise<unknown> {
      const port = (await SerialPort.binding.open(options)) as unknown as OpenPort;
      port.read = (buffer, offset, length) => readOrHangUp(port, buffer, offset, length);
      return port;
    },
  },
};

async function readOrHangUp(port: OpenPort, buffer: Buffer, offset: number, length: number): Promise<{ buffer: Buffer; bytesRead: number }> {
  for (;;) {
    await new Promise<void>((resolve, reject) => port.poller.once('readable', (error) => setImmediate(() => (error ? reject(error) : resolve()))));
    if (port.fd === null) throw Object.assign(new Error('the port was closed'), { canceled: true });
    try {
      const bytesRead = readSync(port.fd, buffer, offset, length, null);
      if (bytesRead === 0) throw new Error('the port hung up (unplugged?)');
      return { buffer, bytesRead };
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'EAGAIN' && code !== 'EINTR') throw error;
    }
  }
}

/** Returns the fault with its cause and hint. The bindings give texts, not codes. */
function faultOf({ name, path }: SerialReaderOptions, error: Error): Fault {
  const cause = /bad file descriptor/i.test(error.message) ? 'the port hung up (unplugged?)' : error.message.replace(/^Error:?\s*/, '');
  const hint = /no such file|ENOENT|unplugged/i.test(cause)
    ? `plug the reader in; if it is, correct readers.path of "${name}" (ls -l /dev/serial/by-id shows the ports; none there: the reader is in keyboard mode)`
    : /permission|EACCES/i.test(cause)
      ? "add the gate's user to the group of the port (dialout), and check the unit's DeviceAllow"
      : /lock/i.test(cause)
        ? `another program has ${path} open; stop it (fuser -v ${path})`
        : 'check the cable and its plug; the port is tried again by itself';
  return { operation: `open reader ${name} at ${path}`, cause, hint, healsItself: true };
}
