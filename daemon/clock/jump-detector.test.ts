import { expect, test } from 'vitest';
import type { Note } from '../ports.ts';
import { createSimClock } from './clock.ts';
import { createClockWatch } from './jump-detector.ts';

test('a floor that was overruled is written down once (T3)', () => {
  const clock = createSimClock({ wallMs: Date.UTC(2027, 4, 1, 17), boottimeMs: 1_000 });
  const pendingEntries: Note[] = [];
  const look = createClockWatch({ clock, decider: { record: async (note) => [1, pendingEntries.push(note)] }, log: { warn: () => {} } });
  clock.raiseFloor(Date.UTC(2036, 0, 1));
  look();
  expect(pendingEntries).toEqual([]);
  const offset = Date.UTC(2027, 4, 1, 17) - 1_000;
  clock.observe({ askedMs: 1_000, answeredMs: 1_000, cloudReceivedMs: 1_000 + offset, cloudAnsweredMs: 1_000 + offset });
  look();
  look();
  expect(pendingEntries).toEqual([
    {
      kind: 'clock',
      what: 'floor',
      detail: 'the floor 2036-01-01T00:00:00.000Z lay ahead and was overruled by the time server and the cloud: it was 2027-05-01T17:00:00.000Z',
    },
  ]);
});

test('a clock that is set is flagged once, forwards and backwards; one that only runs is not', async () => {
  const clock = createSimClock({ wallMs: Date.UTC(2027, 4, 1, 17) });
  const pendingEntries: Note[] = [];
  const warned: unknown[] = [];
  let storeFails = false;
  const look = createClockWatch({
    clock,
    decider: {
      record: async (note) => {
        if (storeFails) throw new Error('full');
        pendingEntries.push(note);
        return [1, pendingEntries.length];
      },
    },
    log: { warn: (_message, fields) => warned.push(fields) },
  });
  for (let second = 0; second < 600; second++) {
    clock.advance(1_000);
    look();
  }
  expect([pendingEntries, warned]).toEqual([[], []]);
  clock.setWall(Date.UTC(2027, 4, 1, 18, 10));
  look();
  look();
  clock.setWall(Date.UTC(2027, 4, 1, 17, 10));
  look();
  expect(pendingEntries).toEqual([
    { kind: 'clock', what: 'jump', detail: "the system's clock was set by 3600000 ms" },
    { kind: 'clock', what: 'jump', detail: "the system's clock was set by -3600000 ms" },
  ]);
  storeFails = true;
  clock.setWall(Date.UTC(2027, 4, 2));
  look();
  await new Promise((resolve) => setImmediate(resolve));
  expect(warned).toHaveLength(3);
});
