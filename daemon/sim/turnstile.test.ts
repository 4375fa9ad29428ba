import fc from 'fast-check';
import { expect, test } from 'vitest';
import { initialTurnstile, isUnlocked, MAX_WAITING_GUESTS, stepTurnstile, type TurnstileInput, type TurnstileSettings } from './turnstile.ts';

/** Plays inputs at their times, ticking at every deadline, and answers the sensor's edges as "time input level". */
function play(settings: Partial<TurnstileSettings>, script: readonly (readonly [number, TurnstileInput])[], untilMs = 60_000) {
  let state = initialTurnstile(settings);
  let deadline: number | null = null;
  const reported: string[] = [];
  const step = (input: TurnstileInput, atMs: number): void => {
    const next = stepTurnstile(state, input, atMs);
    state = next.state;
    deadline = next.deadlineMs;
    reported.push(...next.effects.map((effect) => `${atMs} ${effect.input} ${effect.active ? 1 : 0}`));
  };
  const tickTo = (atMs: number): void => {
    while (deadline !== null && deadline <= atMs) step({ kind: 'tick' }, deadline);
  };
  for (const [atMs, input] of script) {
    tickTo(atMs);
    step(input, atMs);
  }
  tickTo(untilMs);
  return { reported, state };
}

const set = (output: 'release_in' | 'release_out' | 'stop', active: boolean): TurnstileInput => ({ kind: 'output', output, active });
const pulse = (atMs: number, output: 'release_in' | 'release_out' = 'release_in'): [number, TurnstileInput][] => [
  [atMs, set(output, true)],
  [atMs + 200, set(output, false)],
];
const guest = (direction: 'in' | 'out', force = false): TurnstileInput => ({ kind: 'guest', direction, force });

test('a pulse lets one guest through, in its direction', () => {
  expect(play({ delayMs: 300, rotateMs: 400 }, pulse(1_000)).reported).toEqual(['1300 passage_in 1', '1700 passage_in 0']);
  expect(play({ delayMs: 300, rotateMs: 400 }, pulse(1_000, 'release_out')).reported).toEqual(['1300 passage_out 1', '1700 passage_out 0']);
});

test('one pulse is worth one rotation, and unlocks for its time only', () => {
  const nobody = { walk: 'nobody', rotateMs: 400, relockMs: 5_000 } as const;
  expect(play(nobody, [...pulse(0), [1_000, guest('in')], [2_000, guest('in')]]).reported).toEqual(['1000 passage_in 1', '1400 passage_in 0']);
  expect(play(nobody, [...pulse(0), [5_000, guest('in')]]).reported).toEqual([]);
  expect(play(nobody, [...pulse(0), [1_000, guest('out')]]).reported).toEqual([]);
});

test('a held release lets guests through until it is dropped', () => {
  const { reported } = play({ walk: 'nobody', rotateMs: 100, relockMs: 50 }, [
    [0, set('release_in', true)],
    [1_000, guest('in')],
    [2_000, guest('in')],
    [3_000, set('release_in', false)],
    [4_000, guest('in')],
  ]);
  expect(reported).toEqual(['1000 passage_in 1', '1100 passage_in 0', '2000 passage_in 1', '2100 passage_in 0']);
});

test('nobody walks; a guest turns away from locked arms, or forces them', () => {
  expect(play({ walk: 'nobody' }, pulse(0)).reported).toEqual([]);
  expect(play({ rotateMs: 100 }, [[10, guest('in')]]).reported).toEqual([]);
  expect(play({ rotateMs: 100 }, [[10, guest('in', true)]]).reported).toEqual(['10 passage_in 1', '110 passage_in 0']);
});

test('stop holds the arms', () => {
  expect(play({ delayMs: 100 }, [[0, set('stop', true)], ...pulse(10)]).reported).toEqual([]);
});

test('a stuck guest begins and stands there until helped', () => {
  const stuck = play({ walk: 'stuck', delayMs: 300, rotateMs: 400 }, pulse(0));
  expect([stuck.reported, stuck.state.rotating]).toEqual([['300 passage_in 1'], 'in']);
  expect(play({ walk: 'stuck', delayMs: 300, rotateMs: 400 }, [...pulse(0), [9_000, { kind: 'unstick' }]]).reported).toEqual([
    '300 passage_in 1',
    '9400 passage_in 0',
  ]);
});

test('guests take turns: the next begins when the arms have come to rest, also when the tick is late', () => {
  const settings = { walk: 'nobody', rotateMs: 400 } as const;
  const script: [number, TurnstileInput][] = [
    [0, set('release_in', true)],
    [0, set('release_out', true)],
    [100, guest('in')],
    [200, guest('out')],
  ];
  expect(play(settings, script).reported).toEqual(['100 passage_in 1', '500 passage_in 0', '500 passage_out 1', '900 passage_out 0']);
  let late = initialTurnstile(settings);
  for (const [atMs, input] of script) late = stepTurnstile(late, input, atMs).state;
  const step = stepTurnstile(late, { kind: 'tick' }, 700);
  expect([step.effects.map(({ input, active }) => `${input} ${active}`), step.deadlineMs]).toEqual([['passage_in false', 'passage_out true'], 900]);
});

test('beams are broken in the order of the walk', () => {
  expect(play({ sensor: 'beams', delayMs: 0, rotateMs: 300 }, pulse(0)).reported).toEqual(['0 beam_a 1', '100 beam_b 1', '200 beam_a 0', '300 beam_b 0']);
  expect(play({ sensor: 'beams', delayMs: 0, rotateMs: 300 }, pulse(0, 'release_out')).reported.map((edge) => edge.split(' ')[1])).toEqual([
    'beam_b',
    'beam_a',
    'beam_b',
    'beam_a',
  ]);
});

test('whatever happens, sensors alternate, one guest turns the arms at a time, and the queue is bounded', () => {
  const input: fc.Arbitrary<TurnstileInput> = fc.oneof(
    fc.tuple(fc.constantFrom('release_in', 'release_out', 'stop'), fc.boolean()).map(([output, active]) => set(output as 'stop', active)),
    fc.tuple(fc.constantFrom('in', 'out'), fc.boolean()).map(([direction, force]) => guest(direction as 'in', force)),
    fc.constant<TurnstileInput>({ kind: 'unstick' }),
    fc.constantFrom('auto', 'nobody', 'stuck').map((walk): TurnstileInput => ({ kind: 'settings', settings: { walk: walk as 'auto' } })),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.integer({ min: 0, max: 2_000 }), input), { maxLength: 60 }), (steps) => {
      let atMs = 0;
      const { reported, state } = play(
        {},
        steps.map(([afterMs, what]) => [(atMs += afterMs), what] as const),
        1_000_000,
      );
      const active = new Set<string>();
      for (const edge of reported) {
        const [, name, level] = edge.split(' ') as [string, string, string];
        expect(active.has(name)).toBe(level === '0');
        if (level === '1') active.add(name);
        else active.delete(name);
        expect(active.size).toBeLessThanOrEqual(1);
      }
      expect(state.guests.length).toBeLessThanOrEqual(MAX_WAITING_GUESTS);
    }),
  );
});

test('knows when it is unlocked', () => {
  const { state } = play({ walk: 'nobody', relockMs: 5_000 }, pulse(1_000));
  expect([isUnlocked(state, 'in', 5_999), isUnlocked(state, 'in', 6_000), isUnlocked(state, 'out', 2_000)]).toEqual([true, false, false]);
});
