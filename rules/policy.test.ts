import { expect, test } from 'vitest';
import { DEFAULT_POLICY, effectivePolicy, exitsWarning, gateForZone, Policy, readPolicies, serves } from './policy.ts';

const problems = (value: unknown): readonly string[] => {
  const result = readPolicies(value);
  return result.ok ? [] : result.problems;
};

test('every rule has its default when the policy is empty', () => {
  expect(effectivePolicy({}, null, 'arena/north-03')).toEqual(DEFAULT_POLICY);
  expect(Policy.parse(DEFAULT_POLICY)).toEqual(DEFAULT_POLICY);
  expect(DEFAULT_POLICY).toMatchObject({
    duplicate_window_s: 10,
    reentry: { rule: 'none' },
    vip_reentry: 'always',
    unknown: 'ask',
    manifest_stale: 'admit_and_flag',
    clock_untrusted: 'admit_and_flag',
    usage_lost: 'ask',
    unknown_passage: 'retry_here',
  });
});

test("a gate's word goes before a tier's, a tier's before the event's, key by key", () => {
  const result = readPolicies({
    event: { duplicate_window_s: 1, unknown: 'refuse', reentry: { rule: 'after_exit', max: 3, min_gap_s: 60 }, entries: { total: 4 } },
    tiers: { vip: { duplicate_window_s: 2, reentry: { rule: 'always', max: 9 } }, 'vip:balcony': { reentry: { max: 8 } }, crew: { duplicate_window_s: 99 } },
    gates: { 'arena/north-03': { duplicate_window_s: 3, reentry: { rule: 'none' }, zones: ['north'], tiers: ['vip'] }, 'arena/south-01': { unknown: 'ask' } },
  });
  if (!result.ok) throw new Error(result.problems.join('\n'));
  const at = (tier: string | null, gate: string) => effectivePolicy(result.policies, tier, gate);
  expect(at('vip', 'arena/north-03')).toMatchObject({
    duplicate_window_s: 3,
    unknown: 'refuse',
    zones: ['north'],
    tiers: ['vip'],
    reentry: { rule: 'none', max: 9, min_gap_s: 60 },
    entries: { total: 4, per_day: null },
  });
  expect(at('vip', 'arena/west-01')).toMatchObject({ duplicate_window_s: 2, zones: null, reentry: { rule: 'always', max: 9 } });
  expect(at('vip:balcony', 'arena/west-01')).toMatchObject({ duplicate_window_s: 2, reentry: { rule: 'always', max: 8 } });
  expect(at('standard', 'arena/west-01')).toMatchObject({ duplicate_window_s: 1, reentry: { rule: 'after_exit', max: 3 } });
  expect(at(null, 'arena/south-01')).toMatchObject({ unknown: 'ask' });
  for (const tier of ['vip', 'constructor', '__proto__', null]) expect(() => Policy.parse(at(tier, 'arena/north-03'))).not.toThrow();
});

test('every mistake is reported at once, each with its key', () => {
  expect(
    problems({
      event: { re_entry: 'none', reentry: { rule: 'sometimes' }, duplicate_window_s: -1, schedule: [{ days: [8], from: '24:00', until: '25:00' }] },
      tiers: { 'a b': {}, vip: { zones: ['x'] } },
      gates: { north: {}, 'arena/north-03': { admission: { from: '2027-05-01T17:00:00.000Z', until: '2027-05-01T16:00:00.000Z' }, rules: { log: 1 } } },
      doors: {},
    }),
  ).toEqual([
    'policies.event.duplicate_window_s: must be at least 0',
    'policies.event.schedule.0.days.0: must be at most 7',
    'policies.event.schedule.0.from: an opening begins at 00:00 to 23:59',
    'policies.event.schedule.0.until: a clock time is HH:MM, 00:00 to 24:00',
    'policies.event.reentry.rule: must be one of none, after_exit, always',
    'policies.event: knows no re_entry: check the spelling, or leave it out',
    'policies.tiers.a b: an id has 1 to 64 letters, digits or . _ : @ -',
    'policies.tiers.vip: knows no zones: check the spelling, or leave it out',
    'policies.gates.north: a gate is named <site>/<gate>, each 1 to 31 of a-z, 0-9 and -, such as arena/north-03',
    'policies.gates.arena/north-03.rules: not a valid rule: unknown operator "log"',
    'policies.gates.arena/north-03.admission: from is not before until',
    'policies: knows no doors: check the spelling, or leave it out',
  ]);
});

test.each([null, undefined, 1, 'x', [], { event: null }, { gates: [] }, { tiers: { vip: 1 } }])('no policies: %j', (value) => {
  expect(problems(value).length).toBeGreaterThan(0);
});

test('however many mistakes there are, twenty are told', () => {
  expect(problems({ tiers: Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`t${n}`, { unpaid: 'maybe' }])) })).toHaveLength(20);
});

test('a zone that is served elsewhere is found, also as part of another', () => {
  const policy = effectivePolicy(
    { gates: { 'arena/b': { zones: ['east'] }, 'arena/a': { zones: ['east', 'west:1'] }, 'arena/here': { zones: ['south'] } } },
    null,
    'arena/here',
  );
  expect(['east', 'east:12', 'west:1', 'west', 'south', 'constructor', ''].map((zone) => gateForZone(policy, zone))).toEqual([
    'arena/a',
    'arena/a',
    'arena/a',
    null,
    null,
    null,
    null,
  ]);
});

test('a part before a colon serves all that it begins', () => {
  expect([serves(null, 'x'), serves(['a'], 'a'), serves(['a'], 'a:b:c'), serves(['a:b'], 'a:b:c')]).toEqual([true, true, true, true]);
  expect([serves([], 'x'), serves(['a'], 'ab'), serves(['a:b'], 'a'), serves([''], ':a')]).toEqual([false, false, false, false]);
});

test('an event whose re-entry or passback needs exits says so (NIGHT: nobody is kept inside)', () => {
  expect(exitsWarning('fair', { event: { reentry: { rule: 'always' }, passback: { mode: 'off' }, occupancy: { limit: null } } })).toBeNull();
  expect(exitsWarning('fair', {})).toBeNull();
  expect(exitsWarning('fair', { event: { reentry: { rule: 'after_exit' } } })).toContain(
    'event fair has re-entry after_exit, which need exits: set turnstile.exit to code',
  );
  expect(exitsWarning('fair', { tiers: { day: { passback: { mode: 'soft' } } } })).toContain('passback soft');
  expect(exitsWarning('fair', { gates: { 'arena/north': { passback: { mode: 'hard' }, occupancy: { limit: 5 } } } })).toContain(
    'passback hard and an occupancy limit',
  );
});
