/**
 * Looks at a write-ahead log for what SQLite never says: a log ends, for SQLite, at the first frame whose checksum is wrong, and whatever was
 * committed behind it is gone without a word. After a power cut that is right for one commit at most, the last one, which nobody was told of:
 * each commit is synced before the next begins. Anything more is damage.
 *
 * Format: https://sqlite.org/fileformat2.html#the_write_ahead_log
 */
import { closeSync, existsSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';

const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
/** The last bit says in which order the checksums' words are read. */
const MAGIC = 0x377f0682;
export interface LogEnd {
  /** The header does not hold: nothing of the log was read. */
  readonly headless: boolean;
  /** Commits of this log that lie behind what SQLite reads. One is the last commit, cut short or damaged; two or more are damage. */
  readonly commitsBehind: number;
}

/** Before the database is opened: opening drops what lies behind the good part, and closing folds and removes it all. Errors are the file system's. */
export function inspectLog(path: string): LogEnd {
  const nothing: LogEnd = { headless: false, commitsBehind: 0 };
  const wal = `${path}-wal`;
  if (!existsSync(wal)) return nothing;
  const bytes = readFileSync(wal);
  const header = bytes.subarray(0, HEADER_BYTES);
  if (header.length < HEADER_BYTES || header.every((byte) => byte === 0)) return nothing;
  if (!headerHolds(header)) return { headless: true, commitsBehind: 0 };
  const salts = header.subarray(16, 24);
  const bigEndian = isBig(header);
  const pageBytes = header.readUInt32BE(8);
  let sums: Sums | null = checksum(header.subarray(0, 24), [0, 0], bigEndian);
  let commitsBehind = 0;
  for (let at = HEADER_BYTES; at + FRAME_HEADER_BYTES <= bytes.length; at += FRAME_HEADER_BYTES + pageBytes) {
    const head = bytes.subarray(at, at + FRAME_HEADER_BYTES);
    const page = bytes.subarray(at + FRAME_HEADER_BYTES, at + FRAME_HEADER_BYTES + pageBytes);
    // Of an earlier log in the same file: written over little by little.
    const same = head.subarray(8, 16).equals(salts);
    if (sums !== null) {
      const [a, b]: Sums = same && page.length === pageBytes ? checksum(page, checksum(head.subarray(0, 8), sums, bigEndian), bigEndian) : [-1, -1];
      sums = head.readUInt32BE(16) === a && head.readUInt32BE(20) === b ? [a, b] : null;
      if (sums !== null) continue;
    }
    if (same && head.readUInt32BE(4) !== 0) commitsBehind++;
  }
  return { headless: false, commitsBehind };
}

function readAt(fd: number, at: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  return bytes.subarray(0, readSync(fd, bytes, 0, length, at));
}

type Sums = readonly [number, number];

function checksum(bytes: Buffer, [first, second]: Sums, bigEndian: boolean): Sums {
  let a = first;
  let b = second;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at + 8 <= bytes.length; at += 8) {
    a = (a + view.getUint32(at, !bigEndian) + b) >>> 0;
    b = (b + view.getUint32(at + 4, !bigEndian) + a) >>> 0;
  }
  return [a, b];
}

const isBig = (header: Buffer): boolean => header.readUInt32BE(0) === (MAGIC | 1) >>> 0;

function headerHolds(header: Buffer): boolean {
  const magic = header.readUInt32BE(0);
  if ((magic & ~1) >>> 0 !== MAGIC) return false;
  const [a, b] = checksum(header.subarray(0, 24), [0, 0], isBig(header));
  return header.readUInt32BE(24) === a && header.readUInt32BE(28) === b;
}

/**
 * Makes a damaged log of a database that was set aside readable to its end: the checksums are made anew over what is there, so that one bad
 * frame no longer hides the good ones behind it. What a bad frame says is then judged by the rows' own hashes. The log as it was stays beside
 * it as `<log>.asis`. false: there is nothing to mend. Errors are the file system's.
 */
export function mendLog(path: string): boolean {
  const wal = `${path}-wal`;
  if (!existsSync(wal)) return false;
  const bytes = readFileSync(wal);
  if (bytes.length < HEADER_BYTES + FRAME_HEADER_BYTES) return false;
  const before = Buffer.from(bytes);
  const pageBytes = pageBytesOf(path, bytes);
  const frameBytes = FRAME_HEADER_BYTES + pageBytes;
  const frames = Math.floor((bytes.length - HEADER_BYTES) / frameBytes);
  if (frames === 0) return false;
  const headOf = (frame: number): Buffer => bytes.subarray(HEADER_BYTES + frame * frameBytes, HEADER_BYTES + frame * frameBytes + FRAME_HEADER_BYTES);
  const saltsOf = (frame: number): Buffer | null => (frame < frames ? headOf(frame).subarray(8, 16) : null);
  if (!headerHolds(bytes.subarray(0, HEADER_BYTES))) {
    bytes.writeUInt32BE(MAGIC, 0);
    bytes.writeUInt32BE(3_007_000, 4);
    bytes.writeUInt32BE(pageBytes, 8);
    // What the frames agree on: the first two of one log say the same.
    const agreed = saltsOf(1)?.equals(saltsOf(0) as Buffer) === false ? saltsOf(1) : saltsOf(0);
    (agreed as Buffer).copy(bytes, 16);
  }
  const bigEndian = isBig(bytes.subarray(0, HEADER_BYTES));
  let sums = checksum(bytes.subarray(0, 24), [0, 0], bigEndian);
  bytes.writeUInt32BE(sums[0], 24);
  bytes.writeUInt32BE(sums[1], 28);
  const salts = Buffer.from(bytes.subarray(16, 24));
  for (let frame = 0; frame < frames; frame++) {
    // One frame of another log between two of this one has damaged salts; two of them are the end.
    if (!saltsOf(frame)?.equals(salts) && !saltsOf(frame + 1)?.equals(salts)) break;
    const head = headOf(frame);
    salts.copy(head, 8);
    sums = checksum(head.subarray(0, 8), sums, bigEndian);
    const page = HEADER_BYTES + frame * frameBytes + FRAME_HEADER_BYTES;
    sums = checksum(bytes.subarray(page, page + pageBytes), sums, bigEndian);
    head.writeUInt32BE(sums[0], 16);
    head.writeUInt32BE(sums[1], 20);
  }
  if (bytes.equals(before)) return false;
  writeFileSync(`${wal}.asis`, before);
  writeFileSync(wal, bytes);
  return true;
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
