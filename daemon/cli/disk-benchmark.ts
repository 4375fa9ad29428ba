/** How fast the store's card keeps what is written to it, and whether that can be true. */
import { randomBytes } from 'node:crypto';
import { closeSync, fdatasyncSync, fsyncSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/** As large as a page of the ledger's log. */
const BLOCK_BYTES = 4_096;
/** At most so many flushes … */
const FLUSHES = 64;
/** … and so long, ms: a card in use by a running gate is soon left alone again. */
const BOUND_MS = 3_000;
/** No SD card, eMMC or disk without a protected cache keeps 4 KiB faster than this, ms. */
const INCREDIBLE_MS = 0.1;
const TMPFS = 0x01021994;

export interface DiskSpeed {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly flushes: number;
  /** The folder is in memory: nothing of it outlives a power cut. */
  readonly inMemory: boolean;
  /** Faster than a card can be. */
  readonly incredible: boolean;
}

/** Writes blocks in place, as the ledger's log does, each kept before the next. Removes its file. Throws the file system's error. */
export function measureDisk(folder: string): DiskSpeed {
  const path = join(folder, `.doctor-${process.pid}`);
  const block = randomBytes(BLOCK_BYTES);
  const fd = openSync(path, 'wx', 0o600);
  try {
    for (let n = 0; n < 16; n++) writeSync(fd, block, 0, BLOCK_BYTES, n * BLOCK_BYTES);
    fsyncSync(fd);
    const times: number[] = [];
    const begun = performance.now();
    while (times.length < FLUSHES && (times.length < 3 || performance.now() - begun < BOUND_MS)) {
      block.writeUInt32LE(times.length, 0);
      const from = performance.now();
      writeSync(fd, block, 0, BLOCK_BYTES, (times.length % 16) * BLOCK_BYTES);
      fdatasyncSync(fd);
      times.push(performance.now() - from);
    }
    times.sort((a, b) => a - b);
    const at = (part: number) => times[Math.min(times.length - 1, Math.floor(times.length * part))] as number;
    return { p50Ms: at(0.5), p99Ms: at(0.99), flushes: times.length, inMemory: statfsSync(folder).type === TMPFS, incredible: at(0.5) < INCREDIBLE_MS };
  } finally {
    closeSync(fd);
    rmSync(path, { force: true });
  }
}
