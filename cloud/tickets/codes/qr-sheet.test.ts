import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { inflateSync } from 'node:zlib';
import jsqr from 'jsqr';
import { expect, test } from 'vitest';
import { encodeSigned } from '../../../rules/stile-code.ts';
import { drawSheet, MAX_SHEET_CODES } from './qr-sheet.ts';

const signed = (() => {
  const { bytes, assemble } = encodeSigned({
    keyId: 'k1',
    eventId: 'cup-final',
    ticketId: '0b7e5a1c-2d3e-4f50-8a9b-0c1d2e3f4a5b',
    tier: 'standard',
    zone: 'east:12',
    validFromMs: null,
    validUntilMs: Date.parse('2027-05-01T22:00:00Z'),
  });
  return assemble(sign(null, bytes, generateKeyPairSync('ed25519').privateKey));
})();
const CODES = [
  { label: 'T-1', code: 'ABCDEFGHIJKLMNOPQRSTUVWXYZ' },
  { label: 'T-2', code: signed },
  { label: 'T-3 <&"\'>', code: 'lower-case/and_Ünïcode' },
];

/** A PNG of one bit a pixel → what a camera would see, one cell of the sheet. */
function pixelsOf(png: Buffer): { readonly width: number; readonly height: number; dark(x: number, y: number): boolean } {
  expect(png.subarray(0, 8).toString('hex')).toBe('89504e470d0a1a0a');
  const [width, height] = [png.readUInt32BE(16), png.readUInt32BE(20)];
  const size = png.readUInt32BE(33);
  expect(png.subarray(37, 41).toString()).toBe('IDAT');
  const data = inflateSync(png.subarray(41, 41 + size));
  const line = Math.ceil(width / 8) + 1;
  return { width, height, dark: (x, y) => ((data[y * line + 1 + (x >> 3)] as number) & (0x80 >> (x & 7))) === 0 };
}
function read(png: Buffer, across: number): string | undefined {
  const { width, height, dark } = pixelsOf(png);
  const side = width / across;
  const rgba = new Uint8ClampedArray(side * height * 4);
  for (let y = 0; y < height; y++) for (let x = 0; x < side; x++) rgba.set(dark(x, y) ? [0, 0, 0, 255] : [255, 255, 255, 255], (y * side + x) * 4);
  return (jsqr as unknown as { default: typeof jsqr.default }).default(rgba, side, height)?.data;
}

test('another reader reads what was drawn', () => {
  for (const one of CODES) expect(read(drawSheet([one], 'png') as Buffer, 1)).toBe(one.code);
  // The first of several side by side.
  expect(read(drawSheet(CODES, 'png', 3) as Buffer, 3)).toBe(CODES[0]?.code);
});

test('a signed code stays alphanumeric, so that its QR is small', () => {
  // Version 8 has 49 modules; the quiet zone has four on each side.
  const modules = (code: string) => Number(/viewBox="0 0 (\d+)/.exec(drawSheet([{ label: 'T', code }], 'html') as string)?.[1]) - 8;
  expect(modules(signed)).toBeLessThanOrEqual(49);
  expect(modules(signed.toLowerCase())).toBeGreaterThan(49);
  expect(modules('ABCDEFGHIJKLMNOPQRSTUVWXYZ')).toBe(25);
});

test('SVG and HTML hold every code with its label, and none of its text', () => {
  for (const format of ['svg', 'html'] as const) {
    const text = drawSheet(CODES, format) as string;
    expect(text.match(/<path /g)).toHaveLength(3);
    expect(text).toContain('T-3 &#60;&#38;&#34;&#39;&#62;');
    for (const { code } of CODES) expect(text).not.toContain(code);
  }
});

test('the sheet refuses what does not fit, without naming the code', () => {
  expect(() => drawSheet([], 'svg')).toThrow(RangeError);
  expect(() => drawSheet(Array(MAX_SHEET_CODES + 1).fill(CODES[0]), 'svg')).toThrow(RangeError);
  const long = randomBytes(3_000).toString('base64');
  expect(() => drawSheet([{ label: 'T-9', code: long }], 'svg')).toThrow('the code of T-9 is too long for a QR');
});
