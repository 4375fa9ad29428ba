import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  AT_REST,
  BEAM_GAP_MS,
  type Beam,
  type BeamState,
  beam,
  beamGap,
  debounce,
  type LevelChange,
  type LineState,
  NO_ONE,
  type PassageEvent,
  settle,
} from './debounce.ts';

const HOLDS = { activeMs: 3, restMs: 20 };

/** Plays edges given as [time, level]; asks again when due, as the lane's timer does. */
function play(edges: readonly (readonly [number, boolean])[]): readonly LevelChange[] {
  let line: LineState = AT_REST;
  let dueMs: number | null = null;
  const changes: LevelChange[] = [];
  const ask = (untilMs: number) => {
    while (dueMs !== null && dueMs <= untilMs) {
      const seen = settle(line, dueMs, HOLDS);
      changes.push(...seen.changes);
      ({ line, dueMs } = seen);
    }
  };
  for (const [atMs, active] of edges) {
    ask(atMs - 0.001);
    const seen = debounce(line, active, atMs, HOLDS);
    changes.push(...seen.changes);
    ({ line, dueMs } = seen);
  }
  ask(Number.POSITIVE_INFINITY);
  return changes;
}

test('a pulse of 5 ms counts, dated at its edges', () => {
  expect(
    play([
      [100, true],
      [105, false],
    ]),
  ).toEqual([
    { active: true, atMs: 100 },
    { active: false, atMs: 105 },
  ]);
});

test('a pulse of 5 ms counts when both edges are delivered late and at once', () => {
  const up = debounce(AT_REST, true, 100, HOLDS);
  const down = debounce(up.line, false, 105, HOLDS);
  expect(down.changes).toEqual([{ active: true, atMs: 100 }]);
  expect(down.dueMs).toBe(125);
});

test('chatter below 3 ms is dropped', () => {
  expect(
    play([
      [100, true],
      [101, false],
      [102, true],
      [104, false],
      [105, true],
      [106.5, false],
    ]),
  ).toEqual([]);
});

test('a contact that bounces at both ends is one passage', () => {
  expect(
    play([
      [100, true],
      [101, false],
      [101.5, true],
      [300, false],
      [304, true],
      [308, false],
      [312, true],
      [317, false],
    ]),
  ).toEqual([
    { active: true, atMs: 101.5 },
    { active: false, atMs: 317 },
  ]);
});

test('the same level read again changes nothing', () => {
  expect(
    play([
      [100, true],
      [350, true],
      [600, true],
      [700, false],
      [900, false],
    ]),
  ).toEqual([
    { active: true, atMs: 100 },
    { active: false, atMs: 700 },
  ]);
});

test('any edges: levels alternate, begin with active, and every kept pulse is at least 3 ms', () => {
  const edges = fc.array(fc.double({ min: 0.1, max: 60, noNaN: true }), { maxLength: 60 }).map((gaps) => {
    let atMs = 0;
    return gaps.map((gap, index) => [(atMs += gap), index % 2 === 0] as const);
  });
  fc.assert(
    fc.property(edges, (list) => {
      const changes = play(list);
      changes.forEach((change, index) => {
        expect(change.active).toBe(index % 2 === 0);
        const before = changes[index - 1];
        if (before !== undefined && !change.active) expect(change.atMs - before.atMs).toBeGreaterThanOrEqual(HOLDS.activeMs - 1e-9);
      });
      // Every pulse of 5 ms and more on the wire lies within a counted one.
      list.forEach(([atMs, active], index) => {
        const end = list[index + 1]?.[0] ?? Number.POSITIVE_INFINITY;
        if (!active || end - atMs < 5) return;
        const begun = changes.filter((change) => change.atMs <= atMs + 1e-9).at(-1);
        expect(begun?.active).toBe(true);
      });
    }),
  );
});

function walk(edges: readonly (readonly [Beam, boolean, number])[]): readonly PassageEvent[] {
  let state: BeamState = NO_ONE;
  const events: PassageEvent[] = [];
  for (const [which, active, atMs] of edges) {
    if (state.gapUntilMs !== null && state.gapUntilMs <= atMs) {
      const given = beamGap(state, state.gapUntilMs);
      state = given.state;
      events.push(...given.events);
    }
    const seen = beam(state, which, { active, atMs });
    state = seen.state;
    events.push(...seen.events);
  }
  if (state.gapUntilMs !== null) events.push(...beamGap(state, state.gapUntilMs).events);
  return events;
}

const A = 'beam_a';
const B = 'beam_b';
test.each([
  [
    'in',
    [
      [A, true, 0],
      [B, true, 100],
      [A, false, 200],
      [B, false, 300],
    ],
    ['started in', 'finished in'],
  ],
  [
    'out',
    [
      [B, true, 0],
      [A, true, 100],
      [B, false, 200],
      [A, false, 300],
    ],
    ['started out', 'finished out'],
  ],
  [
    'in, between the beams for a moment',
    [
      [A, true, 0],
      [A, false, 100],
      [B, true, 300],
      [B, false, 400],
    ],
    ['started in', 'finished in'],
  ],
  [
    'leant in and went back',
    [
      [A, true, 0],
      [A, false, 300],
    ],
    ['started in', 'backed_out in'],
  ],
  [
    'went in to the second beam and back',
    [
      [A, true, 0],
      [B, true, 100],
      [B, false, 200],
      [A, false, 300],
    ],
    ['started in', 'backed_out in'],
  ],
  [
    'leant in, and another comes out later',
    [
      [A, true, 0],
      [A, false, 100],
      [B, true, 100 + BEAM_GAP_MS],
      [A, true, 700],
      [B, false, 800],
      [A, false, 900],
    ],
    ['started in', 'backed_out in', 'started out', 'finished out'],
  ],
] as const)('beams: %s', (_, edges, expected) => {
  expect(walk(edges).map(({ kind, direction }) => `${kind} ${direction}`)).toEqual(expected);
});
