/** Identity and union over random sets of rows: order, repetition and over-sending change nothing. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  againOf,
  compareClaims,
  countedRows,
  identityKey,
  identityOf,
  type NamedRow,
  originalOf,
  readReference,
  resolveReference,
  rowsToSendAgain,
  uniteByIdentity,
} from './identity.ts';

const GATE = 'arena/north';
const CLOUD = 'arena/cloud';
const hashOf = (number: number): string => number.toString(16).padStart(16, '0').repeat(4);
const hash = fc.integer({ min: 1, max: 4 }).map(hashOf);
const key = { epoch: fc.integer({ min: 1, max: 3 }), seq: fc.integer({ min: 1, max: 3 }) };
const ownAgain = fc.tuple(key.epoch, key.seq, hash);
const row = fc.oneof(
  fc.record({ ledger: fc.constant(GATE), ...key, hash, again: fc.oneof(fc.constant(undefined), ownAgain) }, { noNullPrototype: true }),
  fc.record(
    { ledger: fc.constant(CLOUD), ...key, hash, again: fc.tuple(fc.constantFrom(GATE, 'arena/south'), key.epoch, key.seq, hash) },
    { noNullPrototype: true },
  ),
) as unknown as fc.Arbitrary<NamedRow>;
const rows = fc.array(row, { maxLength: 30 });

test('exactly one row counts for each identity, whatever the order and however often a row is given', () => {
  fc.assert(
    fc.property(
      rows.chain((all) => fc.tuple(fc.constant(all), fc.shuffledSubarray([...all, ...all], { minLength: all.length * 2 }))),
      ([all, again]) => {
        const counted = countedRows(all);
        expect(new Set(counted.keys())).toEqual(new Set(all.map(identityOf)));
        for (const [identity, one] of counted) {
          expect(identityOf(one)).toBe(identity);
          for (const other of all) if (identityOf(other) === identity) expect(compareClaims(one, other)).toBeLessThanOrEqual(0);
        }
        const places = (map: ReadonlyMap<string, NamedRow>) =>
          new Map([...map].map(([identity, { ledger, epoch, seq, hash: own }]) => [identity, { ledger, epoch, seq, own }]));
        expect(places(countedRows(again))).toEqual(places(counted));
      },
    ),
    { numRuns: 500 },
  );
});

test('the original counts where it is held with its hash, then its own ledger before the cloud, then the lowest key', () => {
  const original: NamedRow = { ledger: GATE, epoch: 1, seq: 2, hash: hashOf(1) };
  const other: NamedRow = { ...original, hash: hashOf(2) };
  const late: NamedRow = { ledger: GATE, epoch: 3, seq: 1, hash: hashOf(3), again: [1, 2, hashOf(1)] };
  const later: NamedRow = { ...late, epoch: 4, hash: hashOf(4) };
  const byHand: NamedRow = { ledger: CLOUD, epoch: 1, seq: 1, hash: hashOf(5), again: [GATE, 1, 2, hashOf(1)] };
  const counts = (...all: NamedRow[]) => countedRows(all).get(identityKey(original));
  expect(counts(later, byHand, other, original, late)).toBe(original);
  expect(counts(later, byHand, other, late)).toBe(late);
  expect(counts(byHand, other)).toBe(byHand);
  expect(counts(other)).toBeUndefined();
  expect(countedRows([later, byHand, other, original, late]).size).toBe(2);
});

test('a chain of copies keeps the first original', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(key.epoch, key.seq, hash), { minLength: 1, maxLength: 5 }), (lives) => {
      const first: NamedRow = { ledger: GATE, epoch: 1, seq: 1, hash: hashOf(9) };
      let last = first;
      for (const [epoch, seq, own] of lives) last = { ledger: GATE, epoch: epoch + last.epoch, seq, hash: own, again: againOf(last) };
      expect(identityOf(last)).toBe(identityOf(first));
    }),
  );
});

test("a store's resubmission covers each original once, in order, and after a crash only the rest", () => {
  const own = fc.record({
    ledger: fc.constant(GATE),
    ...key,
    hash,
    again: fc.oneof(fc.constant(undefined), ownAgain),
  }) as unknown as fc.Arbitrary<NamedRow>;
  fc.assert(
    fc.property(fc.array(own, { maxLength: 20 }), fc.integer({ min: 0, max: 20 }), (held, crash) => {
      const current = 4;
      const all = rowsToSendAgain(held, current);
      expect(all.map(identityOf)).toEqual([...new Set(all.map(identityOf))]);
      expect(new Set(all.map(identityOf))).toEqual(new Set(held.map(identityOf)));
      const done = all
        .slice(0, crash)
        .map((one, index): NamedRow => ({ ledger: GATE, epoch: current, seq: index + 1, hash: hashOf(100 + index), again: againOf(one) }));
      expect(rowsToSendAgain([...held, ...done], current)).toEqual(all.slice(crash));
      // Over-sending is harmless: the copies add no identity.
      expect(countedRows([...held, ...done]).size).toBe(countedRows(held).size);
    }),
    { numRuns: 500 },
  );
});

test('ledgers of the cloud alone name rows of another ledger, and of their own site alone', () => {
  expect(readReference(CLOUD, [GATE, 1, 2, hashOf(1)])).toEqual({ ledger: GATE, epoch: 1, seq: 2, hash: hashOf(1) });
  expect(readReference('arena/@phone-1', [GATE, 1, 2, hashOf(1)])).not.toBeNull();
  expect(readReference(GATE, [GATE, 1, 2])).toEqual({ ledger: GATE, epoch: 1, seq: 2, hash: null });
  expect(readReference(GATE, ['arena/south', 1, 2, hashOf(1)])).toBeNull();
  expect(readReference(CLOUD, ['club/north', 1, 2, hashOf(1)])).toBeNull();
  for (const bad of [null, 7, 'x', [], [1], [0, 1], [1, 0], [1.5, 1], [1, 2, 'x'], [1, 2, hashOf(1), 3], [GATE, 1], ['no ledger', 1, 2]])
    expect(readReference(GATE, bad)).toBeNull();
  // A gate that claims another gate's row as its original speaks of its own row alone.
  const claim: NamedRow = { ledger: GATE, epoch: 1, seq: 1, hash: hashOf(1), again: ['arena/south', 1, 1, hashOf(2)] };
  expect(originalOf(claim)).toEqual({ ledger: GATE, epoch: 1, seq: 1, hash: hashOf(1) });
});

test('a reference finds the row that counts for the original, and nothing where two lives share its number', () => {
  const one: NamedRow = { ledger: GATE, epoch: 1, seq: 2, hash: hashOf(1) };
  const copy: NamedRow = { ledger: GATE, epoch: 3, seq: 9, hash: hashOf(3), again: [1, 2, hashOf(1)] };
  const twin: NamedRow = { ...one, hash: hashOf(2) };
  const byHash = { ledger: GATE, epoch: 1, seq: 2, hash: hashOf(1) };
  expect(resolveReference(countedRows([copy]), byHash)).toBe(copy);
  expect(resolveReference(countedRows([copy, one]), byHash)).toBe(one);
  expect(resolveReference(countedRows([one]), { ...byHash, hash: null })).toBe(one);
  expect(resolveReference(countedRows([one, twin]), { ...byHash, hash: null })).toBeNull();
  expect(resolveReference(countedRows([twin]), byHash)).toBeNull();
});

test('a union by identity is the same whatever the order of sources, and loses nothing', () => {
  const facts = fc.array(fc.tuple(fc.constantFrom('a', 'b', 'c'), fc.integer({ min: 0, max: 5 })), { maxLength: 8 });
  fc.assert(
    fc.property(fc.array(facts, { maxLength: 5 }), (sources) => {
      const united = uniteByIdentity(sources, Math.max);
      expect(uniteByIdentity([...sources].reverse(), Math.max)).toEqual(united);
      expect(uniteByIdentity([united, ...sources], Math.max)).toEqual(united);
      for (const [identity, fact] of sources.flat()) expect(united.get(identity)).toBeGreaterThanOrEqual(fact);
    }),
  );
});
