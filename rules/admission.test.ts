import { expect, test } from 'vitest';
import { admit } from './admission.ts';
import type { Grant, Recognised } from './facts.ts';
import { DEFAULT_POLICY } from './policy.ts';
import { DAY_MS, EVENT, entry, exit, GATE, type Given, HOUR_MS, judged, MINUTE_MS, NOW_MS, PLACE, TICKET } from './testing/facts.ts';

/** Given → refused with this reason, explained so, perhaps valid again so many ms later. */
type Refused = readonly [given: string, facts: Given, reason: string, explanation: string, againInMs?: number];
/** Given → granted so. */
type Granted = readonly [given: string, facts: Given, grant: Partial<Grant>];

const refuses = (title: string, table: readonly Refused[]) => {
  for (const [name, given, reason, explanation, againInMs] of table) {
    test(`${title}: ${name}`, () => {
      expect(judged(given)).toMatchObject({ kind: 'refusal', reason, explanation, validAgainAtMs: againInMs === undefined ? null : NOW_MS + againInMs });
    });
  }
};
const grants = (title: string, table: readonly Granted[]) => {
  for (const [name, given, grant] of table) {
    test(`${title}: ${name}`, () => {
      expect(judged(given)).toMatchObject({ kind: 'grant', flags: [], ...grant });
    });
  }
};

const kind = (facts: Recognised, place = PLACE) => admit(facts, DEFAULT_POLICY, place);

test.each<[string, Recognised, string, string]>([
  ['rubbish', { kind: 'unreadable' }, 'unreadable', 'the code could not be read'],
  ['two tickets', { kind: 'ambiguous' }, 'ambiguous', 'the code fits more than one ticket'],
  ['unknown', { kind: 'unknown', removed: null, asked: false }, 'invalid', 'not a ticket for this event'],
  ['unknown, the cloud was asked', { kind: 'unknown', removed: null, asked: true }, 'invalid', 'not a ticket for this event'],
  ['T15: revoked or replaced', { kind: 'unknown', removed: 'revoked', asked: false }, 'revoked', 'the code was revoked or replaced by a newer one'],
  ['cancelled and removed', { kind: 'unknown', removed: 'canceled', asked: false }, 'canceled', 'the ticket was cancelled'],
  ['no manifest', { kind: 'no_manifest' }, 'manifest_stale', 'gate north-03 has no ticket list yet'],
])('a code that is no ticket: %s', (_, facts, reason, explanation) => {
  for (const direction of ['in', 'out'] as const) {
    expect(kind(facts, { ...PLACE, direction })).toMatchObject({ kind: 'refusal', reason, explanation, validAgainAtMs: null });
  }
});

test.each(['locked', 'out_of_service', 'emergency'] as const)('a lane that is %s refuses before anything else', (mode) => {
  expect(judged({ place: { mode }, ticket: { status: 'blocked' } })).toMatchObject({ reason: 'gate_locked', explanation: `this lane is closed: ${mode}` });
  expect(kind({ kind: 'unreadable' }, { ...PLACE, mode })).toMatchObject({ reason: 'gate_locked' });
});

grants('first entry', [
  ['an ordinary ticket', {}, { type: 'first_entry', direction: 'in', units: 1, lastEntryMs: null, vip: false }],
  ['a party', { ticket: { units: 5 } }, { type: 'first_entry', units: 5 }],
  ['K3: a part of a party', { ticket: { units: 5 }, place: { units: 2 } }, { type: 'first_entry', units: 2 }],
  ['T15: the rest of a party comes for the first time', { ticket: { units: 5 }, entries: [entry({ units: 2 })] }, { type: 'first_entry', units: 3 }],
  [
    'T15: the rest of a party that comes again comes again',
    {
      ticket: { units: 2, maxScans: 2 },
      entries: [entry({ units: 2, atMs: NOW_MS - 3 * HOUR_MS }), exit({ units: 2, atMs: NOW_MS - 2 * HOUR_MS }), entry({ units: 1 })],
    },
    { type: 'reentry', units: 1, lastEntryMs: NOW_MS - HOUR_MS },
  ],
  ['a lane that is free judges all the same', { place: { mode: 'free' } }, { type: 'first_entry' }],
]);

refuses('K8: the dates of a series', [
  ['another date', { ticket: { subevent: 8 }, policy: { subevents: [7, 9] } }, 'product', 'the ticket is for another date of this series (date 8)'],
  [
    'a date, where nobody said which this is, and the list does not know it',
    { ticket: { subevent: 8, source: 'signature' } },
    'product',
    'the ticket is for another date of this series (date 8)',
  ],
]);
grants('K8: the dates of a series', [
  ['this date', { ticket: { subevent: 9, source: 'signature' }, policy: { subevents: [7, 9] } }, { type: 'first_entry', flags: ['signature_only'] }],
  ['what the list holds is for this event', { ticket: { subevent: 8 } }, { type: 'first_entry' }],
  ['no date', { ticket: { subevent: null, source: 'signature' }, policy: { subevents: [7] } }, { type: 'first_entry', flags: ['signature_only'] }],
]);

refuses('states', [
  ['blocked', { ticket: { status: 'blocked' } }, 'blocked', 'the ticket is blocked'],
  [
    'T12: blocked, with a note that ends within an emoji',
    { ticket: { status: 'blocked', note: `${'x'.repeat(127)}\u{1F600}` } },
    'blocked',
    `the ticket is blocked: ${'x'.repeat(127)}`,
  ],
  ['blocked, with a note', { ticket: { status: 'blocked', note: 'charged back' } }, 'blocked', 'the ticket is blocked: charged back'],
  ['T15: revoked, and not replaced', { ticket: { status: 'revoked' } }, 'revoked', 'the ticket T-1 was revoked'],
  ['cancelled', { ticket: { status: 'canceled' } }, 'canceled', 'the ticket was cancelled'],
  ['expired', { ticket: { status: 'expired' } }, 'invalid_time', 'not valid at this time'],
  ['expired, with its end', { ticket: { status: 'expired', validUntilMs: NOW_MS - DAY_MS } }, 'invalid_time', 'was valid until 2027-04-30 19:00'],
  ['unpaid', { ticket: { status: 'unpaid' } }, 'unpaid', 'the ticket is not paid'],
  ['unapproved', { ticket: { status: 'unapproved' } }, 'unapproved', 'the order is not approved yet'],
  ['a state goes before the time', { ticket: { status: 'canceled', validUntilMs: NOW_MS - 1 } }, 'canceled', 'the ticket was cancelled'],
  ['the time goes before paying', { ticket: { status: 'unpaid', validUntilMs: NOW_MS - 1 } }, 'invalid_time', 'was valid until 18:59'],
]);
grants('states by override', [
  ['unpaid, admitted', { ticket: { status: 'unpaid' }, policy: { unpaid: 'admit' } }, {}],
  ['unpaid, flagged', { ticket: { status: 'unpaid' }, policy: { unpaid: 'admit_and_flag' } }, { flags: ['unpaid'] }],
  ['unapproved, flagged', { ticket: { status: 'unapproved' }, policy: { unapproved: 'admit_and_flag' } }, { flags: ['unapproved'] }],
  ['known by its signature alone', { ticket: { source: 'signature' } }, { flags: ['signature_only'] }],
  ['known by its signature alone, unflagged', { ticket: { source: 'signature' }, policy: { signed_unknown: 'admit' } }, {}],
]);
refuses('signature alone', [
  ['by policy', { ticket: { source: 'signature' }, policy: { signed_unknown: 'refuse' } }, 'invalid', 'not a ticket for this event'],
]);

refuses('product and zone', [
  ['another tier', { policy: { tiers: ['vip'] } }, 'product', 'ticket type standard is not admitted here'],
  ['another zone', { ticket: { zone: 'east' }, policy: { zones: ['west', 'north'] } }, 'zone', 'the ticket is for zone east'],
  ['another sector', { ticket: { zone: 'east:12' }, policy: { zones: ['east:11'] } }, 'zone', 'the ticket is for zone east:12'],
  ['no tier at all', { policy: { tiers: [] } }, 'product', 'ticket type standard is not admitted here'],
  ['a zone that only begins alike', { ticket: { zone: 'eastern' }, policy: { zones: ['east'] } }, 'zone', 'the ticket is for zone eastern'],
]);
grants('product and zone', [
  ['its tier', { policy: { tiers: ['vip', 'standard'] } }, {}],
  ['its zone', { ticket: { zone: 'east' }, policy: { zones: ['east'] } }, {}],
  ['a sector of a served zone', { ticket: { zone: 'east:12' }, policy: { zones: ['east'] } }, {}],
  ['a variation of a served tier', { ticket: { tier: 'standard:balcony' }, policy: { tiers: ['standard'] } }, {}],
  ['a ticket for no zone', { policy: { zones: ['east'] } }, {}],
]);

refuses('clock, manifest and usage', [
  ['clock not trusted', { place: { clockTrusted: false }, policy: { clock_untrusted: 'refuse' } }, 'clock_untrusted', 'this gate does not know the time'],
  [
    'manifest past its expiry',
    { event: { manifestExpiresAtMs: NOW_MS - 1 }, policy: { manifest_stale: 'refuse' } },
    'manifest_stale',
    'the ticket list is from 18:00',
  ],
  ['usage lost', { place: { usageComplete: false }, policy: { usage_lost: 'refuse' } }, 'usage_lost', 'this gate does not yet know who is inside'],
]);
grants('clock, manifest and usage', [
  ['clock not trusted: flagged', { place: { clockTrusted: false } }, { flags: ['clock_untrusted'] }],
  ['clock not trusted: admitted', { place: { clockTrusted: false }, policy: { clock_untrusted: 'admit' } }, {}],
  ['without a clock no window is judged', { place: { clockTrusted: false }, ticket: { validUntilMs: NOW_MS - DAY_MS } }, { flags: ['clock_untrusted'] }],
  [
    'without a clock no schedule, no expiry and no day is judged',
    {
      place: { clockTrusted: false },
      entries: [entry()],
      policy: { schedule: [], expires_after_first_entry_s: 1, entries: { per_day: 1, days: 1, total: 9 }, reentry: { min_gap_s: 86_400 } },
    },
    { flags: ['clock_untrusted'], type: 'reentry' },
  ],
  ['manifest stale: flagged', { event: { manifestExpiresAtMs: NOW_MS - 1 } }, { flags: ['manifest_stale'] }],
  ['manifest stale: admitted', { event: { manifestExpiresAtMs: NOW_MS - 1 }, policy: { manifest_stale: 'admit' } }, {}],
  ['manifest at its last moment', { event: { manifestExpiresAtMs: NOW_MS } }, {}],
  ['usage lost, and the cloud did not answer', { place: { usageComplete: false } }, { flags: ['usage_lost'] }],
  ['usage lost: flagged', { place: { usageComplete: false }, policy: { usage_lost: 'admit_and_flag' } }, { flags: ['usage_lost'] }],
  ['usage lost, but VIP', { place: { usageComplete: false }, ticket: { vip: true } }, { vip: true }],
]);

refuses('occupancy', [
  ['full', { event: { inside: 100 }, policy: { occupancy: { limit: 100, mode: 'enforce' } } }, 'capacity', 'the venue is full (100 of 100)'],
  [
    'no room for the whole party',
    { event: { inside: 98 }, ticket: { units: 3 }, policy: { occupancy: { limit: 100, mode: 'enforce' } } },
    'capacity',
    'the venue is full (98 of 100)',
  ],
  [
    'full for VIPs as well',
    { event: { inside: 100 }, ticket: { vip: true }, policy: { occupancy: { limit: 100, mode: 'enforce' } } },
    'capacity',
    'the venue is full (100 of 100)',
  ],
]);
grants('occupancy', [
  ['the last place', { event: { inside: 99 }, policy: { occupancy: { limit: 100, mode: 'enforce' } } }, {}],
  ['alert', { event: { inside: 100 }, policy: { occupancy: { limit: 100 } } }, { flags: ['capacity'] }],
  ['not counted', { policy: { occupancy: { limit: 1, mode: 'enforce' } } }, {}],
]);

grants('VIP', [
  ['a first entry', { ticket: { vip: true } }, { type: 'first_entry', vip: true, lastEntryMs: null }],
  [
    're-enters without limit, a moment later, shown its last entry',
    { ticket: { vip: true, maxScans: 1 }, entries: [entry(), entry({ atMs: NOW_MS - 1000 })], policy: { passback: { mode: 'hard' } } },
    { type: 'reentry', vip: true, lastEntryMs: NOW_MS - 1000 },
  ],
]);
refuses('VIP', [
  ['blocked', { ticket: { vip: true, status: 'blocked' } }, 'blocked', 'the ticket is blocked'],
  ["at another tier's gate", { ticket: { vip: true }, policy: { tiers: ['crew'] } }, 'product', 'ticket type standard is not admitted here'],
  [
    'by the policy',
    { ticket: { vip: true }, entries: [entry()], policy: { vip_reentry: 'policy' } },
    'already_redeemed',
    'already used at 18:00, gate south-01',
  ],
]);

const out: Given = { place: { direction: 'out' } };
grants('exit', [
  ['inside', { ...out, entries: [entry()] }, { type: 'exit', direction: 'out', units: 1, lastEntryMs: null }],
  [
    "inside, though cancelled, too late and at another zone's gate",
    { ...out, entries: [entry()], ticket: { status: 'canceled', zone: 'x' }, policy: { zones: [], schedule: [] } },
    { type: 'exit' },
  ],
  ['as many of a party as are inside', { ...out, ticket: { units: 4 }, entries: [entry({ units: 3 }), exit({ units: 1 })] }, { type: 'exit', units: 2 }],
  ['no entry recorded', out, { type: 'exit' }],
  ['no entry recorded, soft passback', { ...out, policy: { passback: { mode: 'soft' } } }, { type: 'exit', flags: ['passback_soft'] }],
  ['no entry known, usage incomplete', { place: { direction: 'out', usageComplete: false }, policy: { passback: { mode: 'hard' } } }, { type: 'exit' }],
  ['after hours', { ...out, event: { endsAtMs: NOW_MS - HOUR_MS } }, { type: 'exit' }],
]);
refuses('exit', [
  ['no entry recorded, hard passback', { ...out, policy: { passback: { mode: 'hard' } } }, 'passback', 'no entry was recorded before this exit'],
  ['outside and cancelled', { ...out, ticket: { status: 'canceled' } }, 'canceled', 'the ticket was cancelled'],
  ['outside, for another zone', { ...out, ticket: { zone: 'east' }, policy: { zones: ['west'] } }, 'zone', 'the ticket is for zone east'],
]);

test('a rule that throws refuses with error', () => {
  const broken = { ...DEFAULT_POLICY, rules: { inList: [{ var: 'product' }, 'no list'] } };
  const facts = { kind: 'ticket', ticket: TICKET, medium: 'opaque', entries: [], event: EVENT } as const;
  expect(admit(facts, broken, PLACE)).toMatchObject({ kind: 'refusal', reason: 'error', explanation: 'fault, please ask the staff' });
  const nowhere = { ...EVENT, timeZone: 'Nowhere/Land' };
  const daily = { ...DEFAULT_POLICY, entries: { ...DEFAULT_POLICY.entries, total: 5, per_day: 1 } };
  expect(admit({ ...facts, event: nowhere, entries: [entry()] }, daily, PLACE)).toMatchObject({ reason: 'error' });
});

test("times are shown in the venue's zone, and in UTC where the zone does not exist", () => {
  const used = { entries: [entry({ atMs: NOW_MS - 30 * MINUTE_MS })] };
  expect(judged({ ...used, event: { timeZone: 'America/New_York' } })).toMatchObject({ explanation: 'already used at 12:30, gate south-01' });
  expect(judged({ ...used, event: { timeZone: 'Nowhere/Land' } })).toMatchObject({ explanation: 'already used at 16:30, gate south-01' });
  expect(judged({ entries: [entry({ atMs: NOW_MS - DAY_MS, gate: GATE })] })).toMatchObject({ explanation: 'already used at 2027-04-30 19:00, gate north-03' });
});
