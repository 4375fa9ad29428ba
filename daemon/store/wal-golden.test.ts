/** Golden logs: each is inspected, opened and, where it is damaged, salvaged; the verdict stands beside it. `testing/wal-cases.ts` makes them anew. */
import { copyFileSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { stampAt, storeFolder } from '../decider/testing/store.ts';
import { openLedger } from './ledger.ts';
import { salvage } from './salvage.ts';
import { StoreError } from './sqlite.ts';
import { CASES, GOLDEN_FOLDER, GOLDEN_GATE, makeCases } from './testing/wal-cases.ts';
import { inspectWal } from './wal-inspect.ts';

interface Verdict {
  readonly headless: boolean;
  readonly commitsBehind: number;
  readonly opens: { readonly rows: number; readonly endTruncated: boolean } | 'quarantine';
  readonly salvaged?: { readonly seqs: readonly number[]; readonly unread: number };
}

const endings: (() => void)[] = [];
afterEach(() => {
  for (const end of endings.splice(0).reverse()) end();
});
function folder(): string {
  const made = storeFolder('stile-golden-');
  endings.push(made.remove);
  return made.path;
}

/** Returns the verdict of the store's code on the case `name` below `golden`. */
function verdictOn(golden: string, name: string): Verdict {
  const path = join(folder(), 'ledger.sqlite');
  const put = () => {
    copyFileSync(join(golden, 'ledger.sqlite'), path);
    copyFileSync(join(golden, name, 'wal.bin'), `${path}-wal`);
  };
  put();
  const { headless, commitsBehind } = inspectWal(path);
  try {
    const ledger = openLedger({ path, name: GOLDEN_GATE, stamp: stampAt(9) });
    const opens = { rows: ledger.lastSeq(), endTruncated: ledger.endTruncated };
    ledger.close();
    return { headless, commitsBehind, opens };
  } catch (error) {
    expect(error).toBeInstanceOf(StoreError);
    expect((error as StoreError).damaged).toBe(true);
    put();
    const { rows, unread } = salvage(path, { rows: [], acked: new Map() });
    return { headless, commitsBehind, opens: 'quarantine', salvaged: { seqs: rows.map((row) => row.seq), unread } };
  }
}
const expected = (name: string): Verdict => JSON.parse(readFileSync(join(GOLDEN_FOLDER, name, 'expected.json'), 'utf8')) as Verdict;

test('every golden log has a case that makes it, and every case a log', () => {
  const folders = readdirSync(GOLDEN_FOLDER, { withFileTypes: true }).filter((one) => one.isDirectory());
  expect(folders.map((one) => one.name).sort()).toEqual(Object.keys(CASES).sort());
});

test.each(Object.keys(CASES))('the store gives the golden log %s its verdict', (name) => {
  expect(verdictOn(GOLDEN_FOLDER, name)).toEqual(expected(name));
});

test('the store gives every log that the generator makes anew the same verdict', () => {
  const golden = folder();
  makeCases(golden);
  for (const name of Object.keys(CASES)) expect(verdictOn(golden, name), name).toEqual(expected(name));
});
