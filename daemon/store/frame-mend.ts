/**
 * Which one bit of a log's frame is wrong? SQLite's checksum is linear: a bit changes it by a number that its place alone gives, so the place
 * is found by one pass. The sum of 64 bits proves that the frame, with that bit turned, is what was written: no frame that a power cut tore
 * fits by chance (about 2^15 places in 2^64 sums).
 *
 * Where the bit stands high in its word (23 to 31 of 32) its place is not the only one that fits. Then rows decide, each by its own hash.
 */

import { rowsFollow } from './rows-page.ts';
import {
  type Checksum,
  checksumOf,
  commitPagesOf,
  FRAME_HEADER_BYTES,
  pageNumberOf,
  pageOf,
  SALTS_AT,
  SUMS_AT,
  saltsOf,
  sameChecksum,
  storedChecksum,
} from './wal-format.ts';

/** Pages by which a commit of the gate may let the database grow, for telling a damaged size from a true one. */
const MAX_GROWTH_PAGES = 64;

/** One bit: byte of the frame, and its mask. */
export interface Bit {
  readonly at: number;
  readonly mask: number;
}
export interface FoundBit extends Bit {
  /** It is the only one that fits, or the rows behind it prove it. */
  readonly sure: boolean;
}

/** What surrounds a frame. */
export interface Around {
  readonly checksums: Checksum;
  readonly bigEndian: boolean;
  readonly salts: Buffer;
  /** The frame after it; null: there is none. */
  readonly next: Buffer | null;
  /** The page as it was before this frame; null: there was none. */
  readonly pageBefore: (number: number) => Buffer | null;
  /** Size of the database before this frame, in pages. */
  readonly pagesBefore: number;
  /** Hash of a row by its id, from any page before this frame; null: not found. */
  readonly hashOfRow: (id: number) => string | null;
}

/** The bit that makes the frame whole; null: it is whole, or more than one bit is wrong, or none is likelier than another. */
export function wrongBit(frame: Buffer, around: Around): FoundBit | null {
  const fits = fittingBits(frame, around);
  const [only, second] = fits;
  if (only === undefined) return null;
  if (second === undefined) return { ...only, sure: true };
  const compare = (a: Weight, b: Weight): number => b.follow - a.follow || a.size - b.size || a.distance - b.distance;
  const weighed = fits.map((bit) => ({ bit, ...weigh(turned(frame, bit), around) })).sort(compare);
  const [best, next] = weighed as [(typeof weighed)[number], (typeof weighed)[number]];
  // Where rows prove several, the bit stands where nothing is read from.
  if (best.follow === 2) return { ...best.bit, sure: true };
  return compare(best, next) < 0 ? { ...best.bit, sure: false } : null;
}

/** Turns it in place. */
export function turn(bytes: Buffer, { at, mask }: Bit): void {
  bytes[at] = (bytes[at] as number) ^ mask;
}

const turned = (frame: Buffer, bit: Bit): Buffer => {
  const copy = Buffer.from(frame);
  turn(copy, bit);
  return copy;
};

/** Every single bit with which the frame's checksums hold and its salts are those of the log. */
function fittingBits(frame: Buffer, { checksums, bigEndian, salts, next }: Around): Bit[] {
  const right = checksumOf(frame, checksums, bigEndian);
  const stated = storedChecksum(frame);
  const inSalts = differentBits(saltsOf(frame), salts, SALTS_AT);
  if (sameChecksum(right, stated)) return inSalts.length === 1 ? inSalts : [];
  if (inSalts.length > 0) return [];
  const inChecksum = differentBits(frame.subarray(SUMS_AT, FRAME_HEADER_BYTES), bytesOf(right), SUMS_AT);
  const ofChecksum = inChecksum.length === 1 ? inChecksum : [];
  // The frame after it goes on from what this one must say.
  const follows = (from: Checksum): boolean =>
    next !== null && saltsOf(next).equals(salts) && sameChecksum(checksumOf(next, from, bigEndian), storedChecksum(next));
  if (ofChecksum.length > 0 && follows(right)) return ofChecksum;
  const ofContent = contentBits(frame, right, stated, bigEndian);
  return follows(stated) ? ofContent : [...ofContent, ...ofChecksum];
}

/**
 * Bits of what the checksums cover which, turned, make `right` into `stated`. Of the two sums of a pair of words the first takes a change as it
 * is into both, the second into the second alone; every further pair makes (a, b) into (a + b, a + 2b).
 */
function contentBits(frame: Buffer, right: Checksum, stated: Checksum, bigEndian: boolean): Bit[] {
  const missing = [(stated[0] - right[0]) | 0, (stated[1] - right[1]) | 0] as const;
  const found: Bit[] = [];
  let even = [1, 1] as readonly [number, number];
  let odd = [0, 1] as readonly [number, number];
  const look = (at: number, [a, b]: readonly [number, number]): void => {
    for (let bit = 0; bit < 32; bit++) {
      const byte = at + (bigEndian ? 3 - (bit >> 3) : bit >> 3);
      const mask = 1 << (bit & 7);
      const change = ((frame[byte] as number) & mask) === 0 ? 1 << bit : -(1 << bit);
      if (Math.imul(change, a) === missing[0] && Math.imul(change, b) === missing[1]) found.push({ at: byte, mask });
    }
  };
  for (let at = frame.length - 8; at >= 0; at -= 8) {
    if (at >= SALTS_AT && at < FRAME_HEADER_BYTES) continue;
    look(at, even);
    look(at + 4, odd);
    even = [(even[0] + even[1]) | 0, (even[0] + 2 * even[1]) | 0];
    odd = [(odd[0] + odd[1]) | 0, (odd[0] + 2 * odd[1]) | 0];
  }
  return found;
}

/** How likely a frame is what was written. */
interface Weight {
  /** 2: all its rows follow from each other and from the one before them. 1: all but the first, whose predecessor is not known. 0: not, or no rows. */
  readonly follow: 0 | 1 | 2;
  /** 0: the database is as large as the commit before said. Higher: that is less likely. */
  readonly size: number;
  /** How far its page is from what it was before, in bits. */
  readonly distance: number;
}

function weigh(frame: Buffer, { pageBefore, hashOfRow, pagesBefore }: Around): Weight {
  const page = pageOf(frame);
  const follows = rowsFollow(page, hashOfRow);
  const pages = commitPagesOf(frame);
  return {
    follow: follows === 'all' ? 2 : follows === 'but the first' ? 1 : 0,
    size: pages === pagesBefore ? 0 : pages === 0 ? 1 : pages > pagesBefore && pages <= pagesBefore + MAX_GROWTH_PAGES ? 2 : 3,
    distance: distanceOf(page, pageBefore(pageNumberOf(frame))),
  };
}

function distanceOf(page: Buffer, before: Buffer | null): number {
  let distance = 0;
  for (let n = 0; n < page.length; n++) for (let bits = (page[n] as number) ^ (before?.[n] ?? 0); bits !== 0; bits &= bits - 1) distance++;
  return distance;
}

function differentBits(bytes: Buffer, wanted: Buffer, at: number): Bit[] {
  const found: Bit[] = [];
  for (let n = 0; n < wanted.length; n++) {
    const different = (bytes[n] as number) ^ (wanted[n] as number);
    for (let bit = 0; bit < 8; bit++) if ((different & (1 << bit)) !== 0) found.push({ at: at + n, mask: 1 << bit });
  }
  return found;
}

function bytesOf([a, b]: Checksum): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32BE(a, 0);
  bytes.writeUInt32BE(b, 4);
  return bytes;
}
