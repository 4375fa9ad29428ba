import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createJsonItems } from './json-stream.ts';

const MAX = 1_000_000;
/** Feeds the text in pieces; answers what came out, parsed. */
function take(text: string, paths: string[], cuts: number[] = [], max = MAX): { path: string; value: unknown }[] {
  const bytes = Buffer.from(text);
  const items = createJsonItems(paths, max);
  const got: { path: string; value: unknown }[] = [];
  let from = 0;
  for (const cut of [...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]) {
    for (const { path, bytes: one } of items.push(bytes.subarray(from, cut))) got.push({ path, value: JSON.parse(Buffer.from(one).toString()) });
    from = cut;
  }
  items.end();
  return got;
}

test('createJsonItems returns rows and the value that follows them', () => {
  expect(take('{"success":true,"rows":[{"gate":"a","entry":{"seq":1,"more":5}}, {"rows":[1]}],"more":false}', ['rows.*', 'more'])).toEqual([
    { path: 'rows.*', value: { gate: 'a', entry: { seq: 1, more: 5 } } },
    { path: 'rows.*', value: { rows: [1] } },
    { path: 'more', value: false },
  ]);
  expect(take('{"manifest":{"overlays":[],"x":[[{"overlays":[3]}]]},"overlays":[4]}', ['manifest.overlays.*'])).toEqual([]);
  expect(take('{"rows":[1, "two\\"]," ,null , [ ]]\n}', ['rows.*']).map(({ value }) => value)).toEqual([1, 'two"],', null, []]);
});

test('createJsonItems returns what JSON.parse returns, wherever the text is cut', () => {
  const pretty = fc.constantFrom(undefined, 1, '\t');
  fc.assert(
    fc.property(
      fc.array(fc.jsonValue({ maxDepth: 4 }), { maxLength: 6 }),
      fc.jsonValue({ maxDepth: 3 }),
      fc.jsonValue({ maxDepth: 2 }),
      pretty,
      fc.array(fc.nat(), { maxLength: 20 }),
      (rows, other, more, space, cuts) => {
        const text = JSON.stringify({ other, rows, deeper: { rows: [1], more: 2 }, more }, null, space);
        const got = take(text, ['rows.*', 'more'], cuts);
        expect(got.filter(({ path }) => path === 'rows.*').map(({ value }) => JSON.stringify(value))).toEqual(rows.map((row) => JSON.stringify(row)));
        expect(got.filter(({ path }) => path === 'more').map(({ value }) => JSON.stringify(value))).toEqual([JSON.stringify(more)]);
      },
    ),
    { numRuns: 500 },
  );
});

test('createJsonItems refuses truncated, oversized and invalid text', () => {
  expect(() => take('{"rows":[1,2', ['rows.*'])).toThrow(/ended early/);
  expect(() => take('', ['rows.*'])).toThrow(/ended early/);
  expect(() => take('{"rows":["a"]} extra', ['rows.*'])).toThrow(/follows/);
  expect(() => take('{"rows":[1}]', ['rows.*'])).toThrow(/brackets/);
  expect(() => take(`{"rows":["${'x'.repeat(2_000)}"]}`, ['rows.*'], [500, 1_000], 1_000)).toThrow(/more than 1000 bytes/);
  expect(() => take('['.repeat(100_000), ['rows.*'])).toThrow(/nested/);
  expect(() => take(`{"${'k'.repeat(1_000)}":1}`, ['rows.*'])).toThrow(/key/);
  expect(() => take('<html>', ['rows.*'])).toThrow(/neither/);
});

test('createJsonItems throws its own error on random bytes', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const items = createJsonItems(['a.*', 'a'], 50);
      try {
        items.push(bytes);
        items.end();
      } catch (error) {
        expect((error as Error).message).toMatch(/^the answer is not valid JSON/);
      }
    }),
    { numRuns: 1_000 },
  );
});
