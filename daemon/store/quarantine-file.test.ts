import { writeFileSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { stampAt, storeFolder } from '../decider/testing/store.ts';
import { openLedger } from './ledger.ts';
import { ledgersOf } from './offline-reader.ts';
import { deleteChecksums } from './page-checksums.ts';
import { quarantine, salvage } from './quarantine-file.ts';
import { openForSalvage } from './sqlite.ts';

const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});

type Change = (entry: string) => string;
const content: Change = (entry) => entry.replace('"detail":"', '"detail":"~');
const ownHash: Change = (entry) => entry.replace(/"hash":"(.)/, (_all, first) => `"hash":"${first === '0' ? '1' : '0'}`);
const unreadable: Change = (entry) => entry.slice(1);

/** What is saved of ten rows of which some were changed, the first two being acknowledged. */
function savedOf(changes: Readonly<Record<number, Change>>): number[] {
  const made = storeFolder('stile-salvage-');
  endings.push(made.remove);
  const path = `${made.path}/ledger.sqlite`;
  const ledger = openLedger({ path, name: 'arena/north-01', stamp: stampAt(1) });
  for (let n = 1; n <= 10; n++) ledger.append([{ kind: 'clock', what: 'test', detail: `${n}` }], stampAt(n));
  ledger.db.exec('UPDATE epochs SET acked_seq = 2');
  ledger.close();
  // As if nothing were known of its pages.
  deleteChecksums(path);
  const db = openForSalvage(path);
  for (const [id, change] of Object.entries(changes)) {
    const row = db.prepare<[number], { entry: string }>('SELECT entry FROM rows WHERE id = ?').get(Number(id)) as { entry: string };
    db.prepare('UPDATE rows SET entry = ? WHERE id = ?').run(change(row.entry), Number(id));
  }
  db.close();
  return salvage(path).rows.map((row) => row.seq);
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
])('rows are saved that can be proven; damaged: %s', (_what, changes, gone) => {
  expect(savedOf(changes)).toEqual(without(...gone));
});

test('what is set aside last is found last, also after one that was set aside under a clock that was ahead (T3)', () => {
  const made = storeFolder('stile-aside-');
  endings.push(made.remove);
  const path = `${made.path}/ledger.sqlite`;
  const names = [Date.UTC(2026, 5, 1), Date.UTC(2036, 0, 1), Date.UTC(2026, 5, 2), Date.UTC(2026, 5, 2), Date.UTC(2026, 5, 3)].map((wallMs) => {
    writeFileSync(path, '');
    return quarantine(path, wallMs);
  });
  expect(ledgersOf(made.path).quarantine).toEqual(names);
});
