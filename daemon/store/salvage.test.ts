import { afterEach, expect, test } from 'vitest';
import { stampAt, storeFolder } from '../decider/testing/store.ts';
import { openLedger } from './ledger.ts';
import { deleteChecksums } from './page-checksums.ts';
import { type CopiedRows, openRowCopy, type RowCopy, readRowCopy } from './row-copy.ts';
import { salvage } from './salvage.ts';
import { openForSalvage } from './sqlite.ts';

const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

type Change = (entry: string) => string;
const content: Change = (entry) => entry.replace('"detail":"', '"detail":"~');
const ownHash: Change = (entry) => entry.replace(/"hash":"(.)/, (_all, first) => `"hash":"${first === '0' ? '1' : '0'}`);
const unreadable: Change = (entry) => entry.slice(1);

const copyAll = (copy: RowCopy): void => {
  while (copy.step());
};
const NOTHING_COPIED: CopiedRows = { rows: [], acked: new Map() };

/** Salvages ten rows of which some were changed, the first two being acknowledged; with the copy of the rows or without. */
function savedOf(changes: Readonly<Record<number, Change>>, copied = false): number[] {
  const made = storeFolder('stile-salvage-');
  endings.push(made.remove);
  const path = `${made.path}/ledger.sqlite`;
  const ledger = openLedger({ path, name: 'arena/north-01', stamp: stampAt(1) });
  for (let n = 1; n <= 10; n++) ledger.append([{ kind: 'clock', what: 'test', detail: `${n}` }], stampAt(n));
  ledger.db.exec('UPDATE epochs SET acked_seq = 2');
  if (copied) copyAll(openRowCopy(made.path, ledger, () => 2));
  ledger.close();
  // As if nothing were known of its pages.
  deleteChecksums(path);
  const db = openForSalvage(path);
  for (const [id, change] of Object.entries(changes)) {
    const row = db.prepare<[number], { entry: string }>('SELECT entry FROM rows WHERE id = ?').get(Number(id)) as { entry: string };
    db.prepare('UPDATE rows SET entry = ? WHERE id = ?').run(change(row.entry), Number(id));
  }
  db.close();
  return salvage(path, copied ? readRowCopy(made.path, 'arena/north-01') : NOTHING_COPIED).rows.map((row) => row.seq);
}
const without = (...gone: number[]): number[] => [3, 4, 5, 6, 7, 8, 9, 10].filter((seq) => !gone.includes(seq));

test.each<readonly [string, Readonly<Record<number, Change>>, number[]]>([
  ['nothing', {}, []],
  ['the content of a row', { 5: content }, [5]],
  ['the hash of a row: the one after it is proven by what it should be', { 5: ownHash }, [5]],
  ['the first row that is not acknowledged: the ones before it prove it', { 3: content }, [3]],
  ['a row that cannot be read: the one after it is taken, because the next one follows from it', { 5: unreadable }, [5]],
  ['a row that cannot be read, and the hash of the one after it: neither that nor the one that speaks against it', { 5: unreadable, 6: ownHash }, [5, 6, 7]],
  ['the last row', { 10: content }, [10]],
])('the salvage keeps the rows that can be proven when damaged: %s', (_what, changes, gone) => {
  expect(savedOf(changes)).toEqual(without(...gone));
});

test.each<readonly [string, Readonly<Record<number, Change>>]>([
  ['the content of a row', { 5: content }],
  ['the first row that is not acknowledged', { 3: content }],
  ['a row that cannot be read, and the hash of the one after it', { 5: unreadable, 6: ownHash }],
  ['the last row', { 10: content }],
  ['every row', Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map((id) => [id, unreadable]))],
])('the salvage takes from the copy of the rows what the database lost: %s', (_what, changes) => {
  expect(savedOf(changes, true)).toEqual(without());
});
