/** What is taken for plain is what the contract's schemas take, whatever is wrong with it. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LedgerEntry } from '../../contract/ledger.ts';
import { plainRow } from './fast-row-check.ts';

const common = {
  seq: 17,
  ts: '2026-05-31T23:59:59.999Z',
  boot_id: 'boot-1',
  boottime_ms: 12.5,
  clock_offset_ms: 1_790_000_000_000.25,
  clock_bound_ms: 20,
  hash: 'ab'.repeat(32),
  event_id: 'EV-1',
  ticket_id: 'T.1',
  ticket_ref: 'cd'.repeat(16),
  direction: 'in',
};
const GRANT = {
  ...common,
  kind: 'grant',
  type: 'first_entry',
  units: 1,
  medium: 'opaque',
  manifest_version: 0,
  online: true,
  latency_us: 500,
  seen: { 'arena/south': [1, 0] },
};
const PASSAGE = { ...common, kind: 'passage', of: [1, 16], unit: 1, outcome: 'passed' };

test('the rows that gates write are plain, with fields that nobody knows beside', () => {
  for (const row of [
    GRANT,
    PASSAGE,
    { ...GRANT, direction: 'out', type: 'exit', extra: [null] },
    { ...PASSAGE, of: undefined, unit: undefined, outcome: 'free' },
  ]) {
    expect(plainRow(row)).toBe(row);
    expect(LedgerEntry.parse(row)).toEqual(row);
  }
});

/** Values that are right in one place or another, or nearly. */
const ODD: readonly unknown[] = [
  ...[
    '',
    'in',
    'out',
    'passed',
    'grant',
    'passage',
    'mode',
    'a/b',
    'cloud/a',
    'arena/cloud',
    '20',
    'é',
    'ab'.repeat(32),
    'AB'.repeat(32),
    'cd'.repeat(16),
    'x'.repeat(64),
    'x'.repeat(65),
  ],
  ...[
    '2026-02-29T00:00:00.000Z',
    '2028-02-29T00:00:00.000Z',
    '2026-04-31T00:00:00.000Z',
    '2026-05-01T24:00:00.000Z',
    '2026-05-01T00:00:60.000Z',
    '2026-05-01T00:00:00Z',
  ],
  ...[0, -0, 1, -1, 0.5, 100, 101, 2 ** 53 - 1, 2 ** 53, 1e308, Number.NaN, Number.POSITIVE_INFINITY, true, false, null, undefined],
  ...[
    [],
    [1],
    [1, 1],
    [0, 1],
    [1, 0],
    [1, 1, 1],
    ['a/b', 1, 1],
    {},
    { 'a/b': [1, 0] },
    { 'a/b': [1, -1] },
    { a: [1, 1] },
    { 'cloud/a': [1, 1] },
    { 'a/b': [1, 1], c: 1 },
  ],
];
const odd = fc.oneof(
  fc.constantFrom(...ODD),
  fc.date({ min: new Date('1990-01-01'), max: new Date('2110-01-01'), noInvalidDate: true }).map((date) => date.toISOString()),
  fc.string({ maxLength: 70 }),
  fc.double(),
  fc.integer(),
  fc.jsonValue(),
);
const FIELDS = [...new Set([...Object.keys(GRANT), ...Object.keys(PASSAGE), 'flags', 'extra'])];
const change = fc.tuple(fc.constantFrom(...FIELDS), odd);

/** Answers whether it was taken for plain. */
function agrees(row: Record<string, unknown>): boolean {
  if (plainRow(row) === null) return false;
  const read = LedgerEntry.safeParse(row);
  expect(read.success && read.data, JSON.stringify(row)).toEqual(row);
  return true;
}

test('the fast check takes no odd field for plain that the schemas refuse', () => {
  let taken = 0;
  for (const base of [GRANT, PASSAGE]) for (const field of FIELDS) for (const value of ODD) if (agrees({ ...base, [field]: value })) taken += 1;
  expect(taken).toBeGreaterThan(100);
});

test('the fast check takes nothing for plain that the schemas refuse, or read otherwise', () => {
  let taken = 0;
  fc.assert(
    fc.property(fc.constantFrom<Record<string, unknown>>(GRANT, PASSAGE), fc.array(change, { maxLength: 2 }), (base, changes) => {
      if (agrees({ ...base, ...Object.fromEntries(changes) })) taken += 1;
    }),
    { numRuns: 2_000 },
  );
  expect(taken).toBeGreaterThan(200);
});

test.each([
  null,
  'grant',
  [],
  Object.create(GRANT),
  new (class {
    kind = 'grant';
  })(),
  JSON.parse(`{"__proto__":{},${JSON.stringify(GRANT).slice(1)}`),
])('what is no plain object is left to the schemas: %#', (value) => {
  expect(plainRow(value)).toBeNull();
});
