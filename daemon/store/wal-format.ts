/**
 * The bytes of a write-ahead log: a header, then frames (a page of the database each) whose checksums go on from the one before.
 *
 * Format: https://sqlite.org/fileformat2.html#the_write_ahead_log
 */
export const HEADER_BYTES = 32;
export const FRAME_HEADER_BYTES = 24;
/** The last bit says in which order the checksums' words are read. */
export const MAGIC = 0x377f0682;
/** Where a frame's header has them: the checksums do not cover the salts. */
export const SALTS_AT = 8;
export const SUMS_AT = 16;

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

/** What a frame's checksums must be where `sums` are those of the frame before. */
export const checksumOf = (frame: Buffer, checksums: Checksum, bigEndian: boolean): Checksum =>
  checksum(frame.subarray(FRAME_HEADER_BYTES), checksum(frame.subarray(0, SALTS_AT), checksums, bigEndian), bigEndian);

/** What a frame says that they are. */
export const storedChecksum = (frame: Buffer): Checksum => [frame.readUInt32BE(SUMS_AT), frame.readUInt32BE(SUMS_AT + 4)];

export const saltsOf = (frame: Buffer): Buffer => frame.subarray(SALTS_AT, SUMS_AT);
export const pageNumberOf = (frame: Buffer): number => frame.readUInt32BE(0);
/** Of the last frame of a commit: the database's size in pages; 0: more frames follow. */
export const commitPagesOf = (frame: Buffer): number => frame.readUInt32BE(4);
export const pageOf = (frame: Buffer): Buffer => frame.subarray(FRAME_HEADER_BYTES);
