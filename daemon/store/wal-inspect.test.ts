import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { stampAt, storeFolder } from '../decider/testing/store.ts';
import { openLedger } from './ledger.ts';
import { checksumsPath } from './page-checksums.ts';
import { salvage } from './quarantine-file.ts';
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
function seqsAfterOpening(): { readonly seqs: number[]; readonly endTruncated: boolean; readonly endRepaired: boolean } {
  const ledger = openLedger({ path, name: NAME, stamp: stampAt(9) });
  try {
    const seqs = ledger.read(epoch, 1, 1_000).map((row) => row.seq);
    while (ledger.verifyNext(100)) {
      /* the chain holds */
    }
    return { seqs, endTruncated: ledger.endTruncated, endRepaired: ledger.endRepaired };
  } finally {
    ledger.close();
  }
}
const upTo = (last: number): number[] => Array.from({ length: last }, (_, n) => n + 1);

test('one bit of the last commit, wherever it stands, is found; what cannot be proven is damage, and what is mended is what was written', () => {
  const last = frameAt(frames - 1);
  const counts = { exact: 0, elsewhere: 0, doubtful: 0 };
  for (let place = 0; place < FRAME_BYTES * 8; place += place < 200 ? 9 : 199) {
    put(flipped([last + (place >> 3), place & 7]));
    const end = inspectWal(path);
    expect(end, `bit ${place}`).toMatchObject({ headless: false, commitsBehind: 1, bit: { mask: expect.any(Number) } });
    if (end.bit?.sure === false) counts.doubtful++;
    else if (end.bit?.at === last + (place >> 3) && end.bit.mask === 1 << (place & 7)) counts.exact++;
    else counts.elsewhere++;
  }
  // Elsewhere: both bits stand where nothing is read from.
  expect(counts.exact).toBeGreaterThan(130);
  expect(counts.doubtful).toBeLessThan(10);
  expect(counts.elsewhere).toBeLessThan(20);
});

test.each([
  ['the page number', 3],
  ['the size after the commit', 7],
  ['a salt', 12],
  ['a sum', 21],
  ["the page's own head", FRAME_HEADER_BYTES + 4],
  ['a row', FRAME_BYTES - 300],
])('a gate that comes up with one wrong bit in %s of the last commit has every row', (_what, at) => {
  put(flipped([frameAt(frames - 1) + at, at % 7]));
  expect(seqsAfterOpening()).toEqual({ seqs: upTo(ROWS), endTruncated: false, endRepaired: true });
});

test('a bit that rows prove to be one of several is the right one: the top bit of a word, in a row', () => {
  const last = frameAt(frames - 1);
  // Cells are written from the page's end downwards: the newest row is the first of them.
  const newest = last + FRAME_HEADER_BYTES + log.readUInt16BE(last + FRAME_HEADER_BYTES + 5);
  for (let at = newest; at < newest + 120; at += 5) {
    put(flipped([at, 7]));
    expect(inspectWal(path).bit, `byte ${at - newest}`).toEqual({ at, mask: 128, sure: true });
  }
});

test('a bit that fits in several places, of a commit that is one frame without rows, is a commit cut short and no damage', () => {
  const work = join(made.path, 'words.sqlite');
  const ledger = openLedger({ path: work, name: NAME, stamp: stampAt(1) });
  ledger.append([{ kind: 'clock', what: 'test', detail: 'one' }], stampAt(2));
  ledger.setMeta('word', '0');
  const whole = readFileSync(`${work}-wal`);
  const last = whole.length - FRAME_BYTES;
  let dropped = 0;
  for (let at = last + FRAME_HEADER_BYTES; at < whole.length; at += 31) {
    const bytes = Buffer.from(whole);
    bytes[at] = (bytes[at] as number) ^ 128;
    writeFileSync(`${path}-wal`, bytes);
    writeFileSync(path, readFileSync(work));
    const end = inspectWal(path);
    expect(end, `byte ${at - last}`).toMatchObject({ headless: false, commitsBehind: 1 });
    // Put right where it is proven, else dropped: never quarantined.
    expect(end.bit?.sure, `byte ${at - last}`).not.toBe(false);
    if (end.bit === undefined) dropped++;
  }
  expect(dropped).toBeGreaterThan(0);
  ledger.close();
});

test('a frame that a power cut tore stays dropped: sectors that were not written, old or zero, are not one bit', () => {
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
    expect(inspectWal(path).bit, `sectors ${lost.toString(2)}`).toBeUndefined();
  }
  put(Buffer.concat([log.subarray(0, log.length - 512), Buffer.alloc(512)]));
  expect(seqsAfterOpening()).toEqual({ seqs: upTo(ROWS - 1), endTruncated: true, endRepaired: false });
});

test('one bit anywhere in the log, or in its head: every row is kept, where it lay', () => {
  const places = [0, 9, 17, 30, ...Array.from({ length: 12 }, (_, n) => 40 + n * 7_001)].filter((at) => at < log.length);
  for (const at of places) {
    put(flipped([at, at % 8]));
    let damaged = false;
    try {
      openLedger({ path, name: NAME, stamp: stampAt(9) }).close();
    } catch (error) {
      damaged = (error as StoreError).damaged;
      expect(error).toBeInstanceOf(StoreError);
      const saved = salvage(path);
      expect(saved.rows.map((row) => row.seq)).toEqual(upTo(ROWS));
      expect(saved.unread).toBe(0);
      expect(existsSync(`${path}-wal.asis`)).toBe(true);
    }
    expect(damaged, `byte ${at}`).toBe(at < frameAt(frames - 1));
  }
});

test('more than one bit: nothing is made up, the rows that are left are saved, and that some may be missing is said', () => {
  const beforeLast = frameAt(frames - 2);
  put(flipped([beforeLast + 2_000, 3], [beforeLast + 2_040, 1], [beforeLast + 3_001, 6]));
  expect(inspectWal(path)).toEqual({ headless: false, commitsBehind: 2 });
  expect(() => openLedger({ path, name: NAME, stamp: stampAt(9) })).toThrow(expect.objectContaining({ damaged: true, code: 'STORE_LOG' }));
  // The last frame tells of the same page again, and of all its rows.
  expect(salvage(path)).toMatchObject({ unread: 0, rows: { length: ROWS } });

  const last = frameAt(frames - 1);
  const torn = flipped([last + FRAME_HEADER_BYTES + 4, 0], [last + FRAME_HEADER_BYTES + 200, 3], [last + 3_000, 1]);
  expect(commitPagesOf(torn.subarray(last))).toBeGreaterThan(0);
  put(torn);
  const saved = salvage(path);
  expect(saved.unread).toBe(1);
  expect(saved.rows.length).toBeGreaterThan(ROWS - 4);
});
