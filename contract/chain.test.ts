import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { canonicalJson, entryHash, firstPredecessor, signedText } from './chain.ts';

const sha256 = (text: string) => createHash('sha256').update(text, 'utf8').digest('hex');

/** Written down once, and computed by another program (Python's json and hashlib) as well: it must never change. */
interface Vector {
  readonly ledger: string;
  readonly epoch: number;
  readonly first_predecessor: string;
  readonly rows: readonly Record<string, unknown>[];
}
const vector = JSON.parse(readFileSync(new URL('examples/chain/arena-north-03.json', import.meta.url), 'utf8')) as Vector;

test('the chain of the vector holds, row by row', () => {
  expect(firstPredecessor(sha256, vector.ledger, vector.epoch)).toBe(vector.first_predecessor);
  let previous = vector.first_predecessor;
  for (const row of vector.rows) {
    expect(entryHash(sha256, previous, row)).toBe(row['hash']);
    previous = row['hash'] as string;
  }
  expect(vector.rows).toHaveLength(13);
  expect(previous).toBe('d87a3858d1fc0231d76ef919b14c87d7415690367e6dabafe1dc15c623d551c5');
});

test('any change to a row, to its predecessor or to its place breaks it', () => {
  const [first, second] = vector.rows as [Record<string, unknown>, Record<string, unknown>];
  const hash = (previous: string, row: Record<string, unknown>) => entryHash(sha256, previous, row);
  expect(hash(vector.first_predecessor, { ...first, ts: '2027-05-01T16:00:01.501Z' })).not.toBe(first['hash']);
  expect(hash(vector.first_predecessor, { ...first, extra: null })).not.toBe(first['hash']);
  expect(hash(vector.first_predecessor, second)).not.toBe(second['hash']);
  expect(firstPredecessor(sha256, vector.ledger, vector.epoch + 1)).not.toBe(vector.first_predecessor);
});

test("the order of keys and the row's own hash do not matter", () => {
  const [first] = vector.rows as [Record<string, unknown>];
  const shuffled = Object.fromEntries(Object.entries(first).reverse());
  expect(entryHash(sha256, vector.first_predecessor, { ...shuffled, hash: 'f'.repeat(64) })).toBe(first['hash']);
});

test('canonical JSON as RFC 8785 writes it', () => {
  expect(
    canonicalJson({
      numbers: [333333333.3333333, 1e30, 4.5, 2e-3, 0.000000000000000000000000001],
      string: '€$\u000f\nA\'B"\\\\"/',
      literals: [null, true, false],
    }),
  ).toBe('{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}');
  expect(canonicalJson({ '€': 1, '\r': 2, '\ufb33': 3, '1': 4, '😀': 5, '\u0080': 6, ö: 7 })).toBe('{"\\r":2,"1":4,"\u0080":6,"ö":7,"€":1,"😀":5,"\ufb33":3}');
});

test.each([Number.NaN, Number.POSITIVE_INFINITY, 1n])('%s cannot be hashed', (value) => {
  expect(() => canonicalJson(value)).toThrow();
  expect(() => canonicalJson({ a: [value] })).toThrow();
});
test('nothing at all cannot be hashed', () => {
  expect(() => canonicalJson(undefined)).toThrow('not representable in JSON');
});

test('a signature covers everything but itself', () => {
  expect(signedText({ b: 1, signature: 'x', a: [2] })).toBe('{"a":[2],"b":1}');
});
