import fc from 'fast-check';
import { expect, test } from 'vitest';
import { base45Decode, base45Encode } from './base45.ts';
import { readCode, recogniseCode, recogniseReadings, withoutMarks } from './code.ts';

const bytes = (text: string) => new TextEncoder().encode(text);
const RUNS = process.env['STILE_PROVE'] === undefined ? 500 : 20_000;

test.each([
  ['as it is', 'VIP-TEST-GUEST-01', 'VIP-TEST-GUEST-01'],
  ['line end and white space around it', ' \tabc 1\r\n', 'abc 1'],
  ['STX and ETX around it', '\x02abc\x03', 'abc'],
  ['a backslash that is no mark', '\\00001abc', '\\00001abc'],
  ['a byte order mark before it', '\ufeffabc', 'abc'],
  ['beyond ASCII', 'Grüße-東京-🎟', 'Grüße-東京-🎟'],
  ['1,024 bytes', 'x'.repeat(1024), 'x'.repeat(1024)],
])('a code is read: %s', (_, frame, text) => {
  expect(readCode(bytes(frame))).toEqual({ kind: 'code', text });
});

test.each([
  ['nothing', bytes('')],
  ['blanks alone', bytes(' \r\n\t')],
  ['an ECI mark alone', bytes('\\000026\r')],
  ['an AIM identifier alone (L3)', bytes(']Q1\r\n')],
  ['both marks alone (L3)', bytes(']Q2\\000026\r')],
  ['1,025 bytes', bytes('x'.repeat(1025))],
  ['a control character inside', bytes('ab\x00c')],
  ['a line end inside', bytes('ab\ncd')],
  ['a C1 control inside', bytes('ab\u0085cd')],
  ['no UTF-8', Uint8Array.of(0x61, 0xff, 0x62)],
  ['half a character', Uint8Array.of(0x61, 0xc3)],
  ['a surrogate', Uint8Array.of(0xed, 0xa0, 0x80)],
])('unreadable: %s', (_, frame) => {
  expect(readCode(frame)).toEqual({ kind: 'unreadable' });
});

test.each([
  ['an ECI mark', '\\000026abc', ['\\000026abc', 'abc']],
  ['an ECI mark after STX, white space after the mark', '\x02\\000001 abc\r', ['\\000001 abc', 'abc']],
  ['two ECI marks', '\\000001\\000026abc', ['\\000001\\000026abc', '\\000026abc', 'abc']],
  ['an AIM identifier of QR', ']Q1abc', [']Q1abc', 'abc']],
  ['an AIM identifier of Code 128, STX before and ETX behind', '\x02]C0abc\x03', [']C0abc', 'abc']],
  ['an AIM identifier of Data Matrix', ']d2abc', [']d2abc', 'abc']],
  ['an AIM identifier of Aztec with a letter as its modifier', ']zAabc', [']zAabc', 'abc']],
  ['an AIM identifier of PDF417', ']L2abc', [']L2abc', 'abc']],
  ['an AIM identifier and an ECI mark', ']Q2\\000026abc', [']Q2\\000026abc', '\\000026abc', 'abc']],
  ['a code that itself begins like a mark, behind one', ']Q1]x9abc', [']Q1]x9abc', ']x9abc', 'abc']],
  ['a bracket that is no mark', ']-1abc', [']-1abc']],
  ['a mark that is not at the start', 'a]Q1bc', ['a]Q1bc']],
  ['no more than four marks', ']Q1]Q1]Q1]Q1]Q1abc', [']Q1]Q1]Q1]Q1]Q1abc', ']Q1]Q1]Q1]Q1abc', ']Q1]Q1]Q1abc', ']Q1]Q1abc', ']Q1abc']],
])('marks are taken off one by one, the text as read goes first (L3): %s', (_, frame, texts) => {
  const code = readCode(bytes(frame));
  expect(code.kind === 'code' && recogniseReadings(code.text).map(({ lookupText }) => lookupText)).toEqual(texts);
  expect(withoutMarks(code.kind === 'code' ? code.text : '')).toBe(texts.at(-1));
});

test('reading and recognising a code never throw, and a read code reads the same again', () => {
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 1100 }), fc.string({ unit: 'binary', maxLength: 300 }).map(bytes)), (frame) => {
      const code = readCode(frame);
      if (code.kind === 'unreadable') return;
      expect(readCode(bytes(code.text.replace(/^\\\d{6}/, 'x')))).toMatchObject({ kind: 'code' });
      expect(recogniseCode(code.text).lookupText).toBeTruthy();
      expect(recogniseReadings(code.text).length).toBeGreaterThanOrEqual(1);
    }),
    { numRuns: RUNS },
  );
});

test.each([
  ['AB', 'BB8'],
  ['Hello!!', '%69 VD92EX0'],
  ['base-45', 'UJCLQE7W581'],
  ['ietf!', 'QED8WEX0'],
  ['', ''],
])('base45 as RFC 9285 writes %j', (plain, encoded) => {
  expect(base45Encode(bytes(plain))).toBe(encoded);
  expect(base45Decode(encoded)).toEqual(bytes(plain));
});

// GGW and ::: stand for more than two bytes, :: for more than one.
test.each(['A', 'GGW', ':::', 'abc', 'AB~', '::', 'AAAA'])('no base45: %j', (text) => {
  expect(base45Decode(text)).toBeNull();
});

test('base45 gives every bytes back, and never ends in a blank that a reader would trim', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (plain) => {
      const text = base45Encode(plain);
      expect(base45Decode(text)).toEqual(plain);
      expect(text.endsWith(' ')).toBe(false);
    }),
    { numRuns: RUNS },
  );
});
