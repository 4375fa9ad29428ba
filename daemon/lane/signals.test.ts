import fc from 'fast-check';
import { expect, test } from 'vitest';
import { blinkAt, PATTERNS, renderLamps } from './signals.ts';
import { SIGNALS, type Signal } from './types.ts';

/** Samples the lamp every 10 ms during the first `forMs`, and returns the lengths of on and off in turn, beginning with on. */
function runs(signal: Signal, output: 'green' | 'red' | 'amber' | 'buzzer', forMs: number): readonly number[] {
  const lengths: number[] = [];
  let was = true;
  let length = 0;
  for (let atMs = 0; atMs < forMs; atMs += 10) {
    const { on } = blinkAt(PATTERNS[signal][output], atMs);
    if (on !== was) {
      lengths.push(length);
      length = 0;
      was = on;
    }
    length += 10;
  }
  return [...lengths, length];
}
const beepsOf = (signal: Signal) => runs(signal, 'buzzer', 3_000).filter((ms, index) => index % 2 === 0 && ms > 0).length;

test('LANE.md: what a guest sees and hears', () => {
  expect(runs('ready', 'amber', 2_000)).toEqual([2_000]);
  expect(runs('working', 'amber', 2_000)).toEqual([250, 250, 250, 250, 250, 250, 250, 250]);
  expect(runs('granted', 'green', 2_000)).toEqual([2_000]);
  expect(runs('refused', 'red', 2_000)).toEqual([2_000]);
  expect(runs('busy', 'amber', 1_000)).toEqual([120, 120, 120, 640]);
  expect(runs('closed', 'red', 2_000)).toEqual([2_000]);
  expect(runs('free', 'green', 2_000)).toEqual([2_000]);
  expect(runs('emergency', 'green', 1_000)).toEqual([250, 250, 250, 250]);
  expect(runs('alarm', 'red', 800)).toEqual([200, 200, 200, 200]);
  expect(['granted', 'granted_attention', 'refused', 'ready', 'busy', 'closed', 'free'].map((signal) => beepsOf(signal as Signal))).toEqual([
    1, 2, 2, 0, 0, 0, 0,
  ]);
  const flashes = (signal: Signal) => runs(signal, 'amber', 2_500).filter((_, index) => index % 2 === 0).length;
  expect([flashes('booting'), runs('no_manifest', 'amber', 2_250), runs('no_reader', 'amber', 2_750)]).toEqual([
    2,
    [250, 250, 250, 1_500],
    [250, 250, 250, 250, 250, 1_500],
  ]);
});

test('each direction has its lamps; a shared set shows the more urgent', () => {
  const shown = { in: { signal: 'granted', sinceMs: 1_000 }, out: { signal: 'closed', sinceMs: 0 } } as const;
  const own = renderLamps(shown, 'per_direction', 1_500);
  expect([own.outputs.get('green_in'), own.outputs.get('red_in'), own.outputs.get('green_out'), own.outputs.get('red_out'), own.outputs.get('buzzer')]).toEqual(
    [true, false, false, true, false],
  );
  const shared = renderLamps(shown, 'shared', 1_050);
  expect([shared.outputs.get('green_in'), shared.outputs.get('red_in'), shared.outputs.has('green_out'), shared.outputs.get('buzzer')]).toEqual([
    true,
    false,
    false,
    true,
  ]);
});

test('the next look is never missed: between two looks nothing changes', () => {
  fc.assert(
    fc.property(fc.constantFrom(...SIGNALS), fc.constantFrom(...SIGNALS), fc.integer({ min: 0, max: 20_000 }), (a, b, atMs) => {
      const shown = { in: { signal: a, sinceMs: 100 }, out: { signal: b, sinceMs: 300 } };
      const now = renderLamps(shown, 'per_direction', atMs);
      expect(now.nextMs === null || now.nextMs > atMs).toBe(true);
      const until = now.nextMs ?? atMs + 10_000;
      for (const later of [atMs + (until - atMs) / 2, until - 0.5]) {
        if (later > atMs) expect(renderLamps(shown, 'per_direction', later).outputs).toEqual(now.outputs);
      }
    }),
  );
});

test('lamps that do not blink settle: nothing to look at again', () => {
  for (const signal of ['ready', 'granted', 'granted_attention', 'refused', 'closed', 'free'] as const) {
    expect(renderLamps({ in: { signal, sinceMs: 0 }, out: { signal, sinceMs: 0 } }, 'per_direction', 5_000).nextMs).toBe(null);
  }
});
