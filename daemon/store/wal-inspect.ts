/**
 * Looks at a write-ahead log for what SQLite never says: a log ends, for SQLite, at the first frame whose checksum is wrong, and whatever was
 * committed behind it is gone without a word. After a power cut that is right for one commit at most, the last one, which nobody was told of:
 * each commit is synced before the next begins. Anything more is damage.
 */
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, readSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { type Around, type Bit, type FoundBit, turn, wrongBit } from './frame-mend.ts';
import { hashOf, rowsOfPage } from './rows-page.ts';
import {
  type Checksum,
  checksum,
  checksumOf,
  commitPagesOf,
  FRAME_HEADER_BYTES,
  HEADER_BYTES,
  isBigEndian,
  isHeaderValid,
  MAGIC,
  pageNumberOf,
  pageOf,
  SUMS_AT,
  saltsOf,
  sameChecksum,
  storedChecksum,
} from './wal-format.ts';

/** What SQLite writes as the format's version. */
const VERSION = 3_007_000;
/** Frames of a damaged log that are looked through for a wrong bit; behind them, frames stay as they are. Each takes some milliseconds, rarely a hundred. */
const MAX_MENDED_FRAMES = 32;
/** Pages of the database's file, from its end, that are searched for one row. */
const MAX_SEARCHED_PAGES = 1_024;

export interface WalEnd {
  /** The header does not hold: nothing of the log was read. */
  readonly headless: boolean;
  /** Commits of this log that lie behind what SQLite reads. One is the last commit, cut short or damaged; two or more are damage. */
  readonly commitsBehind: number;
  /** Byte of the log and mask: with this bit turned, the last commit is whole. Absent: no single bit does that, or more than one commit lies behind. */
  readonly bit?: FoundBit;
}

/** A log's bytes, frame by frame. */
interface Log {
  readonly path: string;
  readonly bytes: Buffer;
  readonly pageBytes: number;
  readonly count: number;
  frame(n: number): Buffer;
  /** Is it one of this log, and not of an earlier one in the same file? */
  own(n: number): boolean;
}

function logOf(path: string, bytes: Buffer, pageBytes: number): Log {
  const frameBytes = FRAME_HEADER_BYTES + pageBytes;
  const count = Math.floor((bytes.length - HEADER_BYTES) / frameBytes);
  const frame = (n: number): Buffer => bytes.subarray(HEADER_BYTES + n * frameBytes, HEADER_BYTES + (n + 1) * frameBytes);
  return { path, bytes, pageBytes, count, frame, own: (n) => n < count && saltsOf(frame(n)).equals(bytes.subarray(16, 24)) };
}

/** Before the database is opened: opening drops what lies behind the good part, and closing folds and removes it all. Errors are the file system's. */
export function inspectWal(path: string): WalEnd {
  const nothing: WalEnd = { headless: false, commitsBehind: 0 };
  const wal = `${path}-wal`;
  if (!existsSync(wal)) return nothing;
  const bytes = readFileSync(wal);
  const header = bytes.subarray(0, HEADER_BYTES);
  if (header.length < HEADER_BYTES || header.every((byte) => byte === 0)) return nothing;
  if (!isHeaderValid(header)) return { headless: true, commitsBehind: 0 };
  const log = logOf(path, bytes, header.readUInt32BE(8));
  let checksums = headerChecksum(log);
  let n = 0;
  for (; holds(log, n, checksums); n++) checksums = storedChecksum(log.frame(n));
  if (n === log.count) return { headless: false, commitsBehind: endsWithin(log) ? 1 : 0 };
  const broken = n;
  const bit = wrongBit(log.frame(broken), around(log, broken, checksums));
  if (bit !== null) turn(log.frame(broken), bit);
  let commitsBehind = 0;
  for (let later = broken; later < log.count; later++) if (log.own(later) && commitPagesOf(log.frame(later)) !== 0) commitsBehind++;
  if (endsWithin(log)) commitsBehind++;
  if (bit === null || commitsBehind !== 1) return { headless: false, commitsBehind };
  // What follows in the same commit must be whole as well: else it was cut short, and the bit is of no account.
  for (; holds(log, n, checksums) && commitPagesOf(log.frame(n)) === 0; n++) checksums = storedChecksum(log.frame(n));
  if (!holds(log, n, checksums)) return { headless: false, commitsBehind };
  // Alone in its commit, no rows on it, and a byte that the log had there before may differ by just that bit: a frame's header is written before its
  // page. Then it is for what it would be without the bit, a commit cut short, and no row hangs on it.
  if (!bit.sure && isAlone(log, broken) && rowsOfPage(pageOf(log.frame(broken))) === null) return { headless: false, commitsBehind };
  return { headless: false, commitsBehind, bit: { ...bit, at: HEADER_BYTES + broken * (FRAME_HEADER_BYTES + log.pageBytes) + bit.at } };
}

/** Turns the bit that `inspectLog` found, before the database is opened; durable when it returns. Errors are the file system's. */
export function repairWalEnd(path: string, bit: Bit): void {
  const fd = openSync(`${path}-wal`, 'r+');
  try {
    const byte = Buffer.alloc(1);
    readSync(fd, byte, 0, 1, bit.at);
    turn(byte, { at: 0, mask: bit.mask });
    writeSync(fd, byte, 0, 1, bit.at);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Is this frame the only one of its commit? */
const isAlone = (log: Log, n: number): boolean => commitPagesOf(log.frame(n)) !== 0 && (n === 0 || commitPagesOf(log.frame(n - 1)) !== 0);

/** The file ends within the last frame of a commit of this log. */
function endsWithin(log: Log): boolean {
  const rest = log.frame(log.count);
  return rest.length >= FRAME_HEADER_BYTES && saltsOf(rest).equals(log.bytes.subarray(16, 24)) && commitPagesOf(rest) !== 0;
}

const headerChecksum = ({ bytes }: Log): Checksum => checksum(bytes.subarray(0, 24), [0, 0], isBigEndian(bytes));

function holds(log: Log, n: number, checksums: Checksum): boolean {
  return log.own(n) && sameChecksum(checksumOf(log.frame(n), checksums, isBigEndian(log.bytes)), storedChecksum(log.frame(n)));
}

/** What surrounds frame `n` where the frames before it are as they should be. */
function around(log: Log, n: number, checksums: Checksum): Around {
  const before = function* (): Generator<Buffer> {
    for (let earlier = n - 1; earlier >= 0; earlier--) yield log.frame(earlier);
  };
  const hashes = new Map<number, string | null>();
  const commit = before().find((frame) => commitPagesOf(frame) !== 0);
  return {
    checksums,
    bigEndian: isBigEndian(log.bytes),
    salts: log.bytes.subarray(16, 24),
    next: n + 1 < log.count ? log.frame(n + 1) : null,
    pageBefore(number) {
      const frame = before().find((one) => pageNumberOf(one) === number);
      return frame === undefined ? (filePages(log, number, 1).next().value ?? null) : pageOf(frame);
    },
    pagesBefore: commit === undefined ? pagesInFile(log) : commitPagesOf(commit),
    hashOfRow(id) {
      const known = hashes.get(id);
      if (known !== undefined) return known;
      const found = hashIn(before().map(pageOf), id) ?? hashIn(filePages(log, pagesInFile(log), MAX_SEARCHED_PAGES), id);
      hashes.set(id, found);
      return found;
    },
  };
}

function hashIn(pages: IteratorObject<Buffer>, id: number): string | null {
  for (const page of pages) {
    const row = rowsOfPage(page)?.find((one) => one.id === id);
    if (row !== undefined) return hashOf(row.text);
  }
  return null;
}

const pagesInFile = ({ path, pageBytes }: Log): number => Math.floor((statSync(path, { throwIfNoEntry: false })?.size ?? 0) / pageBytes);

/** Pages of the database's file from `last` downwards, at most `limit`. */
function* filePages({ path, pageBytes }: Log, last: number, limit: number): Generator<Buffer> {
  if (!existsSync(path)) return;
  const fd = openSync(path, 'r');
  try {
    for (let number = last; number > Math.max(0, last - limit); number--) {
      const page = readAt(fd, (number - 1) * pageBytes, pageBytes);
      if (page.length === pageBytes) yield page;
    }
  } finally {
    closeSync(fd);
  }
}

function readAt(fd: number, at: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  return bytes.subarray(0, readSync(fd, bytes, 0, length, at));
}

export interface Repaired {
  /** The log's bytes were changed. */
  readonly changed: boolean;
  /** Frames of which more than one bit is wrong, and whose pages no later frame tells of. */
  readonly unread: number;
}

/**
 * Makes a damaged log of a database that was quarantined readable to its end. Single bits are put right where their frames' checksums tell them.
 * Then the checksums are made anew over what is there, so that a frame that cannot be mended no longer hides the good ones behind it; what it
 * says is judged by the rows' own hashes. The log as it was stays beside it as `<log>.asis`. Errors are the file system's.
 */
export function rechecksumWal(path: string): Repaired {
  const wal = `${path}-wal`;
  const bytes = existsSync(wal) ? readFileSync(wal) : Buffer.alloc(0);
  if (bytes.length < HEADER_BYTES + FRAME_HEADER_BYTES) return { changed: false, unread: 0 };
  const before = Buffer.from(bytes);
  const log = logOf(path, bytes, pageBytesOf(path, bytes));
  if (log.count === 0) return { changed: false, unread: 0 };
  if (!isHeaderValid(bytes.subarray(0, HEADER_BYTES)) && !repairHeader(log)) makeHeader(log);
  const unread = repairFrames(log);
  sumAnew(log);
  if (bytes.equals(before)) return { changed: false, unread };
  writeFileSync(`${wal}.asis`, before);
  writeFileSync(wal, bytes);
  return { changed: true, unread };
}

/** Turns the bits that can be told; answers how many frames it leaves of which that matters. */
function repairFrames(log: Log): number {
  const bad = new Map<number, number>();
  let left = MAX_MENDED_FRAMES;
  let checksums = headerChecksum(log);
  for (let n = 0; n < log.count; n++) {
    const frame = log.frame(n);
    if (!holds(log, n, checksums)) {
      const bit = left-- > 0 ? wrongBit(frame, around(log, n, checksums)) : null;
      if (bit !== null) turn(frame, bit);
      else if (!log.own(n) && !log.own(n + 1)) break;
      else {
        bad.set(pageNumberOf(frame), n);
        // Its sums may be right, and then they lead on; or they are what is wrong.
        const right = checksumOf(frame, checksums, isBigEndian(log.bytes));
        checksums = holds(log, n + 1, right) ? right : storedChecksum(frame);
        continue;
      }
    }
    bad.delete(pageNumberOf(frame));
    checksums = storedChecksum(frame);
  }
  return bad.size;
}

/** One bit of the header; false: more are wrong. */
function repairHeader({ bytes, frame }: Log): boolean {
  const header = bytes.subarray(0, HEADER_BYTES);
  for (let bit = 0; bit < HEADER_BYTES * 8; bit++) {
    const one = { at: bit >> 3, mask: 1 << (bit & 7) };
    turn(header, one);
    if (isHeaderValid(header) && header.readUInt32BE(4) === VERSION && header.subarray(16, 24).equals(saltsOf(frame(0)))) return true;
    turn(header, one);
  }
  return false;
}

function makeHeader({ bytes, pageBytes, count, frame }: Log): void {
  bytes.writeUInt32BE(MAGIC, 0);
  bytes.writeUInt32BE(VERSION, 4);
  bytes.writeUInt32BE(pageBytes, 8);
  // What the frames agree on: the first two of one log say the same. A log may be preallocated in zeros before it is written.
  const second = count > 1 && saltsOf(frame(1)).some((byte) => byte !== 0);
  saltsOf(frame(second ? 1 : 0)).copy(bytes, 16);
  writeChecksums(bytes, 24, checksum(bytes.subarray(0, 24), [0, 0], isBigEndian(bytes)));
}

function sumAnew(log: Log): void {
  const salts = log.bytes.subarray(16, 24);
  let checksums = headerChecksum(log);
  for (let n = 0; n < log.count; n++) {
    // One frame of another log between two of this one has damaged salts; two of them are the end.
    if (!log.own(n) && !log.own(n + 1)) break;
    salts.copy(log.frame(n), 8);
    checksums = checksumOf(log.frame(n), checksums, isBigEndian(log.bytes));
    writeChecksums(log.frame(n), SUMS_AT, checksums);
  }
}

function writeChecksums(bytes: Buffer, at: number, [first, second]: Checksum): void {
  bytes.writeUInt32BE(first, at);
  bytes.writeUInt32BE(second, at + 4);
}

/** As the database says, else the log, else what SQLite takes. */
function pageBytesOf(path: string, wal: Buffer): number {
  const plausible = (size: number): boolean => size >= 512 && size <= 65_536 && (size & (size - 1)) === 0;
  const fd = openSync(path, 'r');
  try {
    const head = readAt(fd, 0, 18);
    const own = head.length < 18 ? 0 : head.readUInt16BE(16);
    if (plausible(own)) return own;
  } finally {
    closeSync(fd);
  }
  const named = wal.readUInt32BE(8);
  return plausible(named) ? named : 4_096;
}
