/**
 * Preallocates the write-ahead log. A commit that lengthens the file makes the disk note the new length as well, which is a
 * second flush of its cache; one that writes over what is there does not (0156-disk-latency-of-a-decision.md). So the file is
 * lengthened with zeros while nobody is at the lane. For SQLite, and for whoever else reads the log, zeros are no frame of it.
 */
import { closeSync, fdatasyncSync, fstatSync, openSync, writeSync } from 'node:fs';
import { type Sqlite, storeError } from './sqlite.ts';

/** Bytes of the log to preallocate: slightly more than CHECKPOINT_AFTER_COMMITS commits need. Beyond it, commits grow the file. */
export const LOG_ROOM_BYTES = 2 * 1024 * 1024;
/** Written and synced in one step: a guest who comes meanwhile waits for no more than this, in bytes. */
const STEP_BYTES = 128 * 1024;
/** Written at a time, in bytes: the kernel keeps what was written at once in one piece, and counts all of it as written with each commit that changes a part. */
const PIECE_BYTES = 4_096;
/** A log without a header and a frame is begun by its first commit, and nothing may stand there before. */
const BEGUN_BYTES = 32 + 24 + 512;

/**
 * One step: true: there is more to do. false: the log is long enough, has not begun yet, or another program writes to it or the disk has no room now:
 * then the commits make the file longer themselves. Throws StoreError only where the disk fails otherwise.
 */
export function preallocateWal(db: Sqlite, path: string): boolean {
  let fd: number | null = null;
  try {
    // Nobody else may write to the log meanwhile: what is written here lies behind its end.
    db.exec('BEGIN IMMEDIATE');
    fd = openSync(`${path}-wal`, 'r+');
    const { size } = fstatSync(fd);
    if (size < BEGUN_BYTES || size >= LOG_ROOM_BYTES) return false;
    const zeros = Buffer.alloc(PIECE_BYTES);
    const end = Math.min(size + STEP_BYTES, LOG_ROOM_BYTES);
    let at = size;
    while (at < end) at += writeSync(fd, zeros, 0, Math.min(PIECE_BYTES - (at % PIECE_BYTES), end - at), at);
    fdatasyncSync(fd);
    return at < LOG_ROOM_BYTES;
  } catch (error) {
    const known = storeError(`preallocate the log of ${path}`, error);
    if (/^(SQLITE_(BUSY|FULL)|ENOSPC|EDQUOT)/.test(known.code)) return false;
    throw known;
  } finally {
    if (fd !== null) closeSync(fd);
    if (db.inTransaction) db.exec('ROLLBACK');
  }
}
