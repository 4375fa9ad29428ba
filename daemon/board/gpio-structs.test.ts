/** The structures, byte for byte, as include/uapi/linux/gpio.h lays them out. */
import { expect, test } from 'vitest';
import {
  decodeChipInfo,
  decodeEdges,
  decodeHolder,
  decodeLineFd,
  decodeValue,
  encodeInputs,
  encodeLineInfo,
  encodeOutputs,
  encodeValue,
  encodeValuesOf,
} from './gpio-structs.ts';

const at = (bytes: Buffer, offset: number): number => Number(bytes.readBigUInt64LE(offset));

test('outputs: lines, consumer, flags and the levels of all in one request', () => {
  const bytes = encodeOutputs([
    { line: 17, level: 'low' },
    { line: 27, level: 'high' },
    { line: 5, level: 'high' },
  ]);
  expect(bytes.length).toBe(592);
  expect([bytes.readUInt32LE(0), bytes.readUInt32LE(4), bytes.readUInt32LE(8), bytes.readUInt32LE(12)]).toEqual([17, 27, 5, 0]);
  expect(bytes.toString('utf8', 256, 266)).toBe('stile-gate');
  // config: flags, number of attributes; the attribute: id, values, mask.
  expect([at(bytes, 288), bytes.readUInt32LE(296), bytes.readUInt32LE(320), at(bytes, 328), at(bytes, 336)]).toEqual([8, 1, 2, 0b110, 0b111]);
  expect([bytes.readUInt32LE(560), bytes.readUInt32LE(564)]).toEqual([3, 0]);
  bytes.writeInt32LE(42, 588);
  expect(decodeLineFd(bytes)).toBe(42);
});

test('inputs: both edges, an attribute for each bias, room for many events', () => {
  const bytes = encodeInputs([
    { line: 20, bias: 'pull-up' },
    { line: 13, bias: 'none' },
    { line: 19, bias: 'pull-up' },
  ]);
  expect([at(bytes, 288), bytes.readUInt32LE(296)]).toEqual([4 | 16 | 32, 2]);
  expect([bytes.readUInt32LE(320), at(bytes, 328), at(bytes, 336)]).toEqual([1, 4 | 16 | 32 | 256, 0b101]);
  expect([bytes.readUInt32LE(344), at(bytes, 352), at(bytes, 360)]).toEqual([1, 4 | 16 | 32 | 1024, 0b010]);
  expect([bytes.readUInt32LE(560), bytes.readUInt32LE(564)]).toEqual([3, 512]);
});

test('a request has 1 to 64 lines', () => {
  expect(() => encodeInputs([])).toThrow('0 lines');
  expect(() => encodeOutputs(Array.from({ length: 65 }, (_, line) => ({ line, level: 'low' as const })))).toThrow('65 lines');
});

test('levels, one line alone and all together', () => {
  expect([at(encodeValue(3, 'high'), 0), at(encodeValue(3, 'high'), 8), at(encodeValue(3, 'low'), 0)]).toEqual([8, 8, 0]);
  const bytes = encodeValuesOf(4);
  expect(at(bytes, 8)).toBe(15);
  bytes.writeBigUInt64LE(0b0100n, 0);
  expect([decodeValue(bytes, 1), decodeValue(bytes, 2)]).toEqual(['low', 'high']);
});

test('edges; a part of one is none', () => {
  const bytes = Buffer.alloc(2 * 48 + 20);
  for (const [index, id] of [1, 2].entries()) {
    bytes.writeBigUInt64LE(123_456_789_012n + BigInt(index), index * 48);
    bytes.writeUInt32LE(id, index * 48 + 8);
    bytes.writeUInt32LE(20, index * 48 + 12);
  }
  expect(decodeEdges(bytes)).toEqual([
    { atNs: 123_456_789_012n, level: 'high', line: 20 },
    { atNs: 123_456_789_013n, level: 'low', line: 20 },
  ]);
});

test('chips and who has a line', () => {
  const chip = Buffer.alloc(68);
  chip.write('gpiochip0', 0);
  chip.write('pinctrl-bcm2711', 32);
  chip.writeUInt32LE(58, 64);
  expect(decodeChipInfo(chip)).toEqual({ label: 'pinctrl-bcm2711', lines: 58 });
  const info = encodeLineInfo(17);
  expect([info.length, info.readUInt32LE(64), decodeHolder(info)]).toEqual([256, 17, null]);
  info.writeBigUInt64LE(1n, 72);
  expect(decodeHolder(info)).toBe('the kernel');
  info.write('spi0 CS1', 32);
  expect(decodeHolder(info)).toBe('spi0 CS1');
});
