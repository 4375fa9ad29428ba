import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { stampAt, storeFolder } from '../decider/testing/store.ts';
import { openLedger } from './ledger.ts';
import { checksumsPath } from './page-checksums.ts';
import type { CopiedRows } from './row-copy.ts';
import { salvage } from './salvage.ts';
import { StoreError } from './sqlite.ts';
import { commitPagesOf, FRAME_HEADER_BYTES, HEADER_BYTES } from './wal-format.ts';
import { inspectWal } from './wal-inspect.ts';

const NAME = 'arena/north-01';
const FRAME_BYTES = FRAME_HEADER_BYTES + 4_096;
const ROWS = 40;

const made = storeFolder('stile-log-');
afterAll(() => made.remove());
const path = join(made.path, 'ledger.sqlite');
/** A log whose last commit is one row, in one frame; and the database that it belongs to, as a power cut leaves both. */
let database: Buffer;
let log: Buffer;
let checksums: Buffer;
let epoch: number;
/** Frames of the log. */
let frames: number;

beforeAll(() => {
  const work = join(made.path, 'work.sqlite');
  const ledger = openLedger({ path: work, name: NAME, stamp: stampAt(1) });
  for (let n = 0; n < ROWS / 2; n++) ledger.append([{ kind: 'clock', what: 'test', detail: `${n} ${'é'.repeat(n * 7)}` }], stampAt(n));
  ledger.checkpointAll();
  for (let n = ROWS / 2; n < ROWS; n++) ledger.append([{ kind: 'clock', what: 'test', detail: `${n} ${'x'.repeat(n * 7)}` }], stampAt(n));
  epoch = ledger.epoch();
  database = readFileSync(work);
  log = readFileSync(`${work}-wal`);
  checksums = readFileSync(checksumsPath(work));
  ledger.close();
  frames = (log.length - HEADER_BYTES) / FRAME_BYTES;
});

const frameAt = (n: number): number => HEADER_BYTES + n * FRAME_BYTES;
/** The store with another log. */
function put(changed: Buffer): void {
  writeFileSync(path, database);
  writeFileSync(checksumsPath(path), checksums);
  for (const suffix of ['-shm', '-wal.asis']) rmSync(path + suffix, { force: true });
  writeFileSync(`${path}-wal`, changed);
}
function flipped(...bits: readonly (readonly [at: number, bit: number])[]): Buffer {
  const bytes = Buffer.from(log);
  for (const [at, bit] of bits) bytes[at] = (bytes[at] as number) ^ (1 << bit);
  return bytes;
}
function seqsAfterOpening(): { readonly seqs: number[]; readonly endTruncated: boolean } {
  const ledger = openLedger({ path, name: NAME, stamp: stampAt(9) });
  try {
    const seqs = ledger.read(epoch, 1, 1_000).map((row) => row.seq);
    while (ledger.verifyNext(100)) {
      /* the chain holds */
    }
    return { seqs, endTruncated: ledger.endTruncated };
  } finally {
    ledger.close();
  }
}
const NOTHING_COPIED: CopiedRows = { rows: [], acked: new Map() };
const upTo = (last: number): number[] => Array.from({ length: last }, (_, n) => n + 1);

test('the inspection finds one damaged commit when any one bit of the last frame is flipped', () => {
  const last = frameAt(frames - 1);
  for (let place = 0; place < FRAME_BYTES * 8; place += place < 200 ? 1 : 199) {
    put(flipped([last + (place >> 3), place & 7]));
    expect(inspectWal(path), `bit ${place}`).toEqual({ headless: false, commitsBehind: 1 });
  }
});

test.each([
  ['the page number', 3],
  ['the size after the commit', 7],
  ['a salt', 12],
  ['a checksum', 21],
  ["the page's own head", FRAME_HEADER_BYTES + 4],
  ['a row', FRAME_BYTES - 300],
])('the ledger drops the last commit and says so when %s of it is damaged', (_what, at) => {
  put(flipped([frameAt(frames - 1) + at, at % 7]));
  expect(seqsAfterOpening()).toEqual({ seqs: upTo(ROWS - 1), endTruncated: true });
});

test('the inspection finds at most one commit cut short when a power cut tore the last frame', () => {
  const last = frameAt(frames - 1);
  for (let lost = 1; lost < 2 ** 9; lost += 6) {
    const torn = Buffer.from(log);
    for (let sector = 0; sector < 9; sector++) {
      if ((lost & (1 << sector)) === 0) continue;
      const from = Math.max(last, (Math.floor(last / 512) + sector) * 512);
      const to = Math.min(torn.length, (Math.floor(last / 512) + sector + 1) * 512);
      // Zeros as in a log that was preallocated; else what the frame before it has at that place, as in one that is written over.
      if (lost % 4 === 1) torn.fill(0, from, to);
      else log.copy(torn, from, from - FRAME_BYTES, to - FRAME_BYTES);
    }
    if (torn.equals(log)) continue;
    put(torn);
    expect(inspectWal(path).commitsBehind, `sectors ${lost.toString(2)}`).toBeLessThanOrEqual(1);
  }
  put(Buffer.concat([log.subarray(0, log.length - 512), Buffer.alloc(512)]));
  expect(seqsAfterOpening()).toEqual({ seqs: upTo(ROWS - 1), endTruncated: true });
});

test('the salvage keeps every row but the one that a flipped bit hits, wherever in the log it is flipped', () => {
  const places = [0, 9, 17, 30, ...Array.from({ length: 12 }, (_, n) => 40 + n * 7_001)].filter((at) => at < log.length);
  for (const at of places) {
    put(flipped([at, at % 8]));
    let damaged = false;
    try {
      openLedger({ path, name: NAME, stamp: stampAt(9) }).close();
    } catch (error) {
      damaged = (error as StoreError).damaged;
      expect(error).toBeInstanceOf(StoreError);
      const saved = salvage(path, NOTHING_COPIED);
      const seqs = saved.rows.map((row) => row.seq);
      expect(upTo(ROWS).filter((seq) => !seqs.includes(seq)).length, `byte ${at}`).toBeLessThanOrEqual(1);
      expect(existsSync(`${path}-wal.asis`)).toBe(true);
    }
    expect(damaged, `byte ${at}`).toBe(at < frameAt(frames - 1));
  }
});

test('the salvage makes nothing up when several bits of a frame are flipped, and counts the frames that hide rows', () => {
  const beforeLast = frameAt(frames - 2);
  put(flipped([beforeLast + 2_000, 3], [beforeLast + 2_040, 1], [beforeLast + 3_001, 6]));
  expect(inspectWal(path)).toEqual({ headless: false, commitsBehind: 2 });
  expect(() => openLedger({ path, name: NAME, stamp: stampAt(9) })).toThrow(expect.objectContaining({ damaged: true, code: 'STORE_LOG' }));
  // The last frame tells of the same page again, and of all its rows.
  expect(salvage(path, NOTHING_COPIED)).toMatchObject({ unread: 0, rows: { length: ROWS } });

  const last = frameAt(frames - 1);
  const torn = flipped([last + FRAME_HEADER_BYTES + 4, 0], [last + FRAME_HEADER_BYTES + 200, 3], [last + 3_000, 1]);
  expect(commitPagesOf(torn.subarray(last))).toBeGreaterThan(0);
  put(torn);
  const saved = salvage(path, NOTHING_COPIED);
  expect(saved.unread).toBe(1);
  expect(saved.rows.length).toBeGreaterThan(ROWS - 4);
});
