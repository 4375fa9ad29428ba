import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { guardRecords } from './csv-guard.ts';

const pieces = fc.array(fc.constantFrom('a', ',', '"', '\n', '\n', 'é', '"\n"', 'bbbb', '\r\n'), { maxLength: 60 });

test('whatever the pieces it comes in: what is right passes as it is, lines keep their numbers, each is named at most once', async () => {
  await fc.assert(
    fc.asyncProperty(pieces, fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }), fc.boolean(), async (parts, sizes, oneRecord) => {
      const whole = Buffer.from(parts.join(''));
      const chunks: Buffer[] = [];
      for (let at = 0, n = 0; at < whole.length; n++) {
        const size = sizes[n % sizes.length] as number;
        chunks.push(whole.subarray(at, at + size));
        at += size;
      }
      const named: number[] = [];
      const guard = guardRecords({ maxBytes: 20, isRecord: () => oneRecord, onProblem: (line) => named.push(line) });
      const out = await text(Readable.from(chunks).pipe(guard));
      const lines = (of: string) => of.split('\n').length;
      if (named.length === 0) expect(out).toBe(whole.toString());
      // A last line without an end gets one where it is left out.
      expect([0, named.length > 0 ? 1 : 0]).toContain(lines(out) - lines(whole.toString()));
      expect(new Set(named).size).toBe(named.length);
    }),
    { numRuns: 500 },
  );
});

test('a file whose lines all open a quote and never close it is given up, not read line by line', async () => {
  let named = 0;
  const guard = guardRecords({ maxBytes: 1_000, isRecord: () => false, onProblem: () => void named++ });
  const lines = Buffer.from(Array.from({ length: 20_000 }, (_, n) => `"${n},x\n`).join(''));
  await expect(text(Readable.from([lines]).pipe(guard))).rejects.toThrow(/quote that is not closed: is this CSV\?/);
  expect(named).toBeLessThan(20_000);
});
