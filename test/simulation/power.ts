/**
 * What a power cut leaves of a SQLite database: as much as its own `synchronous` setting promises, commit by commit.
 *
 * FULL: every commit. NORMAL: the database as it was at the last checkpoint, what the store synced by itself, and any number of the commits
 * since. The setting is read from SQLite itself, on each connection, when it is made.
 */
import fs, { closeSync, existsSync, openSync, readFileSync, readlinkSync, readSync, rmSync, truncateSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { openForSalvage } from '../../daemon/store/sqlite.ts';
import type { Random } from '../../testkit/prng.ts';
import { copyStore } from './fixture.ts';

const FULL = 2;
const WAL_HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;

/** What SQLite says of each database that was opened, by path. */
const levels = new Map<string, number>();
/** Every connection that was made, so that those of a process that died can be dropped as they are, with nothing written. */
const handles = new Set<WithPragma>();
let pretendsFull = false;
let watching = false;

/** Logs that were synced as files: as they began then, and how long they were, by path. */
const synced = new Map<string, { readonly header: Buffer; readonly bytes: number }>();

interface WithPragma {
  readonly name: string;
  readonly open: boolean;
  close(): void;
  pragma(text: string, options?: { simple: boolean }): unknown;
}

/** From now on every connection's `synchronous` is read back. Once a process. */
export function watchSynchronous(folder: string): void {
  if (watching) return;
  watching = true;
  watchSyncs();
  const path = join(folder, 'prototype.sqlite');
  closeSync(openSync(path, 'w'));
  const db = openForSalvage(path);
  const prototype = Object.getPrototypeOf(db) as WithPragma;
  db.close();
  rmSync(path);
  const real = prototype.pragma;
  prototype.pragma = function (this: WithPragma, text, options) {
    const level = (): void => void levels.set(this.name, Number(real.call(this, 'synchronous', { simple: true })));
    // Once opened, what it says counts, whether it was ever told or not.
    if (!handles.has(this)) level();
    handles.add(this);
    if (pretendsFull && text === 'synchronous') return FULL;
    const answer = real.call(this, pretendsFull && text === 'synchronous = FULL' ? 'synchronous = NORMAL' : text, options);
    if (text.startsWith('synchronous =')) level();
    return answer;
  };
}

/** From now on it is known which logs the store syncs by itself. Once a process. */
function watchSyncs(): void {
  for (const call of ['fsyncSync', 'fdatasyncSync'] as const) {
    const real = fs[call];
    fs[call] = (fd) => {
      real(fd);
      noteSync(readlinkSync(`/proc/self/fd/${fd}`));
    };
  }
  syncBuiltinESMExports();
}

function noteSync(path: string): void {
  if (!path.endsWith('-wal')) return;
  const file = openSync(path, 'r');
  const header = Buffer.alloc(WAL_HEADER_BYTES);
  readSync(file, header, 0, WAL_HEADER_BYTES, 0);
  synced.set(path, { header, bytes: fs.fstatSync(file).size });
  closeSync(file);
}

/** The mutant: a store that believes in FULL and has NORMAL. */
export function pretendFull(on: boolean): void {
  pretendsFull = on;
}

/** Databases whose files a power cut can take something of, until they are opened again: the next life may end before it opens them. */
const DATABASES = ['ledger.sqlite', 'usage.sqlite'] as const;

/** The store as a killed process leaves it. What was not synced is not synced by that. */
export function storeAfterKill(from: string, to: string): void {
  copyStore(from, to);
  for (const name of DATABASES) {
    levels.set(join(to, name), levels.get(join(from, name)) ?? 0);
    const sync = synced.get(join(from, `${name}-wal`));
    if (sync !== undefined) synced.set(join(to, `${name}-wal`), sync);
  }
}

/** Until it is opened, a power cut takes nothing of this store: a card that was just put in, or what the last cut left. */
export function liesOnDisk(folder: string): void {
  for (const name of DATABASES) levels.set(join(folder, name), FULL);
}

/** The store as a power cut leaves it. Answers how many commits of the ledger were lost. */
export function storeAfterPowerCut(from: string, to: string, random: Random): number {
  copyStore(from, to);
  let lost = 0;
  for (const name of DATABASES) {
    const wal = join(to, `${name}-wal`);
    if ((levels.get(join(from, name)) ?? 0) >= FULL || !existsSync(wal)) continue;
    const log = readFileSync(wal);
    const ends = commitsOf(log);
    const sync = synced.get(join(from, `${name}-wal`));
    const safe = sync?.header.equals(log.subarray(0, WAL_HEADER_BYTES)) === true ? ends.filter((end) => end <= sync.bytes).length : 0;
    const kept = safe + random.below(ends.length - safe + 1);
    truncateSync(wal, kept === 0 ? 0 : (ends[kept - 1] as number));
    if (name === 'ledger.sqlite') lost = ends.length - kept;
  }
  liesOnDisk(to);
  return lost;
}

/** Gives back what a process that died had open below this folder. */
export function dropHandles(folder: string): void {
  // A database that is gone from its folder is closed without folding its log: nobody reads it any more.
  rmSync(folder, { recursive: true, force: true });
  for (const handle of handles) {
    if (!handle.open) handles.delete(handle);
    else if (handle.name.startsWith(`${folder}/`)) {
      handle.close();
      handles.delete(handle);
    }
  }
  for (const name of DATABASES) {
    levels.delete(join(folder, name));
    synced.delete(join(folder, `${name}-wal`));
  }
}

/** Returns the end of each commit of a write-ahead log, in bytes. */
export function commitsOf(wal: Buffer): number[] {
  const ends: number[] = [];
  if (wal.byteLength < WAL_HEADER_BYTES) return ends;
  const frameBytes = FRAME_HEADER_BYTES + wal.readUInt32BE(8);
  const salt = wal.subarray(16, 24);
  for (let at = WAL_HEADER_BYTES; at + frameBytes <= wal.byteLength; at += frameBytes) {
    if (!wal.subarray(at + 8, at + 16).equals(salt)) break;
    if (wal.readUInt32BE(at + 4) !== 0) ends.push(at + frameBytes);
  }
  return ends;
}
