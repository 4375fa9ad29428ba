/**
 * A checksum of every page of a database's file, kept beside it as `<database>.pages`: SQLite has none, so a bit that rots in a number or a
 * name is read as if it had been written.
 *
 * The file changes only at a checkpoint of the log. Before it the checksums are made void, after it those of the changed pages are made anew, both
 * synced: a power cut between leaves no checksums, which says nothing, and never wrong ones. A log has checksums of its own.
 */
import { closeSync, constants, existsSync, fstatSync, fsyncSync, openSync, readFileSync, readSync, rmSync, writeSync } from 'node:fs';
import { crc32 } from 'node:zlib';

/** "StP1" */
const MAGIC = 0x53745031;
const HEAD_BYTES = 32;
const PAGE_BYTES = 4_096;
const WAL_HEADER_BYTES = 32;
const FRAME_BYTES = 24 + PAGE_BYTES;
/** Files up to this size are checked whole before anything is read from them, in bytes; larger ones in steps while the lane is idle. */
export const CHECKED_AT_OPEN_BYTES = 4 * 1024 * 1024;
/** Pages read at a time. */
const SLICE_PAGES = 64;

export interface PageChecksums {
  /** Makes the checksums void before a checkpoint. Throws the file system's errors. */
  before(): void;
  /** Writes the checksums after it: `mark` rises with what the database takes in. */
  after(mark: number): void;
  /** Checks up to `pages` more; false: all are checked. Throws `onDamage`'s error at the first page that is not what was written. */
  checkSome(pages: number): boolean;
}

export interface PageChecksumsOptions {
  /** The database. */
  readonly path: string;
  /** Returns how much the file alone, without its log, has taken in; null: it cannot be read. Another program may have checkpointed the log. */
  readonly markOf: () => number | null;
  readonly onDamage: (page: number) => Error;
}

export const checksumsPath = (path: string): string => `${path}.pages`;

/** Deletes the checksums of a database that is new, or goes: those of another must never be held against it. */
export const deleteChecksums = (path: string): void => rmSync(checksumsPath(path), { force: true });

/** Checks small files at once; called before the database is opened. Errors are the file system's, or `onDamage`'s. */
export function openPageChecksums({ path, markOf, onDamage }: PageChecksumsOptions): PageChecksums {
  let known = existsSync(path) ? readChecksums(checksumsPath(path)) : null;
  let checked = 0;
  /** Pages that the log will change. */
  let touched: ReadonlySet<number> | null = null;

  const checksumOf = (pages: Iterable<number>): Map<number, number> => {
    const found = new Map<number, number>();
    const fd = openSync(path, 'r');
    try {
      const page = Buffer.alloc(PAGE_BYTES);
      for (const number of pages) found.set(number, crc32(page.subarray(0, readSync(fd, page, 0, PAGE_BYTES, (number - 1) * PAGE_BYTES))));
    } finally {
      closeSync(fd);
    }
    return found;
  };
  const wrongPages = (from: number, to: number): number[] => {
    const checksums = known?.checksums ?? [];
    return [...checksumOf(range(from, to))].filter(([page, sum]) => checksums[page - 1] !== sum).map(([page]) => page);
  };
  const checkSome = (pages: number): boolean => {
    if (known === null || checked >= known.checksums.length) return false;
    const to = Math.min(known.checksums.length, checked + pages);
    const wrong = wrongPages(checked + 1, to);
    if (wrong[0] !== undefined) {
      const all = wrongPages(1, known.checksums.length);
      const mark = markOf();
      // Another program checkpointed the log and keeps no checksums: an earlier release, a person with a shell. More than one page changed, and there is more in it.
      if (all.length > 1 && mark !== null && mark > known.mark) {
        known = null;
        return false;
      }
      throw onDamage(wrong[0]);
    }
    checked = to;
    return checked < known.checksums.length;
  };

  if (known !== null && known.checksums.length * PAGE_BYTES <= CHECKED_AT_OPEN_BYTES) while (checkSome(SLICE_PAGES));
  return {
    before() {
      touched = pagesInLog(`${path}-wal`);
      if (existsSync(checksumsPath(path))) writeChecksums(checksumsPath(path), null);
    },
    after(mark) {
      const pages = pageCount(path);
      const checksums = new Array<number>(pages);
      // Pages that were not yet checked keep the sum that they must have.
      const old = known?.checksums ?? [];
      const fresh = checksumOf(
        known === null ? range(1, pages) : [...(touched ?? [])].filter((page) => page <= pages).concat([...range(old.length + 1, pages)]),
      );
      for (let n = 0; n < pages; n++) checksums[n] = fresh.get(n + 1) ?? old[n] ?? 0;
      if (known === null) checked = pages;
      known = { mark, checksums };
      touched = null;
      writeChecksums(checksumsPath(path), known);
    },
    checkSome,
  };
}

/** Counts the pages of a quarantined database that are not what was written; 0 where nothing is known of them. Throws the file system's errors. */
export function countDamagedPages(path: string): number {
  const known = readChecksums(checksumsPath(path));
  if (known === null) return 0;
  let damaged = 0;
  const file = openSync(path, 'r');
  try {
    const page = Buffer.alloc(PAGE_BYTES);
    for (const [n, checksum] of known.checksums.entries()) {
      if (readSync(file, page, 0, PAGE_BYTES, n * PAGE_BYTES) === PAGE_BYTES && crc32(page) !== checksum) damaged++;
    }
    return damaged;
  } finally {
    closeSync(file);
  }
}

function* range(from: number, to: number): Iterable<number> {
  for (let n = from; n <= to; n++) yield n;
}

function pageCount(path: string): number {
  const fd = openSync(path, 'r');
  try {
    return Math.floor(fstatSync(fd).size / PAGE_BYTES);
  } finally {
    closeSync(fd);
  }
}

/** Returns every page that a frame of this log names, read or not: not those of an earlier log in the same file. */
function pagesInLog(wal: string): Set<number> {
  const pages = new Set<number>();
  if (!existsSync(wal)) return pages;
  const fd = openSync(wal, 'r');
  try {
    const header = Buffer.alloc(WAL_HEADER_BYTES);
    readSync(fd, header, 0, WAL_HEADER_BYTES, 0);
    const head = Buffer.alloc(16);
    for (let at = WAL_HEADER_BYTES; readSync(fd, head, 0, 16, at) === 16; at += FRAME_BYTES) {
      const page = head.readUInt32BE(0);
      // There is no page 0: a power cut may leave zeros where a header and frames were to be.
      if (page > 0 && head.subarray(8, 16).equals(header.subarray(16, 24))) pages.add(page);
    }
  } finally {
    closeSync(fd);
  }
  return pages;
}

interface Known {
  readonly mark: number;
  readonly checksums: readonly number[];
}

/** null: void, damaged or not there: nothing is known. */
function readChecksums(path: string): Known | null {
  if (!existsSync(path)) return null;
  const bytes = readFileSync(path);
  if (bytes.length < HEAD_BYTES || bytes.readUInt32LE(0) !== MAGIC) return null;
  const pages = bytes.readUInt32LE(4);
  if (bytes.length < HEAD_BYTES + pages * 4) return null;
  const checksums = bytes.subarray(HEAD_BYTES, HEAD_BYTES + pages * 4);
  if (bytes.readUInt32LE(16) !== crc32(checksums, crc32(bytes.subarray(4, 16)))) return null;
  return { mark: bytes.readDoubleLE(8), checksums: Array.from({ length: pages }, (_, n) => checksums.readUInt32LE(n * 4)) };
}

function writeChecksums(path: string, known: Known | null): void {
  const file = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o640);
  try {
    if (known === null) writeSync(file, Buffer.alloc(4), 0, 4, 0);
    else {
      const bytes = Buffer.alloc(HEAD_BYTES + known.checksums.length * 4);
      bytes.writeUInt32LE(MAGIC, 0);
      bytes.writeUInt32LE(known.checksums.length, 4);
      bytes.writeDoubleLE(known.mark, 8);
      known.checksums.forEach((sum, n) => {
        bytes.writeUInt32LE(sum, HEAD_BYTES + n * 4);
      });
      bytes.writeUInt32LE(crc32(bytes.subarray(HEAD_BYTES), crc32(bytes.subarray(4, 16))), 16);
      writeSync(file, bytes, 0, bytes.length, 0);
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
