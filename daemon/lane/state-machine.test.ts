import { expect, test } from 'vitest';
import { PATTERNS } from './signals.ts';
import { effectiveMode, openRefusal } from './state-machine.ts';
import { createLaneWorld, type LaneWorld, WORLD_WALL_MS } from './testing/lane-harness.ts';
import type { LaneEffect, LaneNote } from './types.ts';

/** Passages and refusals as short texts: "passed 1 of 1/7". */
const notesOf = (pendingEntries: readonly LaneNote[]) =>
  pendingEntries.map((note) => {
    if (note.kind === 'passage')
      return `${note.outcome}${note.unit === null ? '' : ` ${note.unit}`}${note.of === null ? '' : 'row' in note.of ? ` of ${note.of.row.join('/')}` : ` of override ${note.of.override}`}`;
    if (note.kind === 'refusal') return `refused ${note.reason}`;
    if (note.kind === 'mode') return `${note.direction} ${note.from} → ${note.to} by ${note.actor}`;
    if (note.kind === 'override') return `override ${note.action} by ${note.actor}`;
    if (note.kind === 'exit_unmatched') return `exit unmatched ${note.reason}`;
    return `${note.kind} ${note.what}`;
  });
const kinds = (effects: readonly LaneEffect[]) => effects.map((effect) => effect.kind);
const dropped = (effects: readonly LaneEffect[]) => effects.flatMap((effect) => (effect.kind === 'drop' ? [effect.shown] : []));
const signal = (world: LaneWorld, direction: 'in' | 'out' = 'in') => world.state()[direction].signal;
const alerts = (effects: readonly LaneEffect[]) =>
  effects.flatMap((effect) => (effect.kind === 'raise' ? [`+${effect.alert}`] : effect.kind === 'clear' ? [`-${effect.alert}`] : []));
const admit = (world: LaneWorld, code = 'ticket', units = 1) => world.grant(world.show(code).presentation, { units });
const command = (
  world: LaneWorld,
  mode: 'controlled' | 'free' | 'locked' | 'out_of_service',
  options: { directions?: readonly ('in' | 'out')[]; untilWallMs?: number; exitClosedConfirmed?: boolean } = {},
) =>
  world.send({
    kind: 'mode',
    directions: options.directions ?? ['in', 'out'],
    mode,
    untilWallMs: options.untilWallMs ?? null,
    actor: 'staff-1',
    reason: 'test',
    exitClosedConfirmed: options.exitClosedConfirmed ?? false,
  });
const closeExit = (world: LaneWorld) => command(world, 'locked', { directions: ['out'], exitClosedConfirmed: true });

// ---------------------------------------------------------------- grants and passages

test('a code is decided, the committed grant opens by a pulse of its length, the passage makes the admission', () => {
  const world = createLaneWorld();
  const { presentation, effects } = world.show('ticket');
  expect(effects).toContainEqual({ kind: 'decide', direction: 'in', presentation, mode: 'controlled' });
  expect(world.driven('release_in')).toBe(false);
  world.grant(presentation);
  expect([world.driven('release_in'), signal(world)]).toEqual([true, 'granted']);
  world.wait(199);
  expect(world.driven('release_in')).toBe(true);
  world.wait(1);
  expect(world.driven('release_in')).toBe(false);
  world.line('passage_in', true);
  world.wait(400);
  expect([notesOf(world.pendingEntries()), signal(world)]).toEqual([[], 'granted']);
  world.line('passage_in', false);
  world.wait(20);
  expect([notesOf(world.pendingEntries()), signal(world), world.timers().size]).toEqual([['passed 1 of 1/1'], 'ready', 0]);
});

test('nobody comes: locked after the time, returned after the grace, the ticket is shown busy meanwhile and decided then', () => {
  const world = createLaneWorld();
  admit(world);
  world.wait(5_000);
  expect([notesOf(world.pendingEntries()), signal(world)]).toEqual([[], 'ready']);
  world.show('ticket');
  expect(signal(world)).toBe('busy');
  world.wait(1_499);
  expect(notesOf(world.pendingEntries())).toEqual([]);
  expect(kinds(world.wait(1))).toContain('decide');
  expect(notesOf(world.pendingEntries())).toEqual(['returned 1 of 1/1']);
});

test('a passage that begins within the grace belongs to the grant', () => {
  const world = createLaneWorld();
  admit(world);
  world.wait(6_400);
  world.pass();
  world.wait(10_000);
  expect(notesOf(world.pendingEntries())).toEqual(['passed 1 of 1/1']);
});

test('a passage after the return is forced', () => {
  const world = createLaneWorld();
  admit(world);
  world.wait(6_501);
  expect(alerts(world.pass())).toEqual(['+forced']);
  expect([notesOf(world.pendingEntries()), signal(world)]).toEqual([['returned 1 of 1/1', 'forced'], 'alarm']);
  expect(alerts(world.wait(10_000))).toEqual(['-forced']);
  expect(signal(world)).toBe('ready');
});

test('begun and not finished: stuck after its time, counts as used, ends when the line rests', () => {
  const world = createLaneWorld();
  admit(world, 'party', 3);
  world.line('passage_in', true);
  expect(alerts(world.wait(30_010))).toEqual(['+stuck']);
  expect([notesOf(world.pendingEntries()), signal(world)]).toEqual([['returned 2 of 1/1', 'returned 3 of 1/1', 'stuck 1 of 1/1'], 'alarm']);
  world.wait(10_000);
  expect(signal(world)).toBe('closed');
  world.show('other');
  expect([signal(world), dropped(world.wait(1_500))]).toEqual(['busy', ['busy']]);
  world.line('passage_in', false);
  expect(alerts(world.wait(2_000))).toEqual(['-sensor', '-stuck']);
  expect([signal(world), notesOf(world.pendingEntries()).at(-1)]).toEqual(['ready', 'fault sensor']);
});

test('L1 no mode command clears a stuck line: a ticket is not granted twice while it stays active', () => {
  const world = createLaneWorld();
  admit(world);
  world.line('passage_in', true);
  world.wait(31_000);
  expect([...alerts(command(world, 'locked')), ...alerts(command(world, 'controlled'))]).toEqual([]);
  expect([world.state().in.rotation?.stuck, effectiveMode(world.state(), 'in')]).toEqual([true, 'controlled']);
  world.show('other');
  expect(kinds(world.wait(2_000))).not.toContain('decide');
});

test('L1 a line that is stuck without a grant is a fault of the sensor, until it rests', () => {
  const world = createLaneWorld();
  expect(alerts([...world.line('passage_in', true), ...world.wait(31_000)])).toEqual(['+forced', '-forced', '+sensor', '+stuck']);
  world.line('passage_in', false);
  expect(alerts(world.wait(50))).toEqual(['-sensor', '-stuck']);
});

/** A guest whose passage no sensor reports. */
const unseen = (world: LaneWorld, code: string) => {
  const effects = [...admit(world, code).effects, ...world.wait(6_500), ...world.wait(3_000)];
  return effects;
};

test('L1 five grants in a row without a passage raise sensor, with a row', () => {
  const world = createLaneWorld();
  const raised = ['a', 'b', 'c', 'd', 'e'].map((code) => alerts(unseen(world, code)));
  expect(raised).toEqual([[], [], [], [], ['+sensor']]);
  expect(notesOf(world.pendingEntries()).filter((note) => note.startsWith('fault'))).toEqual(['fault sensor']);
});

test('L1 a passage between them, or more than three minutes, is no row of grants without one', () => {
  const world = createLaneWorld();
  for (const code of ['a', 'b', 'c', 'd']) unseen(world, code);
  admit(world, 'seen');
  world.pass();
  for (const code of ['e', 'f', 'g', 'h']) expect(alerts(unseen(world, code))).toEqual([]);
  const slow = createLaneWorld();
  for (const code of ['a', 'b', 'c', 'd', 'e', 'f']) expect(alerts([...unseen(slow, code), ...slow.wait(50_000)])).toEqual([]);
});

test('L1 a ticket that was returned twice is sent to the staff, and is not spent', () => {
  const world = createLaneWorld();
  unseen(world, 'ticket');
  unseen(world, 'ticket');
  const third = world.show('ticket');
  expect([dropped(third.effects), kinds(third.effects).includes('decide')]).toEqual([['see_staff'], false]);
  expect(notesOf(world.pendingEntries()).at(-1)).toBe('refused see_staff');
  world.wait(600_000);
  expect(kinds(world.show('ticket').effects)).toContain('decide');
});

test('L1 "the arms turn": the release counts as the passage until the sensor speaks', () => {
  const world = createLaneWorld();
  for (const code of ['a', 'b', 'c', 'd', 'e']) unseen(world, code);
  world.send({ kind: 'sensor_answer', turns: true, actor: 'staff-1', reason: 'they turn' });
  admit(world, 'f');
  expect(notesOf(world.pendingEntries()).at(-1)).toBe('passed 1 of 1/6');
  world.wait(6_000);
  admit(world, 'g');
  world.wait(500);
  expect(alerts(world.pass())).toEqual(['-sensor']);
  expect(notesOf(world.pendingEntries()).filter((note) => note.endsWith('1/7'))).toEqual(['passed 1 of 1/7']);
  admit(world, 'h');
  expect(notesOf(world.pendingEntries()).filter((note) => note.endsWith('1/8'))).toEqual([]);
});

test('L1 the staff button held for 3 s answers "the arms turn"', () => {
  const world = createLaneWorld();
  for (const code of ['a', 'b', 'c', 'd', 'e']) unseen(world, code);
  world.line('button', true);
  world.wait(2_900);
  expect(world.state().in.sensor.counting).toBe(false);
  world.wait(200);
  expect([world.state().in.sensor.counting, notesOf(world.pendingEntries()).at(-1)]).toEqual([true, 'override sensor by button']);
});

test('L1 "the arms do not turn": in closes, out does not', () => {
  const world = createLaneWorld();
  for (const code of ['a', 'b', 'c', 'd', 'e']) unseen(world, code);
  world.send({ kind: 'sensor_answer', turns: false, actor: 'staff-1', reason: 'jammed' });
  expect([effectiveMode(world.state(), 'in'), effectiveMode(world.state(), 'out')]).toEqual(['out_of_service', 'controlled']);
  expect(notesOf(world.pendingEntries()).at(-1)).toBe('in controlled → out_of_service by staff-1');
});

test.each([
  ['count_release', true, 'controlled'],
  ['close', false, 'out_of_service'],
  ['alert', false, 'controlled'],
] as const)('L1 sensor_fault %s acts without an answer', (sensorFault, counting, mode) => {
  const world = createLaneWorld({ sensorFault });
  for (const code of ['a', 'b', 'c', 'd', 'e']) unseen(world, code);
  expect([world.state().in.sensor.counting, effectiveMode(world.state(), 'in')]).toEqual([counting, mode]);
});

test('L1 "the arms turn" opens a lane whose line is stuck, and its rest ends the fault', () => {
  const world = createLaneWorld();
  admit(world);
  world.line('passage_in', true);
  world.wait(31_000);
  world.send({ kind: 'sensor_answer', turns: true, actor: 'staff-1', reason: 'they turn' });
  admit(world, 'next');
  expect(notesOf(world.pendingEntries()).at(-1)).toBe('passed 1 of 1/2');
  world.wait(6_000);
  world.line('passage_in', false);
  expect(alerts(world.wait(50))).toEqual(['-sensor', '-stuck']);
});

test('L1 a self-test that saw a passage clears a blind line', () => {
  const world = createLaneWorld();
  for (const code of ['a', 'b', 'c', 'd', 'e']) unseen(world, code);
  expect(alerts(world.send({ kind: 'sensor_tested', direction: 'in' }))).toEqual(['-sensor']);
});

// ---------------------------------------------------------------- orders over the mode

const shortly = { actor: 'lead-1', reason: 'crush' };
const line = (world: LaneWorld, input: 'key_free' | 'key_closed', active: boolean) => [...world.line(input, active), ...world.wait(50)];

test('evacuate opens both ways like fire, and one reset ends it', () => {
  const world = createLaneWorld();
  command(world, 'locked', { directions: ['in'] });
  const effects = world.send({ kind: 'evacuate', ...shortly });
  expect([world.driven('release_in'), world.driven('release_out'), alerts(effects)]).toEqual([true, true, ['+evacuate']]);
  expect(effects).toContainEqual({ kind: 'fire_latch', latched: true });
  command(world, 'locked', { directions: ['in'] });
  world.send({ kind: 'resume_entry', ...shortly });
  expect(effectiveMode(world.state(), 'in')).toBe('emergency');
  world.send({ kind: 'reset_emergency', ...shortly });
  expect(effectiveMode(world.state(), 'in')).toBe('locked');
});

test('stop-entry closes in alone, and resume-entry restores the mode before', () => {
  const world = createLaneWorld();
  command(world, 'free', { directions: ['in'] });
  world.send({ kind: 'stop_entry', ...shortly });
  expect([effectiveMode(world.state(), 'in'), effectiveMode(world.state(), 'out')]).toEqual(['locked', 'controlled']);
  world.send({ kind: 'resume_entry', ...shortly });
  world.wait(100);
  expect([effectiveMode(world.state(), 'in'), world.driven('release_in')]).toEqual(['free', true]);
});

test('a mode ordered during stop-entry holds when entry resumes', () => {
  const world = createLaneWorld();
  world.send({ kind: 'stop_entry', ...shortly });
  command(world, 'free', { directions: ['in'] });
  expect(effectiveMode(world.state(), 'in')).toBe('locked');
  world.send({ kind: 'resume_entry', ...shortly });
  expect(effectiveMode(world.state(), 'in')).toBe('free');
});

test('stop-entry waits for a guest who is passing', () => {
  const world = createLaneWorld();
  admit(world);
  world.send({ kind: 'stop_entry', ...shortly });
  expect(effectiveMode(world.state(), 'in')).toBe('controlled');
  world.pass();
  expect(effectiveMode(world.state(), 'in')).toBe('locked');
});

test('resume-entry ends a stop-entry of before a restart', () => {
  const world = createLaneWorld();
  const locked = { mode: 'locked', untilWallMs: null } as const;
  world.send({ kind: 'restore', modes: { in: locked, out: { mode: 'controlled', untilWallMs: null } }, fireLatched: false });
  world.send({ kind: 'resume_entry', ...shortly });
  expect(effectiveMode(world.state(), 'in')).toBe('controlled');
});

test('a key switch wins over stop-entry and mode, and its rest restores what was before', () => {
  const world = createLaneWorld();
  command(world, 'out_of_service', { directions: ['in'] });
  world.send({ kind: 'stop_entry', ...shortly });
  line(world, 'key_free', true);
  expect([effectiveMode(world.state(), 'in'), world.driven('release_in'), notesOf(world.pendingEntries()).at(-1)]).toEqual([
    'free',
    true,
    'in locked → free by key',
  ]);
  line(world, 'key_free', false);
  expect(effectiveMode(world.state(), 'in')).toBe('locked');
  world.send({ kind: 'resume_entry', ...shortly });
  expect(effectiveMode(world.state(), 'in')).toBe('out_of_service');
});

test('both keys at once close in and are a fault', () => {
  const world = createLaneWorld();
  line(world, 'key_free', true);
  const effects = line(world, 'key_closed', true);
  expect([effectiveMode(world.state(), 'in'), alerts(effects)]).toEqual(['locked', ['+key']]);
  expect(alerts(line(world, 'key_closed', false))).toEqual(['-key']);
  expect(effectiveMode(world.state(), 'in')).toBe('free');
});

test('a key that is turned when the gate starts holds over the mode of the ledger', () => {
  const world = createLaneWorld();
  world.send({ kind: 'line', input: 'key_closed', active: true, initial: true });
  const free = { mode: 'free', untilWallMs: null } as const;
  world.send({ kind: 'restore', modes: { in: free, out: free }, fireLatched: false });
  expect(effectiveMode(world.state(), 'in')).toBe('locked');
  line(world, 'key_closed', false);
  expect(effectiveMode(world.state(), 'in')).toBe('free');
});

test('fire wins over a key that closes', () => {
  const world = createLaneWorld();
  line(world, 'key_closed', true);
  world.line('fire', true);
  expect([effectiveMode(world.state(), 'in'), world.driven('release_in')]).toEqual(['emergency', true]);
});

// ---------------------------------------------------------------- fire is confirmed

test('L5 a contact of the fire input shorter than fire_confirm_ms latches nothing and is counted', () => {
  const world = createLaneWorld({ fireConfirmMs: 100 });
  world.line('fire', true);
  world.wait(2);
  expect(world.line('fire', false)).toContainEqual({ kind: 'fire_kick', count: 1 });
  world.wait(1_000);
  expect([world.state().fire.latched, world.state().fireKicks, notesOf(world.pendingEntries())]).toEqual([false, 1, []]);
});

test('L5 fire is confirmed by its edge within fire_confirm_ms, in a stopped lane too', () => {
  for (const stopped of [false, true]) {
    const world = createLaneWorld({ fireConfirmMs: 100 });
    if (stopped) world.send({ kind: 'stop' });
    world.line('fire', true);
    world.wait(99);
    expect(world.state().fire.latched).toBe(false);
    world.wait(1);
    expect([world.state().fire, world.driven('release_in')]).toEqual([{ asserted: true, latched: true }, true]);
  }
});

test('L5 fire that is active at start latches at once', () => {
  const world = createLaneWorld({ fireConfirmMs: 100 });
  world.send({ kind: 'line', input: 'fire', active: true, initial: true });
  expect(world.state().fire.latched).toBe(true);
});

test('a party: one release and one passage a unit, what does not come is returned', () => {
  const world = createLaneWorld();
  admit(world, 'party', 3);
  world.wait(300);
  world.pass();
  expect(world.driven('release_in')).toBe(true);
  world.wait(300);
  world.pass();
  world.wait(10_000);
  expect(notesOf(world.pendingEntries())).toEqual(['passed 1 of 1/1', 'passed 2 of 1/1', 'returned 3 of 1/1']);
});

test('a passage faster than the pulse: the next unit gets a new edge after a gap', () => {
  const world = createLaneWorld();
  const { row } = admit(world, 'party', 2);
  const effects = world.pass('in', 30);
  const later = world.wait(1_000);
  expect(effects.filter((effect) => effect.kind === 'write')).toEqual([]);
  expect([...later].filter((effect) => effect.kind === 'write').map((effect) => (effect as { active: boolean }).active)).toEqual([false, true, false]);
  expect(notesOf(world.pendingEntries())).toEqual([`passed 1 of ${row.join('/')}`]);
});

test('release hold: held until the passage begins, or the time is up', () => {
  const world = createLaneWorld({ release: 'hold' });
  admit(world);
  world.wait(3_000);
  expect(world.driven('release_in')).toBe(true);
  world.line('passage_in', true);
  world.wait(10);
  expect(world.driven('release_in')).toBe(false);
  world.line('passage_in', false);
  world.wait(1_000);
  admit(world, 'second');
  world.wait(4_999);
  expect(world.driven('release_in')).toBe(true);
  world.wait(1);
  expect(world.driven('release_in')).toBe(false);
});

test('no sensor: the release counts as the passage, one guest at a time', () => {
  const world = createLaneWorld({ sensor: 'none' });
  admit(world, 'party', 2);
  expect(notesOf(world.pendingEntries())).toEqual(['passed 1 of 1/1']);
  world.show('other');
  expect(signal(world)).toBe('busy');
  expect(dropped(world.wait(5_000))).toEqual(['busy']);
  expect(notesOf(world.pendingEntries())).toEqual(['passed 1 of 1/1', 'passed 2 of 1/1']);
  world.wait(5_000);
  expect(kinds(world.show('other').effects)).toContain('decide');
  expect(notesOf(world.pendingEntries()).length).toBe(2);
});

test('beams: the way in is a, then b; who leans in and goes back is not counted, and may still pass', () => {
  const world = createLaneWorld({ sensor: 'beams' });
  admit(world);
  world.line('beam_a', true);
  world.wait(300);
  world.line('beam_a', false);
  world.wait(1_000);
  expect(notesOf(world.pendingEntries())).toEqual([]);
  for (const [line, active] of [
    ['beam_a', true],
    ['beam_b', true],
    ['beam_a', false],
    ['beam_b', false],
  ] as const) {
    world.line(line, active);
    world.wait(100);
  }
  expect(notesOf(world.pendingEntries())).toEqual(['passed 1 of 1/1']);
});

test('beams: somebody who only leans in without a grant is not forced', () => {
  const world = createLaneWorld({ sensor: 'beams' });
  world.line('beam_b', true);
  world.wait(300);
  world.line('beam_b', false);
  world.wait(1_000);
  expect([notesOf(world.pendingEntries()), signal(world, 'out')]).toEqual([[], 'ready']);
});

test('a line that is active at start belongs to nobody', () => {
  const world = createLaneWorld();
  world.send({ kind: 'line', input: 'passage_in', active: true, initial: true });
  world.line('passage_in', false);
  world.wait(100);
  expect([notesOf(world.pendingEntries()), signal(world)]).toEqual([[], 'ready']);
});

test('the two directions do not hinder each other', () => {
  const world = createLaneWorld();
  admit(world);
  const out = world.show('leaving', 'out');
  expect(kinds(out.effects)).toContain('decide');
  world.grant(out.presentation, { direction: 'out' });
  world.pass('out');
  world.pass('in');
  expect(notesOf(world.pendingEntries())).toEqual(['passed 1 of override 1', 'passed 1 of 1/1']);
});

test('a vip has a second beep', () => {
  const world = createLaneWorld();
  world.grant(world.show('vip').presentation, { attention: true });
  expect(signal(world)).toBe('granted_attention');
});

// ---------------------------------------------------------------- codes

test('a refusal is shown for 3 s; the same code within 4 s shows it again and is not asked again', () => {
  const world = createLaneWorld();
  world.refuse(world.show('bad').presentation);
  expect(signal(world)).toBe('refused');
  world.wait(3_000);
  expect(signal(world)).toBe('ready');
  world.wait(900);
  const again = world.show('bad');
  expect([dropped(again.effects), signal(world)]).toEqual([['repeat'], 'refused']);
  expect(again.effects).toContainEqual({ kind: 'signal', direction: 'in', signal: 'refused' });
  world.wait(5_000);
  expect(kinds(world.show('bad').effects)).toContain('decide');
});

test('a refused code that is held before the reader stays one presentation', () => {
  const world = createLaneWorld();
  world.refuse(world.show('bad').presentation);
  for (let second = 0; second < 30; second += 1) {
    world.wait(1_000);
    expect(dropped(world.show('bad').effects)).toEqual(['repeat']);
  }
});

test('another guest may show a code while red still shows', () => {
  const world = createLaneWorld();
  world.refuse(world.show('bad').presentation);
  world.wait(500);
  admit(world, 'good');
  expect([signal(world), world.driven('release_in')]).toEqual(['granted', true]);
});

// ---------------------------------------------------------------- codes that lie before the reader

test('L2 the granted code is silent while it lies before the reader, and decided when it comes back', () => {
  const world = createLaneWorld();
  admit(world);
  const rows = world.pendingEntries().length;
  world.wait(500);
  expect(kinds(world.show('ticket').effects)).toEqual(['drop']);
  world.pass();
  for (let second = 0; second < 20; second += 1) {
    expect([dropped(world.show('ticket').effects), signal(world)]).toEqual([['held'], 'ready']);
    world.wait(1_000);
  }
  expect(world.pendingEntries().length - rows).toBe(1);
  world.wait(2_000);
  expect(kinds(world.show('ticket').effects)).toContain('decide');
});

test('L2 a paper left on the reader opens the lane once: after a return it must leave the reader', () => {
  const world = createLaneWorld();
  admit(world);
  let decisions = 0;
  for (let second = 0; second < 60; second += 1) {
    world.wait(1_000);
    if (kinds(world.show('ticket').effects).includes('decide')) decisions += 1;
  }
  expect([decisions, notesOf(world.pendingEntries())]).toEqual([0, ['returned 1 of 1/1']]);
  world.wait(1_600);
  expect(kinds(world.show('ticket').effects)).toContain('decide');
});

test('L2 the next phone that lies there before the passage ends is decided when the lane is idle', () => {
  for (const repeatMs of [100, 300, 900, 5_000]) {
    const world = createLaneWorld();
    admit(world, 'A');
    world.line('passage_in', true);
    const effects: LaneEffect[] = [];
    for (let ms = 0; ms < 1_000; ms += 100) {
      if (ms % repeatMs === 0) effects.push(...world.show('B').effects);
      effects.push(...world.wait(100));
    }
    expect(kinds(effects)).not.toContain('decide');
    world.line('passage_in', false);
    const decided = world.wait(300).find((effect) => effect.kind === 'decide');
    expect(decided).toMatchObject({ kind: 'decide', direction: 'in' });
    world.grant((decided as { presentation: number }).presentation);
    expect(signal(world)).toBe('granted');
  }
});

test('L2 a phone that has left the reader before the lane is idle is not decided', () => {
  const world = createLaneWorld();
  admit(world, 'A');
  world.line('passage_in', true);
  world.show('B');
  world.wait(2_000);
  world.line('passage_in', false);
  expect(kinds(world.wait(300))).not.toContain('decide');
});

test('L2 the phone behind a refused guest is decided at once', () => {
  const world = createLaneWorld();
  const { presentation } = world.show('A');
  world.show('B');
  expect(kinds(world.refuse(presentation))).toContain('decide');
});

test('L2 a code whose decision failed is tried again without leaving the reader, with one row', () => {
  const world = createLaneWorld();
  world.send({ kind: 'decision_failed', direction: 'in', presentation: world.show('ticket').presentation });
  world.wait(500);
  expect(dropped(world.show('ticket').effects)).toEqual(['repeat']);
  world.wait(600);
  const again = world.show('ticket');
  expect(kinds(again.effects)).toContain('decide');
  world.send({ kind: 'decision_failed', direction: 'in', presentation: again.presentation });
  expect(notesOf(world.pendingEntries())).toEqual(['refused error']);
  world.wait(1_100);
  world.grant(world.show('ticket').presentation);
  expect(signal(world)).toBe('granted');
});

test('L2 a code that lies before a closed lane is decided when the lane opens', () => {
  const world = createLaneWorld();
  command(world, 'locked', { directions: ['in'] });
  world.show('ticket');
  world.wait(1_000);
  expect(dropped(world.show('ticket').effects)).toEqual(['repeat']);
  command(world, 'controlled', { directions: ['in'] });
  world.wait(1_000);
  expect(kinds(world.show('ticket').effects)).toContain('decide');
});

test('L2 a refused code shows red at most once a second', () => {
  const world = createLaneWorld();
  world.refuse(world.show('bad').presentation);
  let shown = 0;
  for (let ms = 100; ms <= 5_000; ms += 100) {
    world.wait(100);
    shown += world.show('bad').effects.filter((effect) => effect.kind === 'signal').length;
  }
  expect(shown).toBe(5);
});

test('L2 the held gap follows the interval at which the reader repeats a code', () => {
  const world = createLaneWorld();
  const show = (code: string) => world.show(code, 'in', 'front');
  world.grant(show('A').presentation);
  for (let turn = 0; turn < 3; turn += 1) {
    world.wait(3_000);
    expect(dropped(show('A').effects)).toEqual(['held']);
  }
  // 1.5 × 3,000 ms: gone after that, not before.
  world.wait(4_400);
  expect(dropped(show('A').effects)).toEqual(['held']);
  world.wait(6_700);
  expect(kinds(show('A').effects)).toContain('decide');
});

test('L2 guests who show a refused code again by hand do not teach the gate an interval', () => {
  const world = createLaneWorld();
  for (const ms of [4_500, 2_100, 3_300, 5_000]) {
    const { presentation } = world.show('bad', 'in', 'front');
    world.refuse(presentation);
    world.wait(ms);
  }
  admit(world, 'A');
  world.line('passage_in', true);
  world.show('B', 'in', 'front');
  world.wait(1_600);
  world.line('passage_in', false);
  expect(kinds(world.wait(300))).not.toContain('decide');
});

test('L2 same_code_interval_ms sets the held gap outright', () => {
  const world = createLaneWorld({ sameCodeIntervalMs: { front: 4_000 } });
  world.grant(world.show('A', 'in', 'front').presentation);
  world.pass();
  world.wait(5_000);
  expect(dropped(world.show('A', 'in', 'front').effects)).toEqual(['held']);
});

test('a refusal for another place or time shows red with amber', () => {
  const world = createLaneWorld();
  const { presentation } = world.show('north');
  world.send({ kind: 'verdict', direction: 'in', presentation, row: [1, 1], verdict: { kind: 'refusal', elsewhere: true } });
  expect([signal(world), PATTERNS[signal(world)].red, PATTERNS[signal(world)].amber]).toEqual(['refused_elsewhere', PATTERNS.closed.red, PATTERNS.ready.amber]);
});

test('while a grant is open another code is shown busy and no row is written', () => {
  const world = createLaneWorld();
  admit(world);
  world.show('next');
  expect([signal(world), notesOf(world.pendingEntries())]).toEqual(['busy', []]);
  expect(dropped(world.wait(1_600))).toEqual(['busy']);
  expect(signal(world)).toBe('granted');
});

test('while_open queue keeps one code until the lane is idle, however long ago it was seen', () => {
  const world = createLaneWorld({ whileOpen: 'queue' });
  admit(world);
  const waiting = world.show('b');
  expect(dropped(waiting.effects)).toEqual([]);
  expect(dropped(world.show('b').effects)).toEqual(['held']);
  world.show('c');
  expect(dropped(world.wait(3_000))).toEqual(['busy']);
  const effects = world.pass();
  expect(effects).toContainEqual({ kind: 'decide', direction: 'in', presentation: waiting.presentation, mode: 'controlled' });
});

test('while_open queue drops a code that waits too long', () => {
  const world = createLaneWorld({ whileOpen: 'queue' });
  admit(world);
  world.show('b');
  world.line('passage_in', true);
  expect(dropped(world.wait(15_000))).toEqual(['busy']);
});

test('locked: refused with a row, once for a code that is held', () => {
  const world = createLaneWorld();
  command(world, 'locked');
  expect(signal(world)).toBe('closed');
  world.show('ticket');
  world.wait(1_000);
  world.show('ticket');
  expect(notesOf(world.pendingEntries())).toEqual(['in controlled → locked by staff-1', 'refused gate_locked']);
});

test('a garbled frame is refused as unreadable, once while rubbish goes on', () => {
  const world = createLaneWorld();
  world.send({ kind: 'garbled', direction: 'in' });
  world.wait(800);
  world.send({ kind: 'garbled', direction: 'in' });
  expect([notesOf(world.pendingEntries()), signal(world)]).toEqual([['refused unreadable'], 'refused']);
});

test('a stalled disk: wait after 250 ms, refused with error within 3,000 ms, a late grant opens nothing', () => {
  const world = createLaneWorld();
  const { presentation } = world.show('ticket');
  world.wait(249);
  expect(signal(world)).toBe('ready');
  world.wait(1);
  expect(signal(world)).toBe('working');
  const effects = world.wait(2_750);
  expect(effects).toContainEqual({ kind: 'abandon', direction: 'in', presentation, why: 'late' });
  expect([signal(world), notesOf(world.pendingEntries())]).toEqual(['refused', ['refused error']]);
  expect(world.grant(presentation).effects).toEqual([]);
  expect(world.driven('release_in')).toBe(false);
});

test('a decider that fails: refused with error at once', () => {
  const world = createLaneWorld();
  world.send({ kind: 'decision_failed', direction: 'in', presentation: world.show('ticket').presentation });
  expect([signal(world), notesOf(world.pendingEntries()), world.timers().size]).toEqual(['refused', ['refused error'], 1]);
});

// ---------------------------------------------------------------- people

test('the staff button opens for one, and its passage points at its override', () => {
  const world = createLaneWorld();
  world.line('button', true);
  world.wait(30);
  expect(world.driven('release_in')).toBe(true);
  world.line('button', false);
  world.wait(100);
  world.pass();
  expect(notesOf(world.pendingEntries())).toEqual(['override open by button', 'passed 1 of override 1']);
});

test('the button does not wait for a stalled decision, which is given up', () => {
  const world = createLaneWorld();
  const { presentation } = world.show('ticket');
  world.wait(1_000);
  world.line('button', true);
  const effects = world.wait(30);
  expect(effects).toContainEqual({ kind: 'abandon', direction: 'in', presentation, why: 'overruled' });
  expect(world.driven('release_in')).toBe(true);
});

test('the button: nothing inwards while somebody passes; chatter is no press; it works in every mode', () => {
  const world = createLaneWorld();
  world.line('button', true);
  world.wait(5);
  world.line('button', false);
  world.wait(100);
  admit(world);
  world.line('button', true);
  world.wait(100);
  world.line('button', false);
  world.wait(10_000);
  expect(notesOf(world.pendingEntries()).filter((note) => note.startsWith('override'))).toEqual([]);
  for (const mode of ['locked', 'out_of_service'] as const) {
    command(world, mode);
    world.line('button', true);
    world.wait(100);
    expect([mode, world.driven('release_in')]).toEqual([mode, true]);
    world.line('button', false);
    world.pass();
    world.wait(1_000);
    expect([effectiveMode(world.state(), 'in'), signal(world)]).toEqual([mode, 'closed']);
  }
  expect(notesOf(world.pendingEntries()).filter((note) => note.startsWith('override'))).toHaveLength(2);
});

test('an opening by an operator: its row first; if the lane was taken meanwhile its units are returned', () => {
  const world = createLaneWorld();
  expect(openRefusal(world.state(), 'in')).toBe(null);
  world.send({ kind: 'open', direction: 'in', units: 2, row: [1, 90] });
  expect(world.driven('release_in')).toBe(true);
  world.send({ kind: 'open', direction: 'in', units: 1, row: [1, 91] });
  expect(notesOf(world.pendingEntries())).toEqual(['returned 1 of 1/91']);
  expect(openRefusal(world.state(), 'in')).toContain('somebody is passing');
});

// ---------------------------------------------------------------- modes

test('free by repulse: a new edge after each passage and each expiry, passages counted, codes not asked', () => {
  const world = createLaneWorld();
  command(world, 'free', { directions: ['in'] });
  const pulses = (effects: readonly LaneEffect[]) => effects.filter((effect) => effect.kind === 'write' && effect.active).length;
  expect([world.driven('release_in'), world.driven('release_out'), signal(world)]).toEqual([true, false, 'free']);
  world.wait(300);
  expect([world.driven('release_in'), pulses(world.pass()), pulses(world.wait(5_100))]).toEqual([false, 1, 1]);
  expect(dropped(world.show('ticket').effects)).toEqual(['open']);
  expect(notesOf(world.pendingEntries())).toEqual(['in controlled → free by staff-1', 'free']);
  command(world, 'controlled');
  expect([...world.timers().keys()].filter((timer) => timer.startsWith('repulse'))).toEqual([]);
});

test("free by repulse, closed: no new edge for who passes last, and who uses the turnstile's own time is not forced", () => {
  const world = createLaneWorld();
  command(world, 'free', { directions: ['in'] });
  world.wait(300);
  world.line('passage_in', true);
  world.wait(300);
  command(world, 'locked', { directions: ['in'] });
  world.line('passage_in', false);
  const effects = world.wait(100);
  expect([effects.filter((effect) => effect.kind === 'write' && effect.active), effectiveMode(world.state(), 'in')]).toEqual([[], 'locked']);
  world.wait(1_000);
  world.pass();
  world.wait(5_000);
  world.pass();
  expect(notesOf(world.pendingEntries()).filter((word) => !word.includes('→'))).toEqual(['free', 'free', 'forced']);
});

test('free by hold: held all the time', () => {
  const world = createLaneWorld({ freeBy: 'hold' });
  command(world, 'free');
  world.wait(20_000);
  world.pass();
  expect(world.driven('release_in')).toBe(true);
  command(world, 'locked');
  expect(world.driven('release_in')).toBe(false);
});

test('locked waits for an open grant; no new guest meanwhile', () => {
  const world = createLaneWorld();
  admit(world);
  command(world, 'locked');
  closeExit(world);
  expect([effectiveMode(world.state(), 'in'), effectiveMode(world.state(), 'out'), world.state().in.pendingMode?.mode]).toEqual([
    'controlled',
    'locked',
    'locked',
  ]);
  const { presentation } = world.show('next');
  expect(world.pass()).not.toContainEqual(expect.objectContaining({ kind: 'decide', presentation }));
  expect([effectiveMode(world.state(), 'in'), world.driven('stop')]).toEqual(['locked', true]);
});

test('free while a grant is open: the grant keeps its passage', () => {
  const world = createLaneWorld({ freeBy: 'hold' });
  admit(world);
  command(world, 'free', { directions: ['in'] });
  world.wait(1_000);
  expect(world.driven('release_in')).toBe(true);
  world.pass();
  world.pass();
  expect(notesOf(world.pendingEntries())).toEqual(['in controlled → free by staff-1', 'passed 1 of 1/1', 'free']);
});

test('a mode with an end goes back to controlled, by the wall clock', () => {
  const world = createLaneWorld();
  command(world, 'locked', { untilWallMs: WORLD_WALL_MS + world.nowMs() + 150_000 });
  world.wait(149_000);
  expect(effectiveMode(world.state(), 'in')).toBe('locked');
  world.wait(1_000);
  expect([effectiveMode(world.state(), 'in'), notesOf(world.pendingEntries()).at(-1), world.driven('stop')]).toEqual([
    'controlled',
    'in locked → controlled by system',
    false,
  ]);
});

test('what the ledger says at start: no row, a free lane opens, an end that has passed is ended', () => {
  const world = createLaneWorld();
  world.send({ kind: 'restore', modes: { in: { mode: 'locked', untilWallMs: 5 }, out: { mode: 'free', untilWallMs: null } }, fireLatched: false });
  expect([world.driven('release_out'), notesOf(world.pendingEntries())]).toEqual([true, []]);
  world.wait(1);
  expect(notesOf(world.pendingEntries())).toEqual(['in locked → controlled by system']);
});

test('the stop input is held while both directions are closed, and pulsed when nobody came', () => {
  const world = createLaneWorld();
  admit(world);
  world.wait(5_000);
  expect(world.driven('stop')).toBe(true);
  world.wait(200);
  expect(world.driven('stop')).toBe(false);
  world.wait(3_000);
  command(world, 'locked', { directions: ['in'] });
  expect(world.driven('stop')).toBe(false);
  command(world, 'out_of_service', { directions: ['out'] });
  expect(world.driven('stop')).toBe(false);
  closeExit(world);
  expect(world.driven('stop')).toBe(true);
  command(world, 'controlled');
  expect(world.driven('stop')).toBe(false);
});

const openFor = (world: LaneWorld, direction: 'in' | 'out', seq: number) => world.send({ kind: 'open', direction, units: 1, row: [1_000, seq] });

type Begin = (world: LaneWorld, other: 'in' | 'out') => unknown;
const UNDER_WAY: Readonly<Record<string, Begin>> = {
  'is released': (world, other) => openFor(world, other, 2),
  turns: (world, other) => {
    openFor(world, other, 2);
    world.line(`passage_${other}`, true);
  },
  'turns without a grant': (world, other) => world.line(`passage_${other}`, true),
  'has a code before its reader': (world, other) => world.show('ticket', other),
  'is free': (world, other) => command(world, 'free', { directions: [other] }),
};

test.each((['in', 'out'] as const).flatMap((direction) => Object.entries(UNDER_WAY).map(([name, begin]) => [direction, name, begin] as const)))(
  'M4: the stop input stays off when a release %s expires while the other direction %s',
  (direction, _, begin) => {
    const world = createLaneWorld();
    openFor(world, direction, 1);
    world.wait(4_000);
    begin(world, direction === 'in' ? 'out' : 'in');
    const effects = world.wait(1_500);
    expect(effects.filter((effect) => effect.kind === 'write' && effect.output === 'stop')).toEqual([]);
    expect(world.state()[direction].grant?.phase).not.toBe('released');
  },
);

test('M4: the stop input stays off in a closed lane until the passages in progress have ended', () => {
  for (const direction of ['in', 'out'] as const) {
    const world = createLaneWorld();
    openFor(world, direction, 1);
    world.line(`passage_${direction}`, true);
    world.wait(100);
    command(world, 'locked', { directions: ['in'] });
    closeExit(world);
    expect(world.driven('stop')).toBe(false);
    world.line(`passage_${direction}`, false);
    world.wait(100);
    expect(world.driven('stop')).toBe(true);
  }
});

test.each(['in', 'out'] as const)('M4: the stop input lets go in a closed lane while the button opens %s or somebody is in the arms', (direction) => {
  const world = createLaneWorld({ button: direction });
  command(world, 'locked', { directions: ['in'] });
  closeExit(world);
  expect(world.driven('stop')).toBe(true);
  world.line('button', true);
  world.wait(40);
  expect([world.driven(`release_${direction}`), world.driven('stop')]).toEqual([true, false]);
  world.wait(1_000);
  world.line(`passage_${direction}`, true);
  world.wait(1_000);
  expect(world.driven('stop')).toBe(false);
  world.line(`passage_${direction}`, false);
  world.wait(100);
  expect(world.driven('stop')).toBe(true);
  world.line(`passage_${direction}`, true);
  world.wait(100);
  expect(world.driven('stop')).toBe(false);
  world.line(`passage_${direction}`, false);
  world.wait(100);
  expect(world.driven('stop')).toBe(true);
});

test('an emergency ends a pulse of the stop input at once', () => {
  const world = createLaneWorld();
  admit(world);
  world.wait(5_000);
  expect(world.driven('stop')).toBe(true);
  world.line('fire', true);
  world.wait(0);
  expect([world.driven('stop'), world.driven('release_in')]).toEqual([false, true]);
});

test('the verdict of a presentation that was given up opens nothing, and that of the next one is waited for', () => {
  const world = createLaneWorld();
  const first = world.show('slow');
  world.wait(3_000);
  world.wait(5_000);
  const second = world.show('next');
  expect(kinds(second.effects)).toContain('decide');
  expect(world.grant(first.presentation).effects).toEqual([]);
  expect(world.driven('release_in')).toBe(false);
  world.grant(second.presentation);
  expect(world.driven('release_in')).toBe(true);
});

test('drain: nobody new, who is under way is waited for, then idle once', () => {
  const world = createLaneWorld();
  admit(world);
  expect(kinds(world.send({ kind: 'drain', cancel: false }))).not.toContain('idle');
  expect(dropped(world.show('next').effects)).toEqual(['busy']);
  expect(kinds(world.pass()).filter((kind) => kind === 'idle').length).toBe(1);
  expect(kinds(world.wait(5_000))).not.toContain('idle');
});

test('stop: what has not begun is returned, what has is unknown, releases return', () => {
  const world = createLaneWorld({ release: 'hold' });
  admit(world, 'party', 2);
  const out = world.show('leaving', 'out');
  world.grant(out.presentation, { direction: 'out', units: 2 });
  world.line('passage_out', true);
  world.wait(10);
  world.send({ kind: 'stop' });
  expect(notesOf(world.pendingEntries())).toEqual(['returned 1 of 1/1', 'returned 2 of 1/1', 'returned 2 of override 1', 'unknown 1 of override 1']);
  expect([world.driven('release_in'), world.driven('release_out'), world.timers().size]).toEqual([false, false, 0]);
  expect(world.show('late').effects).toEqual([]);
});

// ---------------------------------------------------------------- red over a way that has opened

const refusedAtClosedExit = (config: Parameters<typeof createLaneWorld>[0]) => {
  const world = createLaneWorld(config);
  closeExit(world);
  world.show('a', 'out');
  expect(signal(world, 'out')).toBe('refused');
  return world;
};
const restore = (world: LaneWorld, out: 'controlled' | 'locked') =>
  world.send({ kind: 'restore', modes: { in: { mode: 'controlled', untilWallMs: null }, out: { mode: out, untilWallMs: null } }, fireLatched: false });

test.each<[string, 'free' | 'code', (world: LaneWorld) => void]>([
  ['the store opens', 'free', (world) => restore(world, 'controlled')],
  ['the store opens and its last row closed the exit', 'free', (world) => restore(world, 'locked')],
  ['the store opens, by code', 'code', (world) => restore(world, 'controlled')],
  ['an operator opens it', 'free', (world) => command(world, 'controlled', { directions: ['out'] })],
  [
    'an operator opens it during an emergency',
    'free',
    (world) => {
      world.line('fire', true);
      command(world, 'controlled', { directions: ['out'] });
      world.line('fire', false);
      world.send({ kind: 'reset_emergency', actor: 'staff-1', reason: 'over' });
    },
  ],
])('a refusal at a closed exit ends when %s (exit: %s)', (_, exit, opens) => {
  const world = refusedAtClosedExit({ release: 'pulse', freeBy: 'hold', sensor: 'none', exit, passageGraceMs: 0 });
  opens(world);
  expect([signal(world, 'out'), world.state().out.notice]).toEqual([exit === 'free' ? 'exit_open' : 'ready', null]);
  world.send({ kind: 'garbled', direction: 'out' });
  expect(signal(world, 'out')).toBe(exit === 'free' ? 'exit_open' : 'granted');
  world.wait(100);
  expect(world.driven('release_out')).toBe(true);
});

// ---------------------------------------------------------------- fire, tamper, conditions

test.each<[string, (world: LaneWorld) => void]>([
  ['at rest', () => undefined],
  ['locked', (world) => void command(world, 'locked')],
  ['out of service', (world) => void command(world, 'out_of_service')],
  ['free', (world) => void command(world, 'free')],
  ['deciding', (world) => void world.show('ticket')],
  ['granted', (world) => void admit(world)],
  [
    'in the gap between two edges',
    (world) => {
      admit(world, 'party', 2);
      world.pass('in', 30);
      world.wait(200);
    },
  ],
  [
    'in grace',
    (world) => {
      admit(world);
      world.wait(5_500);
    },
  ],
  [
    'passing',
    (world) => {
      admit(world);
      world.line('passage_in', true);
      world.wait(10);
    },
  ],
  [
    'stuck',
    (world) => {
      admit(world);
      world.line('passage_in', true);
      world.wait(31_000);
    },
  ],
  ['draining', (world) => void world.send({ kind: 'drain', cancel: false })],
  ['stopped', (world) => void world.send({ kind: 'stop' })],
])('fire is answered in the same step: %s', (_, prepare) => {
  const world = createLaneWorld();
  prepare(world);
  const effects = world.line('fire', true);
  expect([world.driven('release_in'), world.driven('release_out'), world.driven('stop')]).toEqual([true, true, false]);
  expect([signal(world), signal(world, 'out')]).toEqual(['emergency', 'emergency']);
  expect(effects).toContainEqual({ kind: 'fire_latch', latched: true });
  expect(alerts(effects)).toContain('+fire');
});

test('fire is latched until the input clears and somebody resets it; then the mode before holds again', () => {
  const world = createLaneWorld();
  command(world, 'locked', { directions: ['in'] });
  world.line('fire', true);
  world.send({ kind: 'reset_emergency', actor: 'staff-1', reason: 'too early' });
  expect(effectiveMode(world.state(), 'in')).toBe('emergency');
  world.line('fire', false);
  world.wait(62_000);
  expect([effectiveMode(world.state(), 'in'), world.driven('release_in')]).toEqual(['emergency', true]);
  const effects = world.send({ kind: 'reset_emergency', actor: 'staff-1', reason: 'drill is over' });
  expect(effects).toContainEqual({ kind: 'fire_latch', latched: false });
  expect([effectiveMode(world.state(), 'in'), effectiveMode(world.state(), 'out'), world.driven('release_in'), world.driven('release_out')]).toEqual([
    'locked',
    'controlled',
    false,
    false,
  ]);
  expect(notesOf(world.pendingEntries())).toEqual([
    'in controlled → locked by staff-1',
    'alarm fire',
    'in locked → emergency by system',
    'out controlled → emergency by system',
    'in emergency → locked by staff-1',
    'out emergency → controlled by staff-1',
  ]);
});

test('in emergency nothing is admitted: an open grant is returned, an awaited one given up, passages are free', () => {
  const world = createLaneWorld();
  const asked = world.show('ticket');
  world.show('leaving', 'out');
  const effects = world.line('fire', true);
  expect(effects).toContainEqual({ kind: 'abandon', direction: 'in', presentation: asked.presentation, why: 'overruled' });
  expect(dropped(world.show('next').effects)).toEqual(['open']);
  expect(world.grant(asked.presentation).effects).toEqual([]);
  world.pass('out');
  expect(notesOf(world.pendingEntries()).filter((note) => !note.includes('emergency'))).toEqual(['returned 1 of override 1', 'alarm fire', 'free']);
});

test('in emergency a turnstile that needs edges gets them, and stays open between', () => {
  const world = createLaneWorld();
  world.line('fire', true);
  const effects = world.wait(5_000);
  expect(effects.filter((effect) => effect.kind === 'write').length).toBe(2);
  world.wait(100);
  expect([world.driven('release_in'), world.driven('release_out')]).toEqual([true, true]);
});

test('a mode commanded in emergency holds after the reset', () => {
  const world = createLaneWorld();
  world.line('fire', true);
  command(world, 'out_of_service');
  expect(world.driven('release_in')).toBe(true);
  world.line('fire', false);
  world.send({ kind: 'reset_emergency', actor: 'staff-1', reason: 'over' });
  expect([effectiveMode(world.state(), 'in'), world.driven('release_in'), world.driven('stop')]).toEqual(['out_of_service', false, false]);
});

test('the latch from the disk opens at start, without new rows', () => {
  const world = createLaneWorld();
  world.send({ kind: 'restore', modes: { in: { mode: 'controlled', untilWallMs: null }, out: { mode: 'free', untilWallMs: null } }, fireLatched: true });
  expect([world.driven('release_in'), world.driven('release_out'), effectiveMode(world.state(), 'in'), notesOf(world.pendingEntries())]).toEqual([
    true,
    true,
    'emergency',
    [],
  ]);
});

test('tamper raises an alert and a row; the mode stays', () => {
  const world = createLaneWorld();
  world.line('tamper', true);
  expect(alerts(world.wait(100))).toEqual(['+tamper']);
  world.line('tamper', false);
  expect(alerts(world.wait(100))).toEqual(['-tamper']);
  expect([notesOf(world.pendingEntries()), effectiveMode(world.state(), 'in')]).toEqual([['alarm tamper', 'alarm tamper'], 'controlled']);
});

test('what is missing shows in amber flashes', () => {
  const world = createLaneWorld();
  world.send({ kind: 'condition', condition: 'manifest', ok: false });
  expect(signal(world)).toBe('no_manifest');
  world.send({ kind: 'reader', direction: 'in', ok: false });
  expect([signal(world), signal(world, 'out')]).toEqual(['no_reader', 'ready']);
  world.send({ kind: 'condition', condition: 'disk', ok: false });
  expect(signal(world)).toBe('disk');
  world.send({ kind: 'condition', condition: 'booted', ok: false });
  expect(signal(world)).toBe('booting');
});

test('a step leaves the state that it was given as it was', () => {
  const world = createLaneWorld();
  const before = world.state();
  const copy = structuredClone(before);
  admit(world);
  world.line('fire', true);
  world.wait(100);
  expect(before).toEqual(copy);
});
