import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createBackpressure } from './backpressure.ts';

test('it holds while too much is in hand, and lets go when less is, in a turn of its own', async () => {
  const backpressure = createBackpressure({ maxBytes: 100, maxMs: 60_000 });
  let passed = 0;
  const next = () => {
    passed += 1;
  };
  const small = backpressure.acquire(99);
  backpressure.gate(next);
  expect(passed).toBe(1);
  const large = backpressure.acquire(500);
  backpressure.gate(next);
  backpressure.gate(next);
  await turn();
  expect(passed).toBe(1);
  // A hundred bytes are still too much.
  small();
  small();
  await turn();
  expect([passed, backpressure.bytesHeld()]).toEqual([1, 500]);
  large();
  expect(passed).toBe(1);
  await turn();
  expect([passed, backpressure.bytesHeld()]).toEqual([3, 0]);
  backpressure.release();
});

test('it never holds for longer than its time; then everything passes, until less is in hand', async () => {
  const backpressure = createBackpressure({ maxBytes: 100, maxMs: 20 });
  const give = backpressure.acquire(100);
  await new Promise<void>((done) => backpressure.gate(done));
  let passed = 0;
  backpressure.gate(() => {
    passed += 1;
  });
  expect(passed).toBe(1);
  give();
  backpressure.acquire(100);
  backpressure.gate(() => {
    passed += 1;
  });
  expect(passed).toBe(1);
  backpressure.release();
  await turn();
  expect(passed).toBe(2);
});

test('whatever is taken and given back: each passes exactly once, and nobody is left', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat({ max: 60 }), { maxLength: 50 }), async (sizes) => {
      const backpressure = createBackpressure({ maxBytes: 100, maxMs: 60_000 });
      const passed = sizes.map(() => 0);
      const gives = sizes.map((size, index) => {
        const give = backpressure.acquire(size);
        backpressure.gate(() => {
          passed[index] = (passed[index] as number) + 1;
        });
        return give;
      });
      for (const give of gives.reverse()) give();
      await turn();
      expect(passed).toEqual(sizes.map(() => 1));
      expect(backpressure.bytesHeld()).toBe(0);
    }),
    { numRuns: 50 },
  );
});
