/**
 * Judges each reader by what comes from it: bytes without frames, garbled frames in a row, and codes that nobody knows mean a wrong set-up, a bad
 * cable, or another program on the port. Counts for status, health and doctor.
 */
import type { ReaderEvent } from '../ports.ts';

/** Bytes that are not followed by a frame within this are an unfinished code, ms. */
export const UNFINISHED_MS = 2_000;
/** Unfinished codes in a row that raise the alert. */
export const UNFINISHED_IN_A_ROW = 2;
/** Garbled frames in a row that raise the alert. */
export const GARBLED_IN_A_ROW = 3;
/** Unknown codes in a row that raise the alert. */
export const UNKNOWN_IN_A_ROW = 20;
/** Codes over which the share of unknown ones is looked at, and the time within which they came, ms. */
export const SHARE_OF = 25;
export const SHARE_WITHIN_MS = 600_000;
const UNKNOWN_SHARE = 0.8;
/** Fewer bytes than this are no code. */
const LEAST_BYTES = 4;

export interface ReaderCounts {
  /** Bytes as they came. */
  readonly bytes: number;
  readonly frames: number;
  readonly garbled: number;
  /** Codes that no list knows. */
  readonly unknown: number;
  /** Frames of control bytes alone: no guest. */
  readonly noise: number;
}

export interface ReaderProblem {
  readonly cause: string;
  readonly hint: string;
}

export interface ReaderWatch {
  onEvent(event: ReaderEvent): void;
  /** Counts a frame of control bytes alone. */
  onNoise(reader: string): void;
  /** Notes whether a list knows the code that a reader read. */
  onDecision(reader: string, unknown: boolean, atMs: number): void;
  /** Notes the programs that hold the port besides the gate. */
  holders(reader: string, names: readonly string[]): void;
  /** Looks for codes that were begun and never ended. */
  poll(nowMs: number): void;
  counts(reader: string): ReaderCounts;
  problem(reader: string): ReaderProblem | null;
}

interface Watched {
  bytes: number;
  frames: number;
  garbled: number;
  unknown: number;
  noise: number;
  /** Bytes since the last frame. */
  loose: number;
  lastByteMs: number;
  unfinishedInARow: number;
  garbledInARow: number;
  unknownInARow: number;
  /** The last codes: when, and whether unknown. */
  codes: { readonly atMs: number; readonly unknown: boolean }[];
  /** Of the last bytes: whether some had the eighth bit set. */
  highBits: boolean;
  /** The last frame begins with an AIM mark. */
  marked: boolean;
  holders: readonly string[];
}

const fresh = (): Watched => ({
  bytes: 0,
  frames: 0,
  garbled: 0,
  unknown: 0,
  noise: 0,
  loose: 0,
  lastByteMs: 0,
  unfinishedInARow: 0,
  garbledInARow: 0,
  unknownInARow: 0,
  codes: [],
  highBits: false,
  marked: false,
  holders: [],
});

/** Returns the frame without control bytes at its ends (GS stays: it may begin a GS1 code); empty: it was nothing else. */
export function withoutNoise(bytes: Uint8Array): Uint8Array {
  const isNoise = (byte: number | undefined): boolean => byte !== undefined && ((byte < 0x20 && byte !== 0x1d) || byte === 0x7f || byte === 0xff);
  let from = 0;
  let to = bytes.length;
  while (from < to && isNoise(bytes[from])) from += 1;
  while (to > from && isNoise(bytes[to - 1])) to -= 1;
  return from === 0 && to === bytes.length ? bytes : bytes.slice(from, to);
}

export function createReaderWatch(): ReaderWatch {
  const readers = new Map<string, Watched>();
  const of = (name: string): Watched => {
    const known = readers.get(name) ?? fresh();
    readers.set(name, known);
    return known;
  };

  function onBytes(one: Watched, bytes: Uint8Array, atMs: number): void {
    one.bytes += bytes.length;
    one.loose += bytes.length;
    one.lastByteMs = atMs;
    one.highBits = bytes.some((byte) => byte > 0x7f);
  }

  function causeOf(one: Watched): ReaderProblem {
    if (one.holders.length > 0)
      return { cause: `another program reads from its port: ${one.holders.join(', ')}`, hint: 'stop it, and disable its service (stile-gate doctor names it)' };
    if (one.highBits)
      return {
        cause: 'its bytes have the eighth bit set: parity, baud rate, or noise on the line',
        hint: 'set the reader to 8 data bits, no parity, and the baud rate of readers.baud; check the cable',
      };
    if (one.unfinishedInARow >= UNFINISHED_IN_A_ROW || one.garbledInARow >= GARBLED_IN_A_ROW)
      return {
        cause: 'its codes do not end as readers.frame says: the terminator',
        hint: 'set the terminator of the reader (CR LF), or readers.frame; stile-gate readers watch shows what comes',
      };
    if (one.marked) return { cause: 'its codes begin with an AIM mark', hint: 'switch the AIM identifier of the reader off' };
    return { cause: 'no list knows its codes', hint: 'compare a ticket with stile-gate readers watch: a prefix, a suffix, or codes of another event' };
  }

  function isUnknown({ codes, unknownInARow }: Watched): boolean {
    if (unknownInARow >= UNKNOWN_IN_A_ROW) return true;
    const [first] = codes;
    const last = codes.at(-1);
    if (codes.length < SHARE_OF || first === undefined || last === undefined || last.atMs - first.atMs > SHARE_WITHIN_MS) return false;
    return codes.filter(({ unknown }) => unknown).length >= UNKNOWN_SHARE * SHARE_OF;
  }

  return {
    onEvent(event) {
      const one = of(event.reader);
      if (event.kind === 'bytes') onBytes(one, event.bytes, event.atMs);
      if (event.kind === 'frame') {
        one.frames += 1;
        one.loose = 0;
        one.unfinishedInARow = 0;
        one.garbledInARow = 0;
        one.marked = event.bytes[0] === 0x5d;
      }
      if (event.kind === 'garbled') {
        one.garbled += 1;
        one.garbledInARow += 1;
        one.loose = 0;
      }
    },
    onNoise(reader) {
      of(reader).noise += 1;
    },
    onDecision(reader, unknown, atMs) {
      const one = of(reader);
      if (unknown) one.unknown += 1;
      one.unknownInARow = unknown ? one.unknownInARow + 1 : 0;
      one.codes.push({ atMs, unknown });
      if (one.codes.length > SHARE_OF) one.codes.shift();
    },
    holders(reader, names) {
      of(reader).holders = names;
    },
    poll(nowMs) {
      for (const one of readers.values()) {
        if (one.loose < LEAST_BYTES || nowMs - one.lastByteMs < UNFINISHED_MS) continue;
        one.unfinishedInARow += 1;
        one.loose = 0;
      }
    },
    counts(reader) {
      const { bytes, frames, garbled, unknown, noise } = of(reader);
      return { bytes, frames, garbled, unknown, noise };
    },
    problem(reader) {
      const one = of(reader);
      const isBad = one.unfinishedInARow >= UNFINISHED_IN_A_ROW || one.garbledInARow >= GARBLED_IN_A_ROW || one.holders.length > 0 || isUnknown(one);
      return isBad ? causeOf(one) : null;
    },
  };
}
