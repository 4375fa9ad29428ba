/** Whatever the ticket, policy, usage, place and time: a verdict, a valid one, and never a grant that the rules forbid. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Timestamp } from '../contract/ids.ts';
import { MODES, RefusalEntry } from '../contract/ledger.ts';
import { TICKET_RIGHTS } from '../contract/manifest.ts';
import { REASONS } from '../contract/reasons.ts';
import { admit } from './admission.ts';
import type { Entry, EventFacts, PlaceFacts, Recognised, TicketFacts, Verdict } from './facts.ts';
import { type EventPolicies, effectivePolicy, Policy, readPolicies } from './policy.ts';
import { RULE_VARIABLES, type RuleNode } from './venue-rule.ts';

const RUNS = process.env['STILE_PROVE'] === undefined ? 500 : 20_000;
const GATES = ['arena/north-03', 'arena/south-01'];
const ZONES = ['Europe/Berlin', 'America/New_York', 'Pacific/Apia', 'UTC', 'Nowhere/Land'];

/** Around the changes of clocks of 2027, and far away. */
const time = fc.oneof(
  { weight: 9, arbitrary: fc.integer({ min: Date.parse('2027-03-27T00:00:00Z'), max: Date.parse('2027-03-29T00:00:00Z') }) },
  fc.constantFrom(0, -1, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 8.64e15, Number.NaN, Number.POSITIVE_INFINITY, 1.5),
);
const maybeTime = fc.option(time);
const iso = fc.integer({ min: Date.parse('2027-03-27T00:00:00Z'), max: Date.parse('2027-03-29T00:00:00Z') }).map((ms) => new Date(ms).toISOString());
const leniency = fc.constantFrom('refuse', 'admit', 'admit_and_flag');
const limit = fc.option(fc.integer({ min: 1, max: 4 }));
const clock = fc.constantFrom('00:00', '02:30', '09:00', '23:59');

const ticket: fc.Arbitrary<TicketFacts> = fc.record({
  eventId: fc.constant('e'),
  ticketId: fc.constant('t'),
  ticketRef: fc.constant('00'.repeat(16)),
  tier: fc.constantFrom('standard', 'vip:balcony', '12:34', '__proto__'),
  zone: fc.option(fc.constantFrom('east', 'east:12', 'west')),
  status: fc.oneof({ weight: 6, arbitrary: fc.constant('valid' as const) }, fc.constantFrom(...TICKET_RIGHTS)),
  maxScans: fc.option(fc.integer({ min: 1, max: 3 })),
  units: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 100 })),
  validFromMs: maybeTime,
  validUntilMs: maybeTime,
  vip: fc.boolean(),
  note: fc.option(fc.stringMatching(/^[a-z ]{1,512}$/)),
  source: fc.constantFrom('manifest', 'overlay', 'cloud', 'signature'),
});
const entry: fc.Arbitrary<Entry> = fc.record({
  gate: fc.constantFrom(...GATES),
  atMs: time,
  direction: fc.constantFrom('in', 'out'),
  units: fc.integer({ min: 0, max: 4 }),
  outcome: fc.constantFrom('passed', 'stuck', 'unknown', 'open'),
});
const event: fc.Arbitrary<EventFacts> = fc.record({
  eventId: fc.constant('e'),
  startsAtMs: maybeTime,
  endsAtMs: maybeTime,
  timeZone: fc.constantFrom(...ZONES),
  manifestVersion: fc.nat(),
  manifestGeneratedAtMs: time,
  manifestExpiresAtMs: time,
  inside: fc.option(fc.integer({ min: -5, max: 200 })),
});
const place: fc.Arbitrary<PlaceFacts> = fc.record({
  gate: fc.constantFrom(...GATES),
  direction: fc.constantFrom('in', 'out'),
  mode: fc.oneof({ weight: 6, arbitrary: fc.constant('controlled' as const) }, fc.constantFrom(...MODES)),
  nowMs: time,
  clockTrusted: fc.boolean(),
  online: fc.boolean(),
  usageComplete: fc.boolean(),
});
const facts: fc.Arbitrary<Recognised> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constant('ticket' as const),
      ticket,
      medium: fc.constantFrom('opaque', 'signed', 'rotating', 'manual'),
      entries: fc.array(entry, { maxLength: 8 }),
      event,
    }),
  },
  fc.record({ kind: fc.constant('unknown' as const), removed: fc.option(fc.constantFrom('invalid', 'revoked', 'canceled')), asked: fc.boolean() }),
  fc.constantFrom<Recognised>({ kind: 'ambiguous' }, { kind: 'unreadable' }, { kind: 'no_manifest' }),
);

const { rule } = fc.letrec<{ rule: RuleNode; node: RuleNode; value: RuleNode }>((tie) => ({
  value: fc.oneof(
    fc.constantFrom(...RULE_VARIABLES).map((name): RuleNode => ({ var: name })),
    fc.constantFrom<RuleNode>(
      { buildTime: ['customtime', '09:00'] },
      { buildTime: ['date_from'] },
      { entries_since: [{ buildTime: ['customtime', '02:30'] }] },
      0,
      1,
      6,
      -1,
      'x',
      null,
    ),
    fc.constant<RuleNode>({ objectList: [{ lookup: ['product', '12', ''] }, { lookup: ['gate', 'north-03', ''] }] }),
  ),
  node: fc
    .tuple(fc.constantFrom('==', '!=', '<', '<=', '>', '>=', 'isBefore', 'isAfter', 'inList'), tie('value'), tie('value'))
    .map(([operator, a, b]): RuleNode => ({ [operator]: [a, b] })),
  rule: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    tie('node'),
    fc.boolean(),
    fc
      .tuple(fc.constantFrom('and', 'or', '!'), tie('rule'), tie('rule'))
      .map(([operator, a, b]): RuleNode => ({ [operator]: operator === '!' ? [a] : [a, b] })),
  ),
}));

const override = fc.record(
  {
    duplicate_window_s: fc.constantFrom(0, 10, 86_400),
    schedule: fc.option(
      fc.array(fc.record({ days: fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 3 }), from: clock, until: clock }), { maxLength: 3 }),
    ),
    expires_after_first_entry_s: limit,
    vip_reentry: fc.constantFrom('always', 'policy'),
    unpaid: leniency,
    unapproved: leniency,
    signed_unknown: leniency,
    manifest_stale: leniency,
    clock_untrusted: leniency,
    usage_lost: leniency,
    rules: fc.option(rule),
    admission: fc.record(
      {
        opens_before_start_s: limit,
        closes_after_start_s: limit,
        closes_after_end_s: limit,
        from: fc.option(iso),
        grace_before_s: fc.constantFrom(0, 60),
        grace_after_s: fc.constantFrom(0, 86_400),
      },
      { requiredKeys: [] },
    ),
    entries: fc.record({ total: limit, per_day: limit, per_gate: limit, days: limit }, { requiredKeys: [] }),
    reentry: fc.record(
      {
        rule: fc.constantFrom('none', 'after_exit', 'always'),
        min_gap_s: fc.constantFrom(0, 3600),
        max: limit,
        until: fc.option(iso),
        counts_as_entry: fc.boolean(),
      },
      { requiredKeys: [] },
    ),
    passback: fc.record({ mode: fc.constantFrom('off', 'soft', 'hard'), forget_after_s: limit }, { requiredKeys: [] }),
    occupancy: fc.record({ limit, mode: fc.constantFrom('alert', 'enforce') }, { requiredKeys: [] }),
  },
  { requiredKeys: [] },
);
const policies: fc.Arbitrary<EventPolicies> = fc.record(
  {
    event: override,
    tiers: fc.record({ standard: override, vip: override }),
    gates: fc.record({
      'arena/north-03': fc.tuple(override, limit).map(([rules, n]) => (n === null ? rules : { ...rules, zones: ['east'], tiers: ['standard', '12'] })),
    }),
  },
  { requiredKeys: [] },
) as fc.Arbitrary<EventPolicies>;

function expectValid(verdict: Verdict, given: Recognised, at: PlaceFacts): void {
  if (verdict.kind === 'refusal') {
    expect(REASONS).toContain(verdict.reason);
    expect(verdict.explanation.length).toBeGreaterThan(0);
    expect(verdict.explanation).not.toMatch(/[{}]|undefined|NaN/);
    expect(RefusalEntry.shape.facts.parse(verdict.facts)).toEqual(verdict.facts);
    expect(RefusalEntry.shape.explanation.parse(verdict.explanation)).toBe(verdict.explanation);
    if (verdict.validAgainAtMs === null) return;
    expect(verdict.validAgainAtMs).toBeGreaterThan(at.nowMs);
    expect(Timestamp.safeParse(new Date(verdict.validAgainAtMs).toISOString()).success).toBe(true);
    return;
  }
  expect(given.kind).toBe('ticket');
  if (given.kind !== 'ticket') return;
  expect(verdict.direction).toBe(at.direction);
  expect(verdict.type === 'exit').toBe(at.direction === 'out');
  expect(Number.isInteger(verdict.units) && verdict.units >= 1 && verdict.units <= given.ticket.units).toBe(true);
  expect(new Set(verdict.flags).size).toBe(verdict.flags.length);
  expect(['controlled', 'free']).toContain(at.mode);
  if (at.direction === 'in') expect(['valid', 'unpaid', 'unapproved']).toContain(given.ticket.status);
}

test('the generated policies are policies', () => {
  fc.assert(
    fc.property(policies, (given) => {
      expect(readPolicies(given)).toMatchObject({ ok: true });
      expect(() => Policy.parse(effectivePolicy(given, 'vip:balcony', 'arena/north-03'))).not.toThrow();
    }),
    { numRuns: Math.min(RUNS, 2_000) },
  );
});

test(`the decision never throws and is always a valid one (${RUNS} runs)`, () => {
  fc.assert(
    fc.property(facts, policies, place, (given, said, at) => {
      const policy = effectivePolicy(said, given.kind === 'ticket' ? given.ticket.tier : null, at.gate);
      const verdict = admit(given, policy, at);
      expectValid(verdict, given, at);
      expect(admit(given, policy, at)).toEqual(verdict);
    }),
    { numRuns: RUNS },
  );
});

test('"valid again at" is kept: the same ticket is admitted then', () => {
  fc.assert(
    fc.property(facts, policies, place, (given, said, at) => {
      if (given.kind !== 'ticket') return;
      const policy = effectivePolicy(said, given.ticket.tier, at.gate);
      const verdict = admit(given, policy, at);
      if (verdict.kind === 'grant' || verdict.validAgainAtMs === null) return;
      const then = verdict.validAgainAtMs + 1;
      const event = { ...given.event, inside: null, manifestExpiresAtMs: then };
      expect(admit({ ...given, event }, policy, { ...at, nowMs: then, usageComplete: true })).toMatchObject({ kind: 'grant' });
    }),
    { numRuns: RUNS * 4 },
  );
});

test('admit refuses with error when the policy or the facts are none, and never throws', () => {
  fc.assert(
    fc.property(fc.anything(), fc.anything(), fc.anything(), (a, b, c) => {
      expect(admit(a as Recognised, b as Policy, c as PlaceFacts)).toMatchObject({ kind: 'refusal' });
    }),
    { numRuns: RUNS },
  );
});

test('a ticket without re-entry is granted once, whatever the clocks of the gates', () => {
  fc.assert(
    fc.property(ticket, fc.array(entry, { minLength: 1, maxLength: 4 }), event, place, (given, entries, at, where) => {
      const single = { ...given, vip: false, maxScans: null, units: 1 };
      const used = [{ ...(entries[0] as Entry), direction: 'in' as const, units: 1 }, ...entries];
      const verdict = admit({ kind: 'ticket', ticket: single, medium: 'opaque', entries: used, event: at }, effectivePolicy({}, single.tier, where.gate), {
        ...where,
        direction: 'in',
      });
      expect(verdict.kind).toBe('refusal');
    }),
    { numRuns: RUNS },
  );
});
