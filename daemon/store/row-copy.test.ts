import { appendFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { stampAt, storeFolder } from '../decider/testing/store.ts';
import { type Ledger, openLedger } from './ledger.ts';
import { copyPath, openRowCopy, readRowCopy } from './row-copy.ts';

const NAME = 'arena/north-01';
const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

function setUp(): {
  readonly folder: string;
  readonly ledger: Ledger;
  readonly append: (count: number, chars?: number) => void;
  readonly seqs: () => number[];
} {
  const made = storeFolder('stile-copy-');
  const ledger = openLedger({ path: join(made.path, 'ledger.sqlite'), name: NAME, stamp: stampAt(1) });
  endings.push(made.remove, () => ledger.close());
  return {
    folder: made.path,
    ledger,
    append(count, chars = 10) {
      for (let n = 0; n < count; n++) ledger.append([{ kind: 'clock', what: 'test', detail: `${n}${'x'.repeat(chars)}` }], stampAt(n));
    },
    seqs: () => readRowCopy(made.path, NAME).rows.map(({ entry }) => entry.seq),
  };
}
const upTo = (last: number, from = 1): number[] => Array.from({ length: last - from + 1 }, (_, n) => from + n);
function copyAll(copy: { step(): boolean }): void {
  while (copy.step());
}

test('the copy holds every row that is not acknowledged, as the ledger has it, and goes on where it ended after a restart', () => {
  const { folder, ledger, append, seqs } = setUp();
  append(500);
  copyAll(openRowCopy(folder, ledger, () => 3));
  append(7);
  const again = openRowCopy(folder, ledger, () => 3);
  expect(again.end).toEqual({ epoch: ledger.epoch(), seq: 500 });
  copyAll(again);
  expect(seqs()).toEqual(upTo(507, 4));
  const texts = readRowCopy(folder, NAME).rows.map(({ text }) => text);
  expect(texts).toEqual(ledger.read(ledger.epoch(), 4, 1_000).map(({ entry }) => entry));
  expect(readRowCopy(folder, NAME).acked).toEqual(new Map([[ledger.epoch(), 3]]));
});

test('the copy loses no other line when a line is torn, flipped or of another gate', () => {
  const { folder, ledger, append, seqs } = setUp();
  append(5);
  copyAll(openRowCopy(folder, ledger, () => 0));
  const path = copyPath(folder);
  const bytes = readFileSync(path);
  const third = bytes.indexOf('"seq":3');
  bytes.writeUInt8(bytes.readUInt8(third + 6) ^ 1, third + 6);
  writeFileSync(path, bytes);
  appendFileSync(path, '12345678 1 {"seq":');
  append(2);
  copyAll(openRowCopy(folder, ledger, () => 0));
  expect(seqs()).toEqual([1, 2, 4, 5, 6, 7]);
  expect(readRowCopy(folder, 'arena/north-02').rows).toEqual([]);
});

test('the copy begins anew when the cloud has every row and it is large, and moves to one older file at its bound', () => {
  const { folder, ledger, append, seqs } = setUp();
  append(300, 4_000);
  let acked = 0;
  const copy = openRowCopy(folder, ledger, () => acked);
  copyAll(copy);
  expect(statSync(copyPath(folder)).size).toBeGreaterThan(1024 * 1024);
  acked = 300;
  copyAll(copy);
  append(1);
  copyAll(copy);
  expect(seqs()).toEqual([301]);
  expect(readRowCopy(folder, NAME).acked.get(ledger.epoch())).toBe(300);
  writeFileSync(copyPath(folder), `${readFileSync(copyPath(folder), 'utf8')}${'\n'.repeat(8 * 1024 * 1024)}`);
  append(1);
  copyAll(copy);
  expect(existsSync(`${copyPath(folder)}.old`)).toBe(true);
  expect(statSync(copyPath(folder)).size).toBeLessThan(10_000);
  expect(seqs()).toEqual([301, 302]);
});

test('the copy throws the disk’s error and copies the same rows again when it could not be written', () => {
  const { folder, ledger, append, seqs } = setUp();
  append(2);
  const copy = openRowCopy(join(folder, 'away'), ledger, () => 0);
  expect(() => copy.step()).toThrow('copy rows to');
  mkdirSync(join(folder, 'away'));
  copyAll(copy);
  expect(readRowCopy(join(folder, 'away'), NAME).rows.map(({ entry }) => entry.seq)).toEqual([1, 2]);
  expect(seqs()).toEqual([]);
});
