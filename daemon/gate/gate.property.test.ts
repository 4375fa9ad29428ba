/** Whatever the disk, the guests and the operators do: no release without its row, no unit twice, fire answered, and in the end all at rest. */
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import type { Direction } from '../../contract/ids.ts';
import { BOTH } from '../lane/types.ts';
import { createGateWorld, type GateWorld } from './testing/fake-gate.ts';

const direction = fc.constantFrom<Direction>('in', 'out');
const action = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('show' as const), direction, code: fc.constantFrom<string>('good', 'good-2', 'good-3', 'bad', 'good-1') }),
  },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('pass' as const), direction }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('disk' as const),
      delayMs: fc.constantFrom<number>(0, 0, 15, 400, 5_000),
      fails: fc.constantFrom(false, false, true),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('button' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('fire' as const), active: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('order' as const), command: fc.constantFrom('open' as const, 'reset-emergency' as const), direction }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('mode' as const), mode: fc.constantFrom('controlled' as const, 'free' as const, 'locked' as const) }) },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 300, max: 12_000 })) }),
  },
);
type Action = typeof action extends fc.Arbitrary<infer T> ? T : never;

async function run(world: GateWorld, one: Action): Promise<void> {
  const order = (command: 'open' | 'reset-emergency' | 'mode', args: object) => void world.gate.command({ command, args, actor: 'staff-1', reason: 'test' });
  switch (one.do) {
    case 'show':
      return world.show(one.code, one.direction);
    case 'pass':
      return world.pass(one.direction);
    case 'disk':
      world.disk.delayMs = one.delayMs;
      world.disk.fails = one.fails;
      return;
    case 'button':
      await world.line('button', true);
      await world.wait(40);
      return world.line('button', false);
    case 'fire': {
      await world.line('fire', one.active);
      if (one.active) expect([world.gate.state().in.mode, world.gate.state().fire.asserted]).toEqual(['emergency', true]);
      return;
    }
    case 'order':
      return order(one.command, one.command === 'open' ? { direction: one.direction } : {});
    case 'mode':
      return order('mode', { mode: one.mode });
    case 'wait':
      return world.wait(one.ms);
  }
}

/** Compares the rotations that the ledger or the button allowed with the edges of the releases. */
function check(world: GateWorld, presses: number, shownOut: number, edges: Readonly<Record<Direction, number>>): void {
  for (const way of BOTH) {
    const allowed = world.rows.reduce(
      (sum, { note }) =>
        sum +
        (note.kind === 'grant' && note.direction === way
          ? // Out, the row follows the release; of a party the others come by it.
            note.units - (way === 'out' ? 1 : 0)
          : note.kind === 'override' && note.action === 'open' && note.direction === way && note.actor !== 'button'
            ? (note.units ?? 1)
            : 0),
      0,
    );
    expect(edges[way], `releases ${way}`).toBeLessThanOrEqual(allowed + (way === 'in' ? presses : shownOut));
  }
}

test('any guests, disks and operators', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 30 }), async (actions) => {
      const world = await createGateWorld();
      let presses = 0;
      let shownOut = 0;
      let counted = 0;
      const edges = { in: 0, out: 0 };
      const count = () => {
        for (const [, output, active] of world.writes.slice(counted))
          if (active && output !== 'stop' && opensByGrant) edges[output === 'release_in' ? 'in' : 'out'] += 1;
        counted = world.writes.length;
      };
      let opensByGrant = true;
      for (const one of actions) {
        if (one.do === 'button') presses += 1;
        if ((one.do === 'show' || one.do === 'order') && one.direction === 'out') shownOut += 1;
        // Edges in a free lane or in emergency are nobody's: those of a step that may be both are left out.
        const before = world.gate.state();
        opensByGrant =
          one.do !== 'fire' &&
          one.do !== 'mode' &&
          before.in.mode !== 'free' &&
          before.in.mode !== 'emergency' &&
          before.out.mode !== 'free' &&
          before.in.pendingMode !== 'free';
        await run(world, one);
        count();
        check(world, presses, shownOut, edges);
      }
      await quiet(world);
      const abandonedGrants = new Map(
        world.rows.flatMap(({ position, note }) => {
          const units =
            note.kind === 'grant'
              ? note.units
              : note.kind.endsWith('exit_unmatched')
                ? 1
                : note.kind === 'override' && note.action === 'open'
                  ? (note.units ?? 1)
                  : 0;
          return units === 0 ? [] : [[position.join('/'), new Set(Array.from({ length: units }, (_, index) => index + 1))] as const];
        }),
      );
      for (const { note } of world.rows) {
        if (note.kind === 'passage' && note.of !== null)
          expect(abandonedGrants.get(note.of.join('/'))?.delete(note.unit ?? 0), 'one outcome a unit').toBe(true);
      }
      expect([...abandonedGrants].filter(([, units]) => units.size > 0)).toEqual([]);
      const state = world.gate.state();
      expect([state.in.signal, state.out.signal, state.in.released, state.out.released, state.diskOk, state.pendingEntryCount]).toEqual([
        'ready',
        'ready',
        false,
        false,
        true,
        0,
      ]);
      expect([...world.alerts.keys()].filter((id) => id !== 'manifest')).toEqual([]);
      expect(world.latchOnDisk ?? false).toBe(false);
    }),
    { numRuns: process.env['STILE_PROVE'] === '1' ? 800 : 150 },
  );
});

/** The disk works, nobody comes, the operators put everything right. */
async function quiet(world: GateWorld): Promise<void> {
  world.disk.delayMs = 0;
  world.disk.fails = false;
  await world.line('fire', false);
  await world.wait(20_000);
  void world.gate.command({ command: 'reset-emergency', actor: 'staff-1', reason: 'over' });
  await world.wait(100);
  void world.gate.command({ command: 'mode', args: { mode: 'controlled' }, actor: 'staff-1', reason: 'over' });
  await world.wait(60_000);
}

// ---------------------------------------------------------------- out

const CODES = ['good', 'good-2', 'bad', 'passback', 'unknown'] as const;
const outAction = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('leave' as const), code: fc.constantFrom(...CODES, 'rubbish' as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('show' as const), direction: fc.constant('in' as const), code: fc.constantFrom(...CODES) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('pass' as const), direction }) },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('disk' as const), delayMs: fc.constantFrom(0, 15, 400, 5_000, 3_600_000), fails: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('clock' as const), trusted: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('list' as const), there: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('button' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('fire' as const), active: fc.boolean() }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('command' as const),
      command: fc.constantFrom(
        'mode' as const,
        'mode' as const,
        'open' as const,
        'reset-emergency' as const,
        'restart' as const,
        'selftest' as const,
        'refresh' as const,
      ),
      mode: fc.constantFrom('controlled' as const, 'locked' as const, 'locked' as const, 'out_of_service' as const, 'free' as const),
      direction: fc.constantFrom(undefined, 'in' as const, 'out' as const),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 300, max: 12_000 })) }),
  },
);
type OutAction = typeof outAction extends fc.Arbitrary<infer T> ? T : never;
const setUp = fc.record({
  exit: fc.constantFrom('code' as const, 'code' as const, 'free' as const),
  release: fc.constantFrom('pulse' as const, 'hold' as const),
  sensor: fc.constantFrom('per_direction' as const, 'none' as const),
  button: fc.constantFrom('in' as const, 'both' as const),
  deskOpens: fc.boolean(),
});

async function act(world: GateWorld, one: OutAction): Promise<void> {
  switch (one.do) {
    case 'leave':
      if (one.code !== 'rubbish') return world.show(one.code, 'out');
      return world.reader({ kind: 'garbled', reader: 'out', direction: 'out', why: 'framing', atMs: world.nowMs() });
    case 'clock':
      world.clockTrusted = one.trusted;
      return;
    case 'list':
      world.status = one.there ? {} : { manifests: [] };
      return;
    case 'command': {
      const args = one.command === 'mode' ? { mode: one.mode, direction: one.direction } : one.command === 'open' ? { direction: one.direction ?? 'out' } : {};
      void world.gate.command({ command: one.command, args, actor: 'staff-1', reason: 'test' });
      return world.wait(1);
    }
    default:
      return run(world, one);
  }
}

function neverRefused(createWorld: typeof createGateWorld, numRuns: number): Promise<void> {
  return fc.assert(
    fc.asyncProperty(setUp, fc.array(outAction, { maxLength: 25 }), async ({ deskOpens, ...config }, actions) => {
      const world = await createWorld({
        config,
        before: (one) => {
          one.disk.openFails = !deskOpens;
        },
      });
      for (const one of actions) {
        await act(world, one);
        const { out } = world.gate.state();
        const isOpen = out.mode === 'free' || out.mode === 'emergency' || (out.grant !== null && out.grant.phase !== 'grace');
        if (one.do === 'leave')
          expect([isOpen, world.level('stop'), out.signal === 'refused' || out.signal === 'closed'], `${one.code} leaves`).toEqual([true, false, false]);
        expect(out.mode === 'locked' || out.mode === 'out_of_service', 'the exit is closed').toBe(false);
        expect(world.rows.filter(({ note }) => (note.kind === 'refusal' || note.kind === 'decided refusal') && note.direction === 'out')).toEqual([]);
      }
    }),
    { numRuns },
  );
}

test('nobody is kept inside: no disk, clock, list, mode or order refuses outwards', () => neverRefused(createGateWorld, 300), 60_000);

test.each([
  ['passback refuses out', 'opensUnasked'],
  ['rubbish keeps its guest inside', 'onGarbledExit'],
] as const)(
  'a planted mistake is found: %s',
  async (_, part) => {
    vi.resetModules();
    vi.doMock('../lane/exits.ts', async (original) => ({ ...(await original<typeof import('../lane/exits.ts')>()), [part]: () => false }));
    const planted = await import('./testing/fake-gate.ts');
    vi.doUnmock('../lane/exits.ts');
    await expect(neverRefused(planted.createGateWorld, 300)).rejects.toThrow('Property failed');
  },
  60_000,
);
