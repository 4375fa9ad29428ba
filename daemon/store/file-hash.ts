/** Is a file still what was signed? Read in steps, so that a decision never waits for more than one of them. */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync, statSync } from 'node:fs';

/** Files up to this size are checked whole before they are used, in bytes; larger ones in steps while the lane is idle. */
export const CHECKED_AT_OPEN_BYTES = 4 * 1024 * 1024;
/** Read and hashed in one step, in bytes. */
const STEP_BYTES = 256 * 1024;

export interface FileCheck {
  /** Takes one more step. Returns the outcome, or null as long as there is none. Errors are the file system's. */
  step(): 'same' | 'changed' | null;
}

export function createFileCheck(path: string, sha256: string): FileCheck {
  const hash = createHash('sha256');
  const part = Buffer.allocUnsafe(STEP_BYTES);
  let at = 0;
  return {
    step() {
      const file = openSync(path, 'r');
      try {
        const read = readSync(file, part, 0, STEP_BYTES, at);
        hash.update(part.subarray(0, read));
        at += read;
        if (read > 0) return null;
      } finally {
        closeSync(file);
      }
      return hash.digest('hex') === sha256 ? 'same' : 'changed';
    },
  };
}

/** Checks a small file whole; takes a large one as it is until it was checked in steps. Errors are the file system's. */
export function checkAtOnce(path: string, sha256: string): 'same' | 'changed' | 'later' {
  if (statSync(path).size > CHECKED_AT_OPEN_BYTES) return 'later';
  const check = createFileCheck(path, sha256);
  for (;;) {
    const found = check.step();
    if (found !== null) return found;
  }
}
