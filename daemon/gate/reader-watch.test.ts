import { expect, test } from 'vitest';
import type { ReaderEvent } from '../ports.ts';
import { createReaderWatch, withoutNoise } from './reader-watch.ts';

const at = (atMs: number, text: string, kind: 'bytes' | 'frame' = 'bytes'): ReaderEvent => {
  const bytes = Buffer.from(text, 'latin1');
  return kind === 'bytes' ? { kind, reader: 'in', direction: 'in', bytes, atMs } : { kind, reader: 'in', direction: 'in', bytes, atMs, lastByteMs: atMs };
};
const garbled = (atMs: number): ReaderEvent => ({ kind: 'garbled', reader: 'in', direction: 'in', why: 'framing', atMs });

test('L4 codes without a terminator are a problem after the second', () => {
  const watch = createReaderWatch();
  watch.onEvent(at(0, 'TICKET-1'));
  watch.poll(2_500);
  expect(watch.problem('in')).toBeNull();
  watch.onEvent(at(3_000, 'TICKET-2'));
  watch.poll(4_000);
  watch.poll(5_500);
  expect(watch.problem('in')?.cause).toContain('terminator');
  watch.onEvent(at(6_000, 'TICKET-3', 'frame'));
  expect(watch.problem('in')).toBeNull();
});

test('L4 garbled frames in a row with the eighth bit set name parity and baud rate', () => {
  const watch = createReaderWatch();
  for (const ms of [0, 1_000, 2_000]) {
    watch.onEvent(at(ms, '\xd4\xc9\xc3'));
    watch.onEvent(garbled(ms));
  }
  expect(watch.problem('in')?.cause).toContain('parity');
  expect(watch.counts('in')).toMatchObject({ bytes: 9, garbled: 3, frames: 0 });
});

test('L4 twenty unknown codes in a row are a problem, and one known code ends it', () => {
  const watch = createReaderWatch();
  for (let n = 0; n < 19; n += 1) watch.onDecision('in', true, n * 60_000);
  expect(watch.problem('in')).toBeNull();
  watch.onDecision('in', true, 19 * 60_000);
  expect(watch.problem('in')?.cause).toContain('no list knows');
  watch.onDecision('in', false, 20 * 60_000);
  expect(watch.problem('in')).toBeNull();
});

test.each([
  ['within ten minutes', 20_000, true],
  ['over an hour', 150_000, false],
])('L4 four of five codes unknown %s', (_, everyMs, bad) => {
  const watch = createReaderWatch();
  for (let n = 0; n < 25; n += 1) watch.onDecision('in', n % 5 !== 0, n * everyMs);
  expect(watch.problem('in') !== null).toBe(bad);
});

test('L4 unknown codes with an AIM mark name the mark', () => {
  const watch = createReaderWatch();
  for (let n = 0; n < 20; n += 1) {
    watch.onEvent(at(n, ']Q1CODE', 'frame'));
    watch.onDecision('in', true, n);
  }
  expect(watch.problem('in')?.cause).toContain('AIM');
});

test('L4 another program on the port is named', () => {
  const watch = createReaderWatch();
  watch.holders('in', ['agetty (pid 411)']);
  expect(watch.problem('in')?.cause).toContain('agetty (pid 411)');
});

test.each([
  ['\0CODE', 'CODE'],
  ['\xffCODE\0', 'CODE'],
  ['\0\0\x15', ''],
  ['\x1d01CODE', '\x1d01CODE'],
  ['CO\x01DE', 'CO\x01DE'],
])('L4 control bytes at the ends of %j are taken off', (text, left) => {
  expect(Buffer.from(withoutNoise(Buffer.from(text, 'latin1'))).toString('latin1')).toBe(left);
});
