import { expect, test } from 'vitest';
import { coalesce } from './coalesce.ts';

test('asked a thousand times at once and soon after it is done once; later again; a failure is not kept', async () => {
  let nowMs = 0;
  let times = 0;
  let broken = false;
  const ask = coalesce(
    async () => {
      times += 1;
      await new Promise(setImmediate);
      if (broken) throw new Error('broken');
      return times;
    },
    250,
    () => nowMs,
  );
  expect(new Set(await Promise.all(Array.from({ length: 1_000 }, ask)))).toEqual(new Set([1]));
  nowMs = 249;
  expect(await ask()).toBe(1);
  nowMs = 250;
  expect(await ask()).toBe(2);
  nowMs = 500;
  broken = true;
  expect((await Promise.allSettled([ask(), ask()])).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  expect(times).toBe(3);
  broken = false;
  expect(await ask()).toBe(4);
});
