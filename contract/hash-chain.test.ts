import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import canonicalize from 'canonicalize';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { canonicalJson, entryHash, entryText, firstPredecessor, signedText } from './hash-chain.ts';

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
test('hashing refuses undefined', () => {
  expect(() => canonicalJson(undefined)).toThrow('not representable in JSON');
});

test('a signature covers everything but itself', () => {
  expect(signedText({ b: 1, signature: 'x', a: [2] })).toBe('{"a":[2],"b":1}');
});

test('the short way says what the library says, and refuses what it refuses', () => {
  const said = (write: () => unknown): unknown => {
    try {
      return write();
    } catch {
      return 'refused';
    }
  };
  const library = canonicalize as unknown as (value: unknown) => string | undefined;
  const odd = fc.constantFrom('\ud800', '\udc00x', '\\ud800', '1', '10', '9', '__proto__', 'toJSON', '\0', '😀', '\ufb33', 'hash', '');
  const text = fc.oneof(fc.string({ unit: 'binary' }), odd);
  const { any } = fc.letrec((tie) => ({
    leaf: fc.oneof(text, fc.double(), fc.integer(), fc.boolean(), fc.constantFrom(null, undefined, -0, 1e21, Number.MAX_VALUE)),
    any: fc.oneof(
      { depthSize: 'small' },
      tie('leaf'),
      fc.array(tie('any'), { maxLength: 4 }),
      fc.array(fc.tuple(text, tie('any')), { maxLength: 6 }).map((pairs) => Object.fromEntries(pairs)),
    ),
  }));
  fc.assert(
    fc.property(any, (value) => {
      expect(said(() => canonicalJson(value))).toBe(said(() => library(value) ?? 'refused'));
      if (typeof value !== 'object' || value === null || Array.isArray(value)) return;
      const { hash: _own, ...row } = value as Record<string, unknown>;
      expect(said(() => entryText(value as Record<string, unknown>))).toBe(said(() => library(row)));
    }),
    { numRuns: 1_000 },
  );
});

test.each([
  [[new Date(0)], '["1970-01-01T00:00:00.000Z"]'],
  [{ b: new Map(), a: Object('x') }, '{"a":"x","b":{}}'],
  [{ toJSON: () => 1 }, '1'],
  [JSON.parse(`${'['.repeat(40)}${']'.repeat(40)}`), `${'['.repeat(40)}${']'.repeat(40)}`],
  [JSON.parse('{"b":1,"__proto__":{"z":1,"a":2}}'), '{"__proto__":{"a":2,"z":1},"b":1}'],
])('what is no plain data goes the longer way: %#', (value, text) => {
  expect(canonicalJson(value)).toBe(text);
});
