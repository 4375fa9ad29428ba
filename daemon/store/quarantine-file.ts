/**
 * Quarantines a damaged database under a dated name; it is never deleted. `salvage.ts` reads what can still be read of it.
 */
import { closeSync, copyFileSync, existsSync, fsyncSync, linkSync, openSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { syncFolder } from './durable-state.ts';
import { checksumsPath, deleteChecksums } from './page-checksums.ts';

/**
 * Renames a database with its log, so that nothing of it is overwritten. The log gets its new name first and loses the old one last: wherever
 * the power goes, a database never stands without the log that holds its newest rows. Answers the new path. Errors are the file system's.
 */
export function quarantineFile(path: string, wallMs: number): string {
  const stamp = new Date(Math.max(wallMs, newestQuarantineMs(path) + 1)).toISOString().replaceAll(/[-:]/g, '').replace('.', '-');
  const taken = (target: string): boolean => existsSync(target) || existsSync(`${target}-wal`);
  let target = path.replace(/\.sqlite$/, `.damaged-${stamp}.sqlite`);
  for (let n = 2; taken(target); n++) target = path.replace(/\.sqlite$/, `.damaged-${stamp}-${n}.sqlite`);
  const folder = dirname(join(path));
  // They tell which pages are damaged.
  if (existsSync(checksumsPath(path))) secondName(checksumsPath(path), checksumsPath(target));
  if (existsSync(`${path}-wal`)) secondName(`${path}-wal`, `${target}-wal`);
  syncFolder(folder);
  if (existsSync(path)) renameSync(path, target);
  syncFolder(folder);
  for (const suffix of ['-wal', '-shm']) rmSync(path + suffix, { force: true });
  // Sums of this file must never be held against the next one.
  deleteChecksums(path);
  syncFolder(folder);
  return target;
}

/** The last of those that were quarantined holds what they all owe: names rise, also where an earlier one was given under a clock that was ahead. */
function newestQuarantineMs(path: string): number {
  const prefix = `${basename(path, '.sqlite')}.damaged-`;
  let newestMs = Number.NEGATIVE_INFINITY;
  for (const file of readdirSync(dirname(join(path)))) {
    if (!file.startsWith(prefix)) continue;
    const [, date, hour, minute, second, ms] = QUARANTINE_TIME.exec(file.slice(prefix.length)) ?? [];
    const atMs =
      date === undefined ? Number.NaN : Date.parse(`${date.slice(0, -4)}-${date.slice(-4, -2)}-${date.slice(-2)}T${hour}:${minute}:${second}.${ms}Z`);
    if (atMs > newestMs) newestMs = atMs;
  }
  return newestMs;
}
/** As `quarantineFile` writes it. */
const QUARANTINE_TIME = /^(\d{8})T(\d\d)(\d\d)(\d\d)-(\d{3})Z/;

function secondName(path: string, name: string): void {
  try {
    linkSync(path, name);
  } catch {
    // A file system without second names: a copy does as well.
    copyFileSync(path, name);
    const file = openSync(name, 'r+');
    try {
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  }
}
