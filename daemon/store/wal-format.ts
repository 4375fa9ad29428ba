/**
 * The bytes of a write-ahead log: a header, then frames (a page of the database each) whose checksums go on from the one before.
 *
 * Format: https://sqlite.org/fileformat2.html#the_write_ahead_log
 */
export const HEADER_BYTES = 32;
export const FRAME_HEADER_BYTES = 24;
/** The last bit says in which order the checksums' words are read. */
export const MAGIC = 0x377f0682;
/** Offsets in a frame's header; the checksums do not cover the salts. */
export const SALTS_AT = 8;
export const CHECKSUM_AT = 16;

export type Checksum = readonly [number, number];

export const sameChecksum = (one: Checksum, other: Checksum): boolean => one[0] === other[0] && one[1] === other[1];

export function checksum(bytes: Buffer, [first, second]: Checksum, bigEndian: boolean): Checksum {
  let a = first;
  let b = second;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at + 8 <= bytes.length; at += 8) {
    a = (a + view.getUint32(at, !bigEndian) + b) >>> 0;
    b = (b + view.getUint32(at + 4, !bigEndian) + a) >>> 0;
  }
  return [a, b];
}

export const isBigEndian = (header: Buffer): boolean => header.readUInt32BE(0) === (MAGIC | 1) >>> 0;

export function isHeaderValid(header: Buffer): boolean {
  const magic = header.readUInt32BE(0);
  if ((magic & ~1) >>> 0 !== MAGIC) return false;
  const [a, b] = checksum(header.subarray(0, 24), [0, 0], isBigEndian(header));
  return header.readUInt32BE(24) === a && header.readUInt32BE(28) === b;
}

/** Returns the checksum that a frame must carry where `checksums` is that of the frame before. */
export const checksumOf = (frame: Buffer, checksums: Checksum, bigEndian: boolean): Checksum =>
  checksum(frame.subarray(FRAME_HEADER_BYTES), checksum(frame.subarray(0, SALTS_AT), checksums, bigEndian), bigEndian);

/** Returns the checksum that a frame carries. */
export const storedChecksum = (frame: Buffer): Checksum => [frame.readUInt32BE(CHECKSUM_AT), frame.readUInt32BE(CHECKSUM_AT + 4)];

export const saltsOf = (frame: Buffer): Buffer => frame.subarray(SALTS_AT, CHECKSUM_AT);
export const pageNumberOf = (frame: Buffer): number => frame.readUInt32BE(0);
/** Returns the commit mark: in the last frame of a commit the database's size in pages; 0: more frames follow. */
export const commitPagesOf = (frame: Buffer): number => frame.readUInt32BE(4);

/** A log's bytes, frame by frame. */
export interface Wal {
  readonly bytes: Buffer;
  readonly pageBytes: number;
  /** Whole frames, those of earlier logs in the same file included. */
  readonly count: number;
  frame(n: number): Buffer;
  /** Tells whether frame `n` carries this log's salts, not those of an earlier log in the same file. */
  own(n: number): boolean;
}

/** Returns a view of a log's bytes: writing to a frame writes to `bytes`. */
export function walOf(bytes: Buffer, pageBytes: number): Wal {
  const frameBytes = FRAME_HEADER_BYTES + pageBytes;
  const count = Math.floor((bytes.length - HEADER_BYTES) / frameBytes);
  const frame = (n: number): Buffer => bytes.subarray(HEADER_BYTES + n * frameBytes, HEADER_BYTES + (n + 1) * frameBytes);
  return { bytes, pageBytes, count, frame, own: (n) => n < count && saltsOf(frame(n)).equals(bytes.subarray(16, 24)) };
}

/** Returns the checksum that the first frame continues. */
export const headerChecksum = ({ bytes }: Wal): Checksum => checksum(bytes.subarray(0, 24), [0, 0], isBigEndian(bytes));

/** Tells whether the checksum of frame `n` is right where `before` is that of the frame before. Salts are not covered by it. */
export const isChecksumRight = (wal: Wal, n: number, before: Checksum): boolean =>
  n < wal.count && sameChecksum(checksumOf(wal.frame(n), before, isBigEndian(wal.bytes)), storedChecksum(wal.frame(n)));

/** Tells whether SQLite would read frame `n`: its salts and its checksum are right. */
export const isFrameValid = (wal: Wal, n: number, before: Checksum): boolean => wal.own(n) && isChecksumRight(wal, n, before);
