/** No sequence of inputs opens without a right, or twice for one unit, or leaves fire unanswered; and when all is quiet, all is at rest. */
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import type { Direction } from '../../contract/ids.ts';
import { DEFAULT_LANE_CONFIG, type LaneConfig } from './config.ts';
import { letOut } from './exits.ts';
import { EXIT_CLOSED_MAX_MS } from './modes.ts';
import { effectiveMode, isIdle } from './state-machine.ts';
import { createLaneWorld, type LaneWorld } from './testing/lane-harness.ts';
import { BOTH, closes, type LaneEffect, type LaneLine, type LaneNote } from './types.ts';

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
  { weight: 1, arbitrary: fc.record({ do: fc.constant('close exit' as const), mode: fc.constantFrom('locked' as const, 'out_of_service' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('restore' as const), out: fc.constantFrom('controlled' as const, 'free' as const, 'locked' as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('fault' as const),
      what: fc.constantFrom('booted' as const, 'manifest' as const, 'disk' as const),
      ok: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('drain' as const), cancel: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('garbled' as const), direction }) },
  {
    weight: 7,
    arbitrary: fc.record({
      do: fc.constant('wait' as const),
      ms: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 40, max: 3_000 }), fc.integer({ min: 3_000, max: 40_000 }), {
        weight: 1,
        arbitrary: fc.constant(EXIT_CLOSED_MAX_MS),
      }),
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
    exit: fc.constantFrom('free' as const, 'code' as const, 'code' as const),
    button: fc.constantFrom('in' as const, 'out' as const, 'both' as const),
    passageGraceMs: fc.constantFrom(0, 1_500),
  })
  .map((change) => ({ ...DEFAULT_LANE_CONFIG, fireConfirmMs: 0, ...change }));

/** Returns the direction of a refusal; null when nobody was refused. */
function refusedWay(effect: LaneEffect): Direction | null {
  if (effect.kind === 'refused' || (effect.kind === 'signal' && effect.signal === 'refused')) return effect.direction;
  if (effect.kind === 'drop' && (effect.shown === 'busy' || effect.shown === 'repeat' || effect.shown === 'gate_locked')) return effect.direction;
  return effect.kind === 'record' && effect.note.kind === 'refusal' ? effect.note.direction : null;
}

/** Counts the rights that were given and their outcomes, apart from the lane's own state. */
function createWitness(world: LaneWorld, config: LaneConfig) {
  const waiting: { readonly presentation: number; readonly direction: Direction }[] = [];
  /** Given up by the lane: the decider returns them, so what still comes gives no right. */
  const late: { readonly presentation: number; readonly direction: Direction }[] = [];
  const rights: Record<Direction, number> = { in: 0, out: 0 };
  const edges: Record<Direction, number> = { in: 0, out: 0 };
  /** Units of every right, by its row or override, that have no outcome yet. */
  const abandonedGrants = new Map<string, Set<number>>();
  let opens = 0;
  /** Exits by their presentation, and those for which the lane was open. */
  const exits = new Map<number, number>();
  const unserved = new Set<number>();
  /** The one order that may refuse outwards: until when it holds at most; null: it was not given. */
  let closedUntilMs: number | null = null;

  const isClosed = (): boolean => {
    // It waits for who is under way; from then on it holds for its time and no longer.
    if (closedUntilMs === Number.POSITIVE_INFINITY && world.state().out.pendingMode === null && closes(world.state().out.mode))
      closedUntilMs = world.nowMs() + EXIT_CLOSED_MAX_MS;
    return closedUntilMs !== null && world.nowMs() < closedUntilMs && closes(world.state().out.mode);
  };
  /** Whoever stands inside and has just shown something, or for whom somebody pressed: the way is open now, or opens after the one before. */
  function mustBeOpen(what: string): void {
    const { out } = world.state();
    if (isClosed() || world.state().stopped) return;
    const free = effectiveMode(world.state(), 'out') === 'emergency' || out.mode === 'free';
    expect(free || (out.grant !== null && out.grant.phase !== 'grace'), `${what} opens outwards (${out.mode})`).toBe(true);
    expect([world.driven('stop'), out.signal === 'refused' || out.signal === 'closed'], `${what} opens outwards`).toEqual([false, false]);
  }
  function lookAtExits(): void {
    const { out } = world.state();
    const number = out.grant !== null && 'override' in out.grant.by ? out.grant.by.override : null;
    if (effectiveMode(world.state(), 'out') === 'emergency' || out.mode === 'free') unserved.clear();
    else if (number !== null && (world.driven('release_out') || out.release.state === 'gap')) unserved.delete(number);
  }
  function openOut(exit: number): void {
    give(`override ${exit}`, 'out', 1);
    unserved.add(exit);
  }

  function give(key: string, to: Direction, units: number): void {
    rights[to] += units;
    abandonedGrants.set(key, new Set(Array.from({ length: units }, (_, index) => index + 1)));
  }

  function saw(effects: readonly LaneEffect[]): void {
    isClosed();
    for (const effect of effects) {
      if (effect.kind === 'expect') openOut(effect.exit);
      if (effect.kind === 'decide' && effect.exit !== undefined) exits.set(effect.presentation, effect.exit);
      if (refusedWay(effect) === 'out') expect(isClosed(), 'refused outwards').toBe(true);
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
    lookAtExits();
  }

  function noted(note: LaneNote, override: number | undefined): void {
    if (note.kind === 'exit_unmatched' && override !== undefined) openOut(override);
    if (note.kind === 'override' && note.action === 'open' && override !== undefined) give(`override ${override}`, note.direction ?? 'in', 1);
    if (note.kind !== 'passage' || note.of === null) return;
    const key = 'row' in note.of ? note.of.row.join('/') : `override ${note.of.override}`;
    expect(abandonedGrants.get(key)?.delete(note.unit ?? 0), `unit ${note.unit} of ${key} has one outcome`).toBe(true);
  }

  function forget(presentation: number): void {
    const index = waiting.findIndex((one) => one.presentation === presentation);
    if (index >= 0) waiting.splice(index, 1);
  }

  return {
    saw,
    unserved: () => [...unserved],
    abandonedGrants: () => [...abandonedGrants].filter(([, units]) => units.size > 0).map(([key]) => key),
    run(one: Action): void {
      // An exit that is open when a free lane ends is opened once more.
      if (world.state().out.mode === 'free' || one.do === 'restore' || one.do === 'mode') rights.out += 1;
      switch (one.do) {
        case 'show':
          saw(world.show(one.code, one.direction).effects);
          return one.direction === 'out' ? mustBeOpen('a code') : undefined;
        case 'answer': {
          const asked = waiting[one.which % Math.max(1, waiting.length)];
          if (asked === undefined) return;
          forget(asked.presentation);
          const exit = exits.get(asked.presentation);
          if (exit !== undefined) {
            // Out, the answer is only a row; more than one may follow by it.
            if (one.what !== 'grant') return;
            rights.out += one.units - 1;
            for (let unit = 2; unit <= one.units; unit += 1) abandonedGrants.get(`override ${exit}`)?.add(unit);
            return saw(world.grant(asked.presentation, { units: one.units, direction: 'out' }).effects);
          }
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
        case 'line': {
          const wasDown = world.state().lines.button?.level === true;
          saw(world.line(one.line, one.active));
          if (one.line !== 'button' || !one.active) return;
          saw(world.wait(config.inputDebounceMs + 1));
          return config.button === 'in' || wasDown ? undefined : mustBeOpen('the button');
        }
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
          saw(world.send({ kind: 'open', direction: one.direction, units: one.units, row: [1_000, opens] }));
          return one.direction === 'out' ? mustBeOpen('an operator') : undefined;
        }
        case 'close exit':
          closedUntilMs = Number.POSITIVE_INFINITY;
          saw(world.send({ kind: 'mode', directions: ['out'], mode: one.mode, untilWallMs: null, actor: 'lead-1', reason: 'test', exitClosedConfirmed: true }));
          return;
        case 'restore':
          closedUntilMs = null;
          return saw(
            world.send({
              kind: 'restore',
              modes: { in: { mode: 'controlled', untilWallMs: null }, out: { mode: one.out, untilWallMs: null } },
              fireLatched: world.state().fire.latched,
            }),
          );
        case 'fault':
          return saw(world.send({ kind: 'condition', condition: one.what, ok: one.ok }));
        case 'mode':
          if (one.direction === 'out' && (one.mode === 'free' || one.mode === 'controlled')) closedUntilMs = null;
          return saw(world.send({ kind: 'mode', directions: [one.direction], mode: one.mode, untilWallMs: null, actor: 'staff-1', reason: 'test' }));
        case 'drain':
          return saw(world.send({ kind: 'drain', cancel: one.cancel }));
        case 'garbled':
          saw(world.send({ kind: 'garbled', direction: one.direction }));
          return one.direction === 'out' ? mustBeOpen('rubbish') : undefined;
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
    for (let left = ms; left > 0; left -= WATCH_STEP_MS) {
      // Long after everything was there to be watched.
      if (ms - left > WATCHED_MS) return [...effects, ...world.wait(left)];
      effects.push(...world.wait(Math.min(WATCH_STEP_MS, left)));
      lookAtExits();
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
/** Time passes in such steps while releases are watched, and for so long. ms */
const WATCH_STEP_MS = 50;
const WATCHED_MS = 60_000;
let wasLatched = false;
let drivenSince: Record<Direction, number | null> = { in: null, out: null };

function check(createWorld: typeof createLaneWorld, numRuns: number): void {
  fc.assert(
    fc.property(laneConfig, fc.array(action, { maxLength: 60 }), (config, actions) => {
      drivenSince = { in: null, out: null };
      const world = createWorld(config);
      const witness = createWitness(world, config);
      for (const one of actions) {
        witness.before();
        witness.run(one);
        // A release follows a step, so a new one is measured from now on.
        for (const way of BOTH) if (!world.driven(`release_${way}`)) drivenSince[way] = null;
      }
      // All is quiet: lines at rest, no fire, nobody shows anything.
      for (const line of LINES) witness.saw(world.line(line, false));
      // Watched like every other stretch of time, or the gap between two pulses would go unseen.
      witness.run({ do: 'wait', ms: 200 });
      witness.run({ do: 'reset' });
      witness.run({ do: 'drain', cancel: true });
      for (const what of ['booted', 'manifest', 'disk'] as const) witness.run({ do: 'fault', what, ok: true });
      for (const way of BOTH) witness.run({ do: 'mode', direction: way, mode: 'controlled' });
      witness.run({ do: 'wait', ms: 60_000 });
      witness.saw(world.wait(340_000));
      expect(witness.abandonedGrants(), 'every unit has an outcome').toEqual([]);
      expect(witness.unserved(), 'the lane was open for every exit').toEqual([]);
      const freeOut = config.exit === 'free';
      expect([world.driven('release_in'), world.driven('stop')]).toEqual([false, false]);
      if (!freeOut || config.release === 'hold' || config.freeBy === 'hold') expect(world.driven('release_out')).toBe(freeOut);
      expect(BOTH.map((way) => [isIdle(world.state(), way), world.state()[way].signal])).toEqual([
        [true, 'ready'],
        [true, freeOut ? 'exit_open' : 'ready'],
      ]);
      expect([...world.timers().keys()].filter((timer) => !freeOut || !['repulse:out', 'pulse:out'].includes(timer))).toEqual([]);
    }),
    { numRuns },
  );
}

test('any inputs in any order: nobody comes in without a right, and nobody is refused outwards', () =>
  check(createLaneWorld, process.env['STILE_PROVE'] === '1' ? 2_000 : 400));

/** The lane with one of its parts replaced. */
async function planted(part: Partial<typeof import('./exits.ts')>): Promise<typeof createLaneWorld> {
  vi.resetModules();
  vi.doMock('./exits.ts', async (original) => ({ ...(await original<typeof import('./exits.ts')>()), ...part }));
  const world = await import('./testing/lane-harness.ts');
  vi.doUnmock('./exits.ts');
  return world.createLaneWorld;
}

const MISTAKES: Readonly<Record<string, Partial<typeof import('./exits.ts')>>> = {
  'passback refuses out: the answer is waited for': { opensUnasked: () => false },
  'a busy lane refuses out': { letOut: (context, exit) => (context.state.out.grant === null ? letOut(context, exit) : undefined) },
  'whoever waits to go out is forgotten': { settleExits: () => undefined },
  'rubbish opens nothing': { onGarbledExit: () => undefined },
};
test('with nothing planted, the replaced lane holds', async () => check(await planted({}), 100));
test.each(Object.keys(MISTAKES))('a planted mistake is found: %s', async (mistake) => {
  const createWorld = await planted(MISTAKES[mistake] as Partial<typeof import('./exits.ts')>);
  expect(() => check(createWorld, 500)).toThrow('Property failed');
});
