import { expect, test } from 'vitest';
import { type AnyVector, headsOf, LedgerHeads, vectorOf } from './references.ts';

const HASH = 'ab'.repeat(32);
const HEADS: AnyVector = { 'arena/north': { '7': [3, HASH], '12': [0, null] }, 'arena/cloud': { '9': [5, HASH] } };

test('a vector is read in either form, ledger by ledger', () => {
  expect(headsOf(HEADS)).toEqual(HEADS);
  expect(headsOf({ 'arena/north': [7, 3] })).toEqual({ 'arena/north': { '7': [3, null] } });
  expect(vectorOf(HEADS)).toEqual({ 'arena/north': [12, 0], 'arena/cloud': [9, 5] });
  expect(vectorOf({ 'arena/north': [7, 3] })).toEqual({ 'arena/north': [7, 3] });
  expect(vectorOf({ 'arena/north': {} })).toEqual({});
});

test('a vector with too many ledgers or epochs is refused', () => {
  const many = (count: number, one: (index: number) => [string, unknown]) => Object.fromEntries(Array.from({ length: count }, (_, index) => one(index)));
  expect(LedgerHeads.safeParse(many(500, (index) => [`arena/g${index}`, {}])).success).toBe(true);
  expect(LedgerHeads.safeParse(many(501, (index) => [`arena/g${index}`, {}])).success).toBe(false);
  expect(LedgerHeads.safeParse({ 'arena/north': many(101, (index) => [String(index + 1), [1, HASH]]) }).success).toBe(false);
  for (const epoch of ['0', '01', '-1', '1.5', 'x', '12345678901234567'])
    expect(LedgerHeads.safeParse({ 'arena/north': { [epoch]: [1, HASH] } }).success, epoch).toBe(false);
});
