/**
 * A guest's code as it comes over a wire: a worker that writes it in the pieces in which a serial port hands it on, each when its last bit would have
 * been sent. A thread of its own, so that the gate's loop has nothing to do with it, as with a real reader.
 */
import { openSync, writeSync } from 'node:fs';
import { parentPort, Worker, workerData } from 'node:worker_threads';

/** A PL011 (a Pi's serial port) and most others tell the kernel when their FIFO of 16 is half full. */
const PIECE_BYTES = 8;
/** Start bit, eight data bits, stop bit. */
const BITS_A_BYTE = 10;

export interface Guest {
  /** Writes the bytes; resolves with the time just before the last piece was written, CLOCK_MONOTONIC in µs. */
  show(bytes: string): Promise<number>;
  end(): Promise<number>;
}

/** `baud` 0: all at once, as a reader on USB hands on what came in one packet. */
export function createGuest(path: string, baud: number): Guest {
  const worker = new Worker(new URL(import.meta.url), { workerData: { guest: path, baud } });
  return {
    show: (bytes) =>
      new Promise((resolve) => {
        worker.once('message', resolve);
        worker.postMessage(bytes);
      }),
    end: () => worker.terminate(),
  };
}

const task = workerData as { readonly guest?: string; readonly baud?: number } | null;
if (parentPort !== null && typeof task?.guest === 'string') {
  const port = parentPort;
  const fd = openSync(task.guest, 'w');
  const pieceMs = task.baud ? (PIECE_BYTES * BITS_A_BYTE * 1_000) / task.baud : 0;
  const bell = new Int32Array(new SharedArrayBuffer(4));
  port.on('message', (text: string) => {
    const bytes = Buffer.from(text);
    const size = pieceMs === 0 ? bytes.length : PIECE_BYTES;
    const begun = performance.now();
    for (let at = 0; ; at += size) {
      // As long as the piece takes on the wire, from the beginning on: late once is not late ever after.
      const waitMs = begun + (at / size + 1) * pieceMs - performance.now();
      if (waitMs > 0) Atomics.wait(bell, 0, 0, waitMs);
      const last = at + size >= bytes.length;
      const atUs = Number(process.hrtime.bigint()) / 1_000;
      writeSync(fd, bytes.subarray(at, at + size));
      if (!last) continue;
      port.postMessage(atUs);
      return;
    }
  });
}
