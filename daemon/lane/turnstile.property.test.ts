/** No sequence of inputs opens without a right, or twice for one unit, or leaves fire unanswered; and when all is quiet, all is at rest. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Direction } from '../../contract/ids.ts';
import { DEFAULT_LANE_CONFIG, type LaneConfig } from './config.ts';
import { createLaneWorld, type LaneWorld } from './lane-world.ts';
import { effectiveMode, isIdle } from './turnstile.ts';
import { BOTH, type LaneEffect, type LaneLine, type LaneNote } from './types.ts';

const direction = fc.constantFrom<Direction>('in', 'out');
const LINES: readonly LaneLine[] = ['passage_in', 'passage_out', 'beam_a', 'beam_b', 'button', 'tamper', 'fire'];
const action = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('show' as const), direction, code: fc.constantFrom('a', 'b', 'c') }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('answer' as const),
      what: fc.constantFrom('grant' as const, 'grant' as const, 'refusal' as const, 'failed' as const),
      units: fc.integer({ min: 1, max: 3 }),
      which: fc.nat(5),
    }),
  },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('line' as const), line: fc.constantFrom(...LINES.slice(0, 6)), active: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('fire' as const), active: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('late' as const), which: fc.nat(5) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('reset' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('open' as const), direction, units: fc.integer({ min: 1, max: 3 }) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('mode' as const),
      direction,
      mode: fc.constantFrom('controlled' as const, 'controlled' as const, 'free' as const, 'locked' as const, 'out_of_service' as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('drain' as const), cancel: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('garbled' as const), direction }) },
  {
    weight: 7,
    arbitrary: fc.record({
      do: fc.constant('wait' as const),
      ms: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 40, max: 3_000 }), fc.integer({ min: 3_000, max: 40_000 })),
    }),
  },
);
type Action = typeof action extends fc.Arbitrary<infer T> ? T : never;

const laneConfig: fc.Arbitrary<LaneConfig> = fc
  .record({
    release: fc.constantFrom('pulse' as const, 'hold' as const),
    freeBy: fc.constantFrom('hold' as const, 'repulse' as const),
    sensor: fc.constantFrom('none' as const, 'per_direction' as const, 'beams' as const),
    whileOpen: fc.constantFrom('wait' as const, 'queue' as const),
    passageGraceMs: fc.constantFrom(0, 1_500),
  })
  .map((change) => ({ ...DEFAULT_LANE_CONFIG, ...change }));

/** What the outside knows: rights that were given, and what became of them. Kept apart from the lane's own state. */
function createWitness(world: LaneWorld, config: LaneConfig) {
  const waiting: { readonly presentation: number; readonly direction: Direction }[] = [];
  /** Given up by the lane: the desk returns them, so what still comes gives no right. */
  const late: { readonly presentation: number; readonly direction: Direction }[] = [];
  const rights: Record<Direction, number> = { in: 0, out: 0 };
  const edges: Record<Direction, number> = { in: 0, out: 0 };
  /** Units of every right, by its row or override, that have no outcome yet. */
  const owed = new Map<string, Set<number>>();
  let opens = 0;

  function give(key: string, to: Direction, units: number): void {
    rights[to] += units;
    owed.set(key, new Set(Array.from({ length: units }, (_, index) => index + 1)));
  }

  function saw(effects: readonly LaneEffect[]): void {
    for (const effect of effects) {
      if (effect.kind === 'decide') waiting.push(effect);
      if (effect.kind === 'abandon') late.push(...waiting.filter((one) => one.presentation === effect.presentation));
      if (effect.kind === 'abandon' || effect.kind === 'drop') forget(effect.presentation);
      if (effect.kind === 'record') noted(effect.note, effect.override);
      if (effect.kind === 'write' && effect.active && effect.output !== 'stop') {
        const way = effect.output === 'release_in' ? 'in' : 'out';
        if (effectiveMode(world.state(), way) === 'emergency' || world.state()[way].mode === 'free') continue;
        edges[way] += 1;
        expect(edges[way], `releases ${way} beyond what was granted`).toBeLessThanOrEqual(rights[way]);
      }
    }
  }

  function noted(note: LaneNote, override: number | undefined): void {
    if (note.kind === 'override' && override !== undefined) give(`override ${override}`, 'in', 1);
    if (note.kind !== 'passage' || note.of === null) return;
    const key = 'row' in note.of ? note.of.row.join('/') : `override ${note.of.override}`;
    expect(owed.get(key)?.delete(note.unit ?? 0), `unit ${note.unit} of ${key} has one outcome`).toBe(true);
  }

  function forget(presentation: number): void {
    const index = waiting.findIndex((one) => one.presentation === presentation);
    if (index >= 0) waiting.splice(index, 1);
  }

  return {
    saw,
    owed: () => [...owed].filter(([, units]) => units.size > 0).map(([key]) => key),
    run(one: Action): void {
      switch (one.do) {
        case 'show':
          return saw(world.show(one.code, one.direction).effects);
        case 'answer': {
          const asked = waiting[one.which % Math.max(1, waiting.length)];
          if (asked === undefined) return;
          forget(asked.presentation);
          if (one.what === 'failed') return saw(world.send({ kind: 'decision_failed', ...asked }));
          if (one.what === 'refusal') return saw(world.refuse(asked.presentation, asked.direction));
          opens += 1;
          give(`1000/${opens}`, asked.direction, one.units);
          return saw(
            world.send({
              kind: 'verdict',
              direction: asked.direction,
              presentation: asked.presentation,
              row: [1_000, opens],
              verdict: { kind: 'grant', units: one.units, attention: false },
            }),
          );
        }
        case 'late': {
          const given = late[one.which % Math.max(1, late.length)];
          if (given !== undefined) saw(world.grant(given.presentation, { direction: given.direction }).effects);
          return;
        }
        case 'line':
          return saw(world.line(one.line, one.active));
        case 'fire': {
          saw(world.line('fire', one.active));
          if (one.active && !wasLatched) expect([world.driven('release_in'), world.driven('release_out'), world.driven('stop')]).toEqual([true, true, false]);
          return;
        }
        case 'reset':
          return saw(world.send({ kind: 'reset_emergency', actor: 'staff-1', reason: 'over' }));
        case 'open': {
          opens += 1;
          give(`1000/${opens}`, one.direction, one.units);
          return saw(world.send({ kind: 'open', direction: one.direction, units: one.units, row: [1_000, opens] }));
        }
        case 'mode':
          return saw(world.send({ kind: 'mode', directions: [one.direction], mode: one.mode, untilWallMs: null, actor: 'staff-1', reason: 'test' }));
        case 'drain':
          return saw(world.send({ kind: 'drain', cancel: one.cancel }));
        case 'garbled':
          return saw(world.send({ kind: 'garbled', direction: one.direction }));
        case 'wait':
          return saw(waitAndWatch(one.ms));
      }
    },
    before(): void {
      wasLatched = world.state().fire.latched;
    },
  };

  /** Lets time pass in small pieces: no pulse lasts longer than its length, no held signal longer than the time to begin. */
  function waitAndWatch(ms: number): readonly LaneEffect[] {
    const effects: LaneEffect[] = [];
    for (let left = ms; left > 0; left -= 50) {
      effects.push(...world.wait(Math.min(50, left)));
      for (const way of BOTH) {
        const open = effectiveMode(world.state(), way) === 'emergency' || world.state()[way].mode === 'free';
        const since = drivenSince[way];
        if (!world.driven(`release_${way}`) || open) drivenSince[way] = null;
        else if (since === null) drivenSince[way] = world.nowMs();
        else
          expect(world.nowMs() - since, `release ${way} driven too long`).toBeLessThanOrEqual(
            (config.release === 'hold' ? config.passageTimeoutMs : config.pulseMs) + 50,
          );
      }
    }
    return effects;
  }
}
let wasLatched = false;
let drivenSince: Record<Direction, number | null> = { in: null, out: null };

test('any inputs in any order', () => {
  fc.assert(
    fc.property(laneConfig, fc.array(action, { maxLength: 60 }), (config, actions) => {
      drivenSince = { in: null, out: null };
      const world = createLaneWorld(config);
      const witness = createWitness(world, config);
      for (const one of actions) {
        witness.before();
        witness.run(one);
        // A release follows a step, so a new one is measured from now on.
        for (const way of BOTH) if (!world.driven(`release_${way}`)) drivenSince[way] = null;
      }
      // All is quiet: lines at rest, no fire, nobody shows anything.
      for (const line of LINES) witness.saw(world.line(line, false));
      witness.saw(world.wait(200));
      witness.run({ do: 'reset' });
      witness.run({ do: 'drain', cancel: true });
      for (const way of BOTH) witness.run({ do: 'mode', direction: way, mode: 'controlled' });
      witness.saw(world.wait(400_000));
      expect(witness.owed(), 'every unit has an outcome').toEqual([]);
      expect([world.driven('release_in'), world.driven('release_out'), world.driven('stop')]).toEqual([false, false, false]);
      expect(BOTH.map((way) => [isIdle(world.state(), way), world.state()[way].signal])).toEqual([
        [true, 'ready'],
        [true, 'ready'],
      ]);
      expect([...world.timers().keys()]).toEqual([]);
    }),
    { numRuns: 1_500 },
  );
});
