/** The short form of PROMISES.md row 3, and its plants. The long form: node test/faults/exactly-once.ts */
import { expect, test } from 'vitest';
import { compare } from './counts.ts';
import { exactlyOnce } from './exactly-once.ts';
import { held } from './result.ts';
import type { ExactlyOnceOptions } from './run-parts.ts';

const SHORT: ExactlyOnceOptions = {
  brokerKills: 2,
  postgresKills: 1,
  partitions: 2,
  cloudKills: 1,
  gateKills: 1,
  burst: 0,
  gates: 2,
  wholeGates: 0,
  guestsPerS: 30,
  seed: 1,
  plant: null,
  say: () => undefined,
};

test('broker, Postgres, cloud and gates are killed and cut off while two gates write: every row arrives once', async () => {
  const result = await exactlyOnce(SHORT);
  expect(result.difference.examples).toEqual([]);
  expect(held(result), JSON.stringify(result)).toBe(true);
  expect(result.difference.rows).toBeGreaterThan(100);
});

test('a gate that takes the PUBACK for the cloud’s word loses rows, and it is seen', async () => {
  const result = await exactlyOnce({ ...SHORT, brokerKills: 1, postgresKills: 0, partitions: 0, cloudKills: 2, gateKills: 0, plant: 'puback' });
  expect(result.difference.lost).toBeGreaterThan(0);
});

test('the comparison sees what is lost, doubled, changed and made up', () => {
  const row = (seq: number, hash = 'a') => ({ gate: 'arena/north', epoch: 1, seq, hash });
  expect(compare([row(1), row(2)], [row(1), row(2)])).toMatchObject({ rows: 2, lost: 0, doubled: 0, changed: 0, foreign: 0, examples: [] });
  expect(compare([row(1), row(2), row(3)], [row(1), row(1), row(3, 'b'), row(4)])).toMatchObject({ lost: 1, doubled: 1, changed: 1, foreign: 1 });
});
