/** Measures how fast the store's disk syncs writes, and whether that is credible. */
import { randomBytes } from 'node:crypto';
import { closeSync, fdatasyncSync, fsyncSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/** Bytes of one write: a page of the WAL. */
const BLOCK_BYTES = 4_096;
/** Most synced writes of one measurement. */
const FLUSHES = 64;
/** Longest measurement, in ms, so that it disturbs a running gate briefly. */
const BOUND_MS = 3_000;
/** Fastest credible sync of 4 KiB, in ms, for an SD card, eMMC or disk without a protected cache. */
const INCREDIBLE_MS = 0.1;
const TMPFS = 0x01021994;

export interface DiskSpeed {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly flushes: number;
  /** The folder is in memory: a power cut erases it. */
  readonly inMemory: boolean;
  /** Faster than any SD card or disk can sync. */
  readonly incredible: boolean;
}

/** Writes blocks in place, as the WAL does, and syncs each before the next. Removes its file. Throws the file system's error. */
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
