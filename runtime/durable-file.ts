/** Small files that something is promised of, such as keys: whole and on the disk when the call returns, else not there at all. */
import { randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, linkSync, openSync, renameSync, unlinkSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

/** Makes a file that was not there. Of two that make it at once one succeeds, and the other gets EEXIST. Throws the file system's error, with nothing left behind. */
export function makeDurableFile(path: string, text: string, mode: number): void {
  place(path, text, mode, (part) => {
    linkSync(part, path);
    // Its second name has done its service; one that stays is harmless.
    discard(part);
  });
}

/** Replaces the file in one step, or makes it. Throws the file system's error. */
export function replaceDurableFile(path: string, text: string, mode: number): void {
  place(path, text, mode, (part) => renameSync(part, path));
}

function place(path: string, text: string, mode: number, put: (part: string) => void): void {
  const part = `${path}.${randomBytes(6).toString('hex')}.new`;
  try {
    const bytes = Buffer.from(text);
    const file = openSync(part, 'wx', mode);
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    put(part);
  } catch (error) {
    discard(part);
    throw error;
  }
  const folder = openSync(dirname(path), 'r');
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

function discard(part: string): void {
  try {
    unlinkSync(part);
  } catch {
    // It was never made, or the disk fails: the caller hears of that by the error which led here.
  }
}
