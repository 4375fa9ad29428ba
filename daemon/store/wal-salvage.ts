/**
 * Makes the damaged log of a quarantined database readable to its end: the checksums are written anew over what is there, so that a damaged frame
 * no longer hides the good ones behind it. What the pages then say is judged by the rows' own hashes (`salvage.ts`).
 */
import { closeSync, existsSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import {
  CHECKSUM_AT,
  type Checksum,
  checksum,
  checksumOf,
  FRAME_HEADER_BYTES,
  HEADER_BYTES,
  headerChecksum,
  isBigEndian,
  isChecksumRight,
  isFrameValid,
  isHeaderValid,
  MAGIC,
  pageNumberOf,
  saltsOf,
  storedChecksum,
  type Wal,
  walOf,
} from './wal-format.ts';

/** The version of the format, as SQLite writes it. */
const VERSION = 3_007_000;
/** SQLite's default page size, bytes: used where neither the database nor its log names one. */
const DEFAULT_PAGE_BYTES = 4_096;

export interface Rechecksummed {
  /** The log's bytes were changed. */
  readonly changed: boolean;
  /** Damaged frames whose pages no later frame holds again. */
  readonly unread: number;
}

/**
 * Writes the header and the checksums of the log of the quarantined database `path` anew where they are wrong. The log as it was stays beside it
 * as `<log>.asis`. Throws the file system's errors.
 */
export function rechecksumWal(path: string): Rechecksummed {
  const wal = `${path}-wal`;
  const bytes = existsSync(wal) ? readFileSync(wal) : Buffer.alloc(0);
  if (bytes.length < HEADER_BYTES + FRAME_HEADER_BYTES) return { changed: false, unread: 0 };
  const before = Buffer.from(bytes);
  const log = walOf(bytes, pageBytesOf(path, bytes));
  if (log.count === 0) return { changed: false, unread: 0 };
  if (!isHeaderValid(bytes.subarray(0, HEADER_BYTES))) writeHeader(log);
  const unread = countUnread(log);
  rechecksumFrames(log);
  if (bytes.equals(before)) return { changed: false, unread };
  writeFileSync(`${wal}.asis`, before);
  writeFileSync(wal, bytes);
  return { changed: true, unread };
}

/** Counts the pages whose newest frame is damaged. */
function countUnread(log: Wal): number {
  const damaged = new Set<number>();
  let before = headerChecksum(log);
  for (let n = 0; n < log.count; n++) {
    const frame = log.frame(n);
    // Salts are not covered by the checksum: where it is right, they alone are damaged.
    if (isChecksumRight(log, n, before)) {
      damaged.delete(pageNumberOf(frame));
      before = storedChecksum(frame);
      continue;
    }
    if (isEnd(log, n)) break;
    damaged.add(pageNumberOf(frame));
    // The content may be right and the stored checksum damaged, or the other way round: the next frame continues the right one.
    const computed = checksumOf(frame, before, isBigEndian(log.bytes));
    before = isFrameValid(log, n + 1, computed) ? computed : storedChecksum(frame);
  }
  return damaged.size;
}

/** One frame of another log between two of this one has damaged salts; two of them are the end. */
const isEnd = (log: Wal, n: number): boolean => !log.own(n) && !log.own(n + 1);

function writeHeader({ bytes, pageBytes, count, frame }: Wal): void {
  bytes.writeUInt32BE(MAGIC, 0);
  bytes.writeUInt32BE(VERSION, 4);
  bytes.writeUInt32BE(pageBytes, 8);
  // The first two frames of one log carry the same salts. A log may be preallocated in zeros before it is written.
  const second = count > 1 && saltsOf(frame(1)).some((byte) => byte !== 0);
  saltsOf(frame(second ? 1 : 0)).copy(bytes, 16);
  writeChecksum(bytes, 24, checksum(bytes.subarray(0, 24), [0, 0], isBigEndian(bytes)));
}

function rechecksumFrames(log: Wal): void {
  const salts = log.bytes.subarray(16, 24);
  let before = headerChecksum(log);
  for (let n = 0; n < log.count; n++) {
    if (isEnd(log, n) && !isChecksumRight(log, n, before)) break;
    salts.copy(log.frame(n), 8);
    before = checksumOf(log.frame(n), before, isBigEndian(log.bytes));
    writeChecksum(log.frame(n), CHECKSUM_AT, before);
  }
}

function writeChecksum(bytes: Buffer, at: number, [first, second]: Checksum): void {
  bytes.writeUInt32BE(first, at);
  bytes.writeUInt32BE(second, at + 4);
}

/** Returns the page size that the database names, else the log, else SQLite's default. */
function pageBytesOf(path: string, wal: Buffer): number {
  const plausible = (size: number): boolean => size >= 512 && size <= 65_536 && (size & (size - 1)) === 0;
  const head = Buffer.alloc(18);
  const file = openSync(path, 'r');
  try {
    const own = readSync(file, head, 0, 18, 0) < 18 ? 0 : head.readUInt16BE(16);
    if (plausible(own)) return own;
  } finally {
    closeSync(file);
  }
  const named = wal.readUInt32BE(8);
  return plausible(named) ? named : DEFAULT_PAGE_BYTES;
}
