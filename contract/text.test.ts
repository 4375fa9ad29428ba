import fc from 'fast-check';
import { expect, test } from 'vitest';
import { canonicalJson } from './hash-chain.ts';
import { cutText, plainData, shownLine, shownText } from './text.ts';

const FACE = '\u{1F600}';

test('T12: a text is cut between characters', () => {
  expect(cutText('x'.repeat(127) + FACE, 128)).toBe('x'.repeat(127));
  expect(cutText('x'.repeat(126) + FACE, 128)).toBe('x'.repeat(126) + FACE);
  expect(cutText(FACE.repeat(4), 5)).toBe(FACE.repeat(2));
  expect(cutText(FACE, 1)).toBe('');
  expect(cutText('short', 128)).toBe('short');
  expect(cutText('anything', 0)).toBe('');
  expect(cutText('anything', -1)).toBe('');
});

test('T12: cutting replaces what no side can keep, wherever it stands', () => {
  expect(cutText('a\ud83d', 9)).toBe('a\ufffd');
  expect(cutText('\udc00b\0c', 9)).toBe('\ufffdbc');
});

test('T12: whatever is cut, is short enough, well-formed, and the beginning of what it was', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary', maxLength: 20 }),
      fc.array(fc.constantFrom('\ud83d', '\ude00', FACE, 'x', '\0'), { maxLength: 20 }),
      fc.nat(40),
      (before, odd, max) => {
        const text = before + odd.join('');
        const cut = cutText(text, max);
        expect(cut.length).toBeLessThanOrEqual(max);
        expect(cut.isWellFormed() && !cut.includes('\0')).toBe(true);
        expect(text.toWellFormed().replaceAll('\0', '').startsWith(cut)).toBe(true);
        // No more is lost than the character that does not fit.
        expect(cut.length).toBeGreaterThanOrEqual(Math.min(max - 1, text.toWellFormed().replaceAll('\0', '').length));
      },
    ),
    { numRuns: 100 },
  );
});

test('T12: data that canonical JSON cannot hold becomes data that it can', () => {
  fc.assert(
    fc.property(
      fc.anything({ withBigInt: true, withDate: true, withMap: true, withNullPrototype: true, withObjectString: true, stringUnit: 'binary' }),
      (value) => {
        const plain = plainData({ value, text: 'half \ud83d', number: Number.NaN, big: 1n }, 512) as Record<string, unknown>;
        expect(() => canonicalJson(plain)).not.toThrow();
        expect(plain).toMatchObject({ text: 'half \ufffd' });
      },
    ),
  );
});

test('S6: a shown text holds nothing that a terminal obeys, JSON stays JSON, and what people write stays as it is', () => {
  expect(shownText('a\x1b[2J\x1b]0;title\x07b\r\u009b31mc\x7f\u202egnp\u2066')).toBe(
    'a\\u001b[2J\\u001b]0;title\\u0007b\\u000d\\u009b31mc\\u007f\\u202egnp\\u2066',
  );
  expect(shownText('one\ntwo\tthree')).toBe('one\ntwo\tthree');
  expect(shownLine('one\ntwo\tthree')).toBe('one\\ntwo\\tthree');
  const people = `Zoë Łukasz Ωμέγα 北京 مرحبا ${FACE} – “x” 50 %`;
  expect(shownLine(people)).toBe(people);
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(shownText(text)).not.toMatch(/[\0-\x08\x0b-\x1f\x7f-\x9f]/);
      expect(JSON.parse(shownText(JSON.stringify({ text })))).toEqual({ text });
    }),
  );
});
