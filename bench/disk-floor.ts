/** What the disk alone costs: as many bytes as a commit writes, written over and synced. */
import { randomBytes } from 'node:crypto';
import { closeSync, fdatasyncSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/** Places that are written in turn. */
export const FLOOR_ROUNDS = 2_000;
/** What one commit writes: a WAL frame of 4,120 bytes is the least that the database writes. */
export const COMMIT_BYTES = 4_120;

export interface Floor {
  /** One write and fdatasync, in µs. */
  round(): number;
  close(): void;
}

export function openFloor(folder: string, bytes = COMMIT_BYTES): Floor {
  const file = openSync(join(folder, 'floor'), 'w');
  const row = randomBytes(bytes);
  // Laid out before, so that no round pays for the file's growing.
  for (let at = 0; at < FLOOR_ROUNDS; at++) writeSync(file, row, 0, bytes, at * bytes);
  fdatasyncSync(file);
  let next = 0;
  return {
    round() {
      const at = next++ % FLOOR_ROUNDS;
      const began = performance.now();
      writeSync(file, row, 0, bytes, at * bytes);
      fdatasyncSync(file);
      return (performance.now() - began) * 1000;
    },
    close: () => closeSync(file),
  };
}
