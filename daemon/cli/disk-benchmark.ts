/** Measures how fast the store's disk syncs writes, and whether that is credible. */
import { randomBytes } from 'node:crypto';
import { closeSync, fdatasyncSync, fsyncSync, openSync, readFileSync, realpathSync, rmSync, statfsSync, writeSync } from 'node:fs';
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
const OVERLAYFS = 0x794c7630;

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
    return { p50Ms: at(0.5), p99Ms: at(0.99), flushes: times.length, inMemory: isInMemory(folder), incredible: at(0.5) < INCREDIBLE_MS };
  } finally {
    closeSync(fd);
    rmSync(path, { force: true });
  }
}

/** Returns whether a folder is in memory: on tmpfs, or on an overlay whose upper layer is. */
export function isInMemory(folder: string, mounts = '/proc/self/mounts', typeOf = (path: string): number => statfsSync(path).type): boolean {
  if (typeOf(folder) === TMPFS) return true;
  if (typeOf(folder) !== OVERLAYFS) return false;
  const upper = upperLayer(realpathSync(folder), readFileSync(mounts, 'utf8'));
  if (upper === null) return false;
  try {
    return typeOf(upper) === TMPFS;
  } catch {
    // The layer is not visible from here: as overlayroot and raspi-config mount it, it is in memory.
    return true;
  }
}

/** Returns the upper layer of the overlay that a folder is on; null: none is named. */
export function upperLayer(folder: string, mounts: string): string | null {
  const found = mounts
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, at = '']) => at === '/' || folder === at || folder.startsWith(`${at}/`))
    .sort(([, a = ''], [, b = '']) => b.length - a.length)[0];
  if (found?.[2] !== 'overlay') return null;
  return /(?:^|,)upperdir=([^,]+)/.exec(found[3] ?? '')?.[1] ?? null;
}
