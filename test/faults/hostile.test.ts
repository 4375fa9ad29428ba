/** The short form of PROMISES.md row 10. The long form, which also bounds memory: node test/faults/hostile.ts */
import { expect, test } from 'vitest';
import { hostile, STALL_MS } from './hostile.ts';

test('random bytes at the reader, hostile messages to gate and cloud: each refused or put away, guests in between go in', async () => {
  const { strains, unanswered, genuine, refusals, quarantined, refusedAtGate } = await hostile({
    serialBytes: 60_000,
    toGate: 150,
    toCloud: 150,
    requests: 150,
    warmUp: 25,
    quietMs: 300,
    say: () => undefined,
  });
  expect(unanswered).toEqual([]);
  expect(Math.min(genuine, refusals, quarantined, refusedAtGate)).toBeGreaterThan(0);
  // Its own work alone: how late the loop was by the clock is another's doing as well.
  for (const { part, who, busyMs } of strains) expect(busyMs, `${part} at the ${who}`).toBeLessThan(STALL_MS);
});
