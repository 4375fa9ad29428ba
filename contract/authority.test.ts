import { expect, test } from 'vitest';
import { maySay, ROW_AUTHORITY } from './authority.ts';
import { LEDGER_KINDS } from './ledger.ts';

/** Ledgers that are not the cloud's of this site, though some look like it. */
const NOT_THE_CLOUD = ['arena/north-03', 'arena/cloud-2', 'other/cloud', 'arena/cloudy', 'cloud', 'cloud/arena', '', 'arena/', '/cloud'];
const of = ['arena/north-03', 5, 1];

test('every kind has its line, and no other has one (T16)', () => {
  expect(Object.keys(ROW_AUTHORITY).toSorted()).toEqual([...LEDGER_KINDS].toSorted());
});

test.each(LEDGER_KINDS.filter((kind) => ROW_AUTHORITY[kind] === 'cloud'))("a %s counts from the cloud's own ledger of the site alone (T16)", (kind) => {
  expect(maySay('arena/cloud', { kind, of })).toBe(true);
  for (const ledger of NOT_THE_CLOUD) expect([ledger, maySay(ledger, { kind, of })]).toEqual([ledger, false]);
  for (const wrong of [undefined, null, 'arena/north-03', [], [5, 1], ['other/north-03', 5, 1]])
    expect([wrong, maySay('arena/cloud', { kind, of: wrong })]).toEqual([wrong, false]);
});

test.each(['verdict', 'promise', 'again', 'Settlement', 'settlement ', '__proto__', 'constructor', '', 7, null, undefined])(
  'a kind that nobody knows says nothing, whoever wrote it: %s (T16)',
  (kind) => {
    for (const ledger of ['arena/cloud', ...NOT_THE_CLOUD]) expect(maySay(ledger, { kind, of })).toBe(false);
  },
);
