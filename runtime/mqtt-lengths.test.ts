import './mqtt-lengths.ts';
import type { Writable } from 'node:stream';
import { type Packet, writeToStream } from 'mqtt-packet';
import { expect, test } from 'vitest';
import { encodeLength } from './mqtt-lengths.ts';

const LENGTHS = 4_000;

test('the lengths of 4,000 different packets hold a few bytes each, and no slab', () => {
  const written: Buffer[] = [];
  // Without `cork`, so that each write comes by itself.
  const stream = { write: (chunk: Buffer) => written.push(chunk) > 0 } as unknown as Writable;
  /** The packet's second write is its length: the first is the type's byte. */
  const lengthOf = (bytes: number): Buffer => {
    written.length = 0;
    writeToStream({ cmd: 'publish', topic: 't', payload: Buffer.alloc(bytes), qos: 0, retain: false, dup: false } as Packet, stream);
    return written[1] as Buffer;
  };
  const lengths = Array.from({ length: LENGTHS }, (_, n) => lengthOf(n));
  // What the library holds for ever: the same buffer comes again.
  expect(lengthOf(7)).toBe(lengths[7]);
  const slabs = new Set(lengths.map((one) => one.buffer));
  expect([...slabs].reduce((sum, slab) => sum + slab.byteLength, 0)).toBeLessThanOrEqual(2 * LENGTHS);
});

test('a length is written as MQTT says', () => {
  const known: [number, number[]][] = [
    [0, [0]],
    [127, [127]],
    [128, [0x80, 1]],
    [16_383, [0xff, 0x7f]],
    [16_384, [0x80, 0x80, 1]],
    [268_435_455, [0xff, 0xff, 0xff, 0x7f]],
    [268_435_456, []],
  ];
  for (const [length, bytes] of known) expect([...encodeLength(length)], `${length}`).toEqual(bytes);
});
