import { expect, test } from 'vitest';
import { createSimClock } from './clock.ts';
import { createClockWatch } from './clock-watch.ts';
import type { Note } from './ports.ts';

test('a clock that is set is flagged once, forwards and backwards; one that only runs is not', async () => {
  const clock = createSimClock({ wallMs: Date.UTC(2027, 4, 1, 17) });
  const notes: Note[] = [];
  const warned: unknown[] = [];
  let storeFails = false;
  const look = createClockWatch({
    clock,
    desk: {
      record: async (note) => {
        if (storeFails) throw new Error('full');
        notes.push(note);
        return [1, notes.length];
      },
    },
    log: { warn: (_message, fields) => warned.push(fields) },
  });
  for (let second = 0; second < 600; second++) {
    clock.advance(1_000);
    look();
  }
  expect([notes, warned]).toEqual([[], []]);
  clock.setWall(Date.UTC(2027, 4, 1, 18, 10));
  look();
  look();
  clock.setWall(Date.UTC(2027, 4, 1, 17, 10));
  look();
  expect(notes).toEqual([
    { kind: 'clock', what: 'jump', detail: "the system's clock was set by 3600000 ms" },
    { kind: 'clock', what: 'jump', detail: "the system's clock was set by -3600000 ms" },
  ]);
  storeFails = true;
  clock.setWall(Date.UTC(2027, 4, 2));
  look();
  await new Promise((resolve) => setImmediate(resolve));
  expect(warned).toHaveLength(3);
});
