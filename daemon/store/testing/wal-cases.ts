/**
 * Makes the golden logs of `daemon/store/testdata/wal/` anew: one database, and for each case the log beside it as a power cut or a damaged disk
 * leaves it. The verdicts beside the cases (`expected.json`) are written by hand.
 *
 *   node daemon/store/testing/wal-cases.ts
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openLedger } from '../ledger.ts';
import { FRAME_HEADER_BYTES, HEADER_BYTES } from '../wal-format.ts';

export const GOLDEN_FOLDER = fileURLToPath(new URL('../testdata/wal', import.meta.url));
export const GOLDEN_GATE = 'arena/north-01';
/** Rows in the database's file, then rows in the log: one commit and one frame each. */
export const ROWS_IN_FILE = 2;
export const ROWS_IN_LOG = 5;

const FRAME_BYTES = FRAME_HEADER_BYTES + 4_096;
const WALL_MS = Date.parse('2026-06-01T18:00:00.000Z');
const SECTOR_BYTES = 512;

type Change = (log: Buffer, frame: (n: number) => Buffer, otherHeader: Buffer) => Buffer;
const inPlace =
  (change: (log: Buffer, frame: (n: number) => Buffer) => void): Change =>
  (log, frame) => {
    change(log, frame);
    return log;
  };
const flip = (bytes: Buffer, at: number, mask = 1): void => void bytes.writeUInt8(bytes.readUInt8(at) ^ mask, at);
/** The page's own head, and two places among its rows. */
const spoil = (frame: Buffer): void => {
  for (const at of [FRAME_HEADER_BYTES + 4, FRAME_HEADER_BYTES + 200, FRAME_BYTES - 150]) flip(frame, at);
};

/** Each case by its folder's name; the log's last frames hold one row each. */
export const CASES: Readonly<Record<string, Change>> = {
  clean: (log) => log,
  'preallocated-zeros-behind': (log) => Buffer.concat([log, Buffer.alloc(2 * FRAME_BYTES)]),
  'zeros-at-the-head': inPlace((log) => log.fill(0, 0, HEADER_BYTES)),
  'header-bit-flipped': inPlace((log) => flip(log, 13)),
  // As SQLite begins a log anew over an older one, before the first frame of the new one is written: the header is valid, the frames are old.
  'header-of-another-salt': (log, _frame, otherHeader) => Buffer.concat([otherHeader, log.subarray(HEADER_BYTES)]),
  'last-commit-without-its-last-sector': inPlace((log) => log.fill(0, log.length - SECTOR_BYTES)),
  'last-commit-cut-off': (log) => log.subarray(0, log.length - SECTOR_BYTES),
  'last-frame-bit-flipped': inPlace((_log, frame) => flip(frame(ROWS_IN_LOG - 1), FRAME_BYTES - 100)),
  'last-frame-salt-flipped': inPlace((_log, frame) => flip(frame(ROWS_IN_LOG - 1), 9)),
  'last-frame-commit-mark-cleared': inPlace((_log, frame) => frame(ROWS_IN_LOG - 1).writeUInt32BE(0, 4)),
  'middle-frame-bit-flipped': inPlace((_log, frame) => flip(frame(2), FRAME_BYTES - 100)),
  'middle-frame-spoiled': inPlace((_log, frame) => spoil(frame(2))),
  'last-two-frames-spoiled': inPlace((_log, frame) => {
    spoil(frame(ROWS_IN_LOG - 2));
    spoil(frame(ROWS_IN_LOG - 1));
  }),
};

/** Writes the database and each case's log into `folder`. */
export function makeCases(folder: string): void {
  const work = mkdtempSync(join(tmpdir(), 'stile-wal-'));
  try {
    const at = (n: number) => ({ boottimeMs: n, wallMs: WALL_MS + n, bootId: 'golden', offset: null, trusted: true });
    const path = join(work, 'ledger.sqlite');
    const ledger = openLedger({ path, name: GOLDEN_GATE, stamp: at(0) });
    const append = (n: number) => ledger.append([{ kind: 'clock', what: 'test', detail: `row ${n}` }], at(n));
    for (let n = 1; n <= ROWS_IN_FILE; n++) append(n);
    ledger.checkpointAll();
    for (let n = ROWS_IN_FILE + 1; n <= ROWS_IN_FILE + ROWS_IN_LOG; n++) append(n);
    const log = readFileSync(`${path}-wal`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'ledger.sqlite'), readFileSync(path));
    ledger.checkpointAll();
    append(ROWS_IN_FILE + ROWS_IN_LOG + 1);
    const otherHeader = readFileSync(`${path}-wal`).subarray(0, HEADER_BYTES);
    ledger.close();
    for (const [name, change] of Object.entries(CASES)) {
      mkdirSync(join(folder, name), { recursive: true });
      const bytes = Buffer.from(log);
      const frame = (n: number) => bytes.subarray(HEADER_BYTES + n * FRAME_BYTES, HEADER_BYTES + (n + 1) * FRAME_BYTES);
      writeFileSync(join(folder, name, 'wal.bin'), change(bytes, frame, otherHeader));
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

if (import.meta.main) makeCases(GOLDEN_FOLDER);
