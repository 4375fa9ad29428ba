/**
 * Inspects a write-ahead log before SQLite opens it. SQLite takes the first frame with a wrong checksum for the end of the log and drops every
 * commit behind it without an error. After a power cut that is right for at most one commit, the last one, which was never answered: each commit
 * is synced before the next begins. More than one dropped commit is damage.
 *
 * The log is only read here. A database with a damaged log is quarantined, and its rows are salvaged (`wal-salvage.ts`).
 */
import { existsSync, readFileSync } from 'node:fs';
import {
  commitPagesOf,
  FRAME_HEADER_BYTES,
  HEADER_BYTES,
  headerChecksum,
  isChecksumRight,
  isFrameValid,
  isHeaderValid,
  saltsOf,
  storedChecksum,
  type Wal,
  walOf,
} from './wal-format.ts';

export interface WalEnd {
  /** The header is damaged: SQLite would read nothing of the log. */
  readonly headless: boolean;
  /** Commits of this log that SQLite would drop. One is the last commit, cut short or damaged; two or more are damage. */
  readonly commitsBehind: number;
}

/** Returns where SQLite would end the log of the database `path`, and how many commits it would drop. Throws the file system's errors. */
export function inspectWal(path: string): WalEnd {
  const wal = `${path}-wal`;
  return existsSync(wal) ? walEnd(readFileSync(wal)) : { headless: false, commitsBehind: 0 };
}

/** Judges a log by its bytes. A log of zeros, or shorter than a header, was never begun. */
export function walEnd(bytes: Buffer): WalEnd {
  const header = bytes.subarray(0, HEADER_BYTES);
  if (header.length < HEADER_BYTES || header.every((byte) => byte === 0)) return { headless: false, commitsBehind: 0 };
  if (!isHeaderValid(header)) return { headless: true, commitsBehind: 0 };
  const log = walOf(bytes, header.readUInt32BE(8));
  let checksum = headerChecksum(log);
  let broken = 0;
  for (; isFrameValid(log, broken, checksum); broken++) checksum = storedChecksum(log.frame(broken));
  /** Frames of this log: a bit of a salt may be what is damaged. The salts of earlier logs differ in both halves. */
  const isOurs = (n: number): boolean => log.own(n) || hasOneSalt(log, n) || (n === broken && isChecksumRight(log, n, checksum));
  let commitsBehind = endsWithinCommit(log) ? 1 : 0;
  for (let n = broken; n < log.count; n++) if (commitPagesOf(log.frame(n)) !== 0 && isOurs(n)) commitsBehind++;
  // The commit mark itself may be damaged, or not written.
  if (commitsBehind === 0 && broken < log.count && isOurs(broken)) commitsBehind = 1;
  return { headless: false, commitsBehind };
}

function hasOneSalt(log: Wal, n: number): boolean {
  const salts = saltsOf(log.frame(n));
  return salts.subarray(0, 4).equals(log.bytes.subarray(16, 20)) || salts.subarray(4).equals(log.bytes.subarray(20, 24));
}

/** Tells whether the file ends within the last frame of a commit of this log. */
function endsWithinCommit(log: Wal): boolean {
  const rest = log.frame(log.count);
  return rest.length >= FRAME_HEADER_BYTES && saltsOf(rest).equals(log.bytes.subarray(16, 24)) && commitPagesOf(rest) !== 0;
}
