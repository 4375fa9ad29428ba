import { expect, test } from 'vitest';
import type { Grant } from './facts.ts';
import { DAY_MS, entry, exit, GATE, type Given, HOUR_MS, judged, MINUTE_MS, NOW_MS } from './testing/facts.ts';

type Refused = readonly [given: string, facts: Given, reason: string, explanation: string, againInMs?: number];
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
      expect(judged(given)).toMatchObject({ kind: 'grant', type: 'reentry', flags: [], ...grant });
    });
  }
};

const ago = (ms: number, gate = 'arena/south-01') => entry({ atMs: NOW_MS - ms, gate });
const twice = [ago(2 * DAY_MS), ago(DAY_MS)];

refuses('entries in total', [
  ['used', { entries: [ago(HOUR_MS)] }, 'already_redeemed', 'already used at 18:00, gate south-01'],
  ['used: the first entry is named', { entries: [ago(HOUR_MS), ago(2 * HOUR_MS, GATE)] }, 'already_redeemed', 'already used at 17:00, gate north-03'],
  ['used, though seen to leave', { entries: [entry(), exit()] }, 'already_redeemed', 'already used at 18:00, gate south-01'],
  ["the ticket's own number", { ticket: { maxScans: 2 }, entries: twice }, 'max_entries', '2 of 2 entries used'],
  ["the policy's number", { policy: { entries: { total: 2 } }, entries: twice }, 'max_entries', '2 of 2 entries used'],
  [
    "the ticket's goes before the policy's",
    { ticket: { maxScans: 2 }, policy: { entries: { total: 9 } }, entries: twice },
    'max_entries',
    '2 of 2 entries used',
  ],
  ['re-entries count', { ticket: { maxScans: 2 }, policy: { reentry: { rule: 'always' } }, entries: twice }, 'max_entries', '2 of 2 entries used'],
  ['an entry whose outcome is unknown counts', { entries: [entry({ outcome: 'unknown' })] }, 'already_redeemed', 'already used at 18:00, gate south-01'],
  ['an entry that is open counts', { entries: [entry({ outcome: 'open' })] }, 'already_redeemed', 'already used at 18:00, gate south-01'],
]);
grants('entries in total', [
  ['a second of two', { ticket: { maxScans: 2 }, entries: [ago(HOUR_MS)] }, { lastEntryMs: NOW_MS - HOUR_MS }],
  ['re-entries that do not count', { ticket: { maxScans: 1 }, policy: { reentry: { rule: 'always', counts_as_entry: false } }, entries: twice }, {}],
  ['no number at all', { policy: { reentry: { rule: 'always' } }, entries: twice }, {}],
]);

refuses('entries per day, per gate, on so many days', [
  [
    "today's are used",
    { event: { endsAtMs: null }, ticket: { maxScans: 9 }, policy: { entries: { per_day: 2 } }, entries: [ago(HOUR_MS), ago(2 * HOUR_MS)] },
    'max_entries',
    'no entries left today, valid again at 2027-05-02 00:00',
    5 * HOUR_MS,
  ],
  [
    "today's are used, and tomorrow the event is over",
    { event: { endsAtMs: NOW_MS + 2 * HOUR_MS }, ticket: { maxScans: 9 }, policy: { entries: { per_day: 2 } }, entries: [ago(HOUR_MS), ago(2 * HOUR_MS)] },
    'max_entries',
    'no entries left',
  ],
  [
    "today's are used, and this was the last day",
    { ticket: { maxScans: 9 }, policy: { entries: { per_day: 1, days: 2 } }, entries: [ago(DAY_MS), ago(HOUR_MS)] },
    'max_entries',
    'no entries left',
  ],
  [
    'at this gate',
    { ticket: { maxScans: 9 }, policy: { entries: { per_gate: 1 } }, entries: [ago(HOUR_MS, GATE)] },
    'max_entries',
    '1 of 1 entries at this gate used',
  ],
  ['days', { ticket: { maxScans: 9 }, policy: { entries: { days: 2 } }, entries: twice }, 'max_entries', 'used on all of its 2 days'],
]);
grants('entries per day, per gate, on so many days', [
  ["yesterday's do not count for today", { ticket: { maxScans: 9 }, policy: { entries: { per_day: 1 } }, entries: [ago(DAY_MS)] }, {}],
  ["another gate's do not count here", { ticket: { maxScans: 9 }, policy: { entries: { per_gate: 1 } }, entries: [ago(HOUR_MS)] }, {}],
  ['again on a day that counts already', { ticket: { maxScans: 9 }, policy: { entries: { days: 2 } }, entries: [ago(DAY_MS), ago(HOUR_MS)] }, {}],
  // 23:30 in Berlin is still the day before, though it is the same day in New York.
  ["the day is the venue's", { ticket: { maxScans: 9 }, policy: { entries: { per_day: 1 } }, entries: [ago(19.5 * HOUR_MS)] }, {}],
]);

const reentry = (given: NonNullable<Given['policy']>['reentry']): Given => ({ policy: { reentry: { rule: 'after_exit', ...given } } });
refuses('re-entry', [
  ['inside', { ...reentry({}), entries: [entry()] }, 'already_inside', 'already inside since 18:00, gate south-01'],
  [
    'inside again',
    { ...reentry({}), entries: [ago(3 * HOUR_MS), exit({ atMs: NOW_MS - 2 * HOUR_MS }), ago(HOUR_MS, GATE)] },
    'already_inside',
    'already inside since 18:00, gate north-03',
  ],
  ['minimum gap', { ...reentry({ rule: 'always', min_gap_s: 7200 }), entries: [entry()] }, 'gap', 'valid again at 20:00', HOUR_MS],
  ['at most one', { ...reentry({ max: 1 }), entries: [ago(3 * HOUR_MS), ago(2 * HOUR_MS), exit(), exit()] }, 'max_entries', '2 of 2 entries used'],
  ['at most none', { ...reentry({ max: 0 }), entries: [entry(), exit()] }, 'already_redeemed', 'already used at 18:00, gate south-01'],
  [
    'until',
    { ...reentry({ until: '2027-05-01T16:30:00.000Z' }), entries: [entry(), exit()] },
    'already_redeemed',
    'already used at 18:00, gate south-01; re-entry ended at 18:30',
  ],
]);
grants('re-entry', [
  ['after an exit', { ...reentry({}), entries: [entry(), exit()] }, { lastEntryMs: NOW_MS - HOUR_MS }],
  ['always, while inside', { ...reentry({ rule: 'always' }), entries: [entry()] }, {}],
  ['gap over', { ...reentry({ rule: 'always', min_gap_s: 3600 }), entries: [entry()] }, {}],
  ['one of one', { ...reentry({ max: 1 }), entries: [entry(), exit()] }, {}],
  ['before until', { ...reentry({ until: '2027-05-01T17:00:00.000Z' }), entries: [entry(), exit()] }, {}],
  [
    'an exit before the entry says nothing',
    { ...reentry({}), ticket: { units: 2 }, entries: [exit({ atMs: NOW_MS - 2 * HOUR_MS }), entry()] },
    { type: 'first_entry', units: 1 },
  ],
]);

refuses('duplicate window', [
  ['may re-enter, but not so soon', { ...reentry({ rule: 'always' }), entries: [ago(4_500)] }, 'gap', 'scanned 4 s ago', 5_500],
  ['could not enter again anyway', { entries: [ago(4_000)] }, 'already_redeemed', 'already used at 18:59, gate south-01'],
  ['inside: says so', { ...reentry({}), entries: [ago(4_000)] }, 'already_inside', 'already inside since 18:59, gate south-01'],
  ["another gate's clock is a little ahead", { ...reentry({ rule: 'always' }), entries: [ago(-2_000)] }, 'gap', 'scanned 0 s ago', 12_000],
  [
    'judged without a trusted clock',
    { ...reentry({ rule: 'always', min_gap_s: 600 }), place: { clockTrusted: false }, entries: [ago(4_000)] },
    'gap',
    'scanned 4 s ago',
    6_000,
  ],
]);
grants('duplicate window', [
  ['over', { ...reentry({ rule: 'always' }), entries: [ago(10_000)] }, {}],
  ['none', { policy: { duplicate_window_s: 0, reentry: { rule: 'always' } }, entries: [ago(0)] }, {}],
  ['an entry from a clock that cannot be right', { ...reentry({ rule: 'always' }), entries: [ago(-DAY_MS)] }, {}],
]);

const passback = (given: NonNullable<Given['policy']>['passback'], more: Partial<Given> = {}): Given => ({
  policy: { reentry: { rule: 'always' }, passback: given },
  entries: [entry()],
  ...more,
});
refuses('anti-passback', [
  ['hard', passback({ mode: 'hard' }), 'passback', 'no exit was recorded since the entry at 18:00, gate south-01'],
  [
    'timed, not yet forgotten',
    passback({ mode: 'hard', forget_after_s: 5400 }),
    'passback',
    'no exit was recorded since the entry at 18:00, gate south-01',
    30 * MINUTE_MS,
  ],
]);
grants('anti-passback', [
  ['soft', passback({ mode: 'soft' }), { flags: ['passback_soft'] }],
  ['timed, forgotten', passback({ mode: 'hard', forget_after_s: 3600 }), {}],
  ['seen to leave', passback({ mode: 'hard' }, { entries: [entry(), exit()] }), {}],
  ['off', passback({ mode: 'off' }), {}],
]);

const party = (entries: Given['entries'], policy: Given['policy'] = {}): Given => ({ ticket: { units: 4 }, entries: entries ?? [], policy });
grants('parties', [
  ['the rest come later, at once', party([entry({ units: 3, atMs: NOW_MS - 1_000 })]), { type: 'first_entry', units: 1, lastEntryMs: NOW_MS - 1_000 }],
  ['the rest come one by one', party([entry({ units: 1 }), entry({ units: 1, atMs: NOW_MS - MINUTE_MS })]), { type: 'first_entry', units: 2 }],
  ['those who left come back', party([entry({ units: 4 }), exit({ units: 3 })], { reentry: { rule: 'after_exit' } }), { units: 3 }],
  ['under hard passback as well', party([entry({ units: 4 }), exit({ units: 1 })], { reentry: { rule: 'always' }, passback: { mode: 'hard' } }), { units: 1 }],
  ['a second visit of the whole party', { ...party([ago(DAY_MS)].map((first) => ({ ...first, units: 4 }))), ticket: { units: 4, maxScans: 2 } }, { units: 4 }],
]);
refuses('parties', [
  ['all came', party([entry({ units: 3 }), entry({ units: 1 })]), 'already_redeemed', 'already used at 18:00, gate south-01'],
  [
    'once anyone left, the rest are no longer on their way',
    party([entry({ units: 3 }), exit({ units: 1 })]),
    'already_redeemed',
    'already used at 18:00, gate south-01',
  ],
  ['all are inside', party([entry({ units: 4 })], { reentry: { rule: 'after_exit' } }), 'already_inside', 'already inside since 18:00, gate south-01'],
]);

test('the order in which entries are listed does not matter', () => {
  const entries = [ago(3 * HOUR_MS), exit({ atMs: NOW_MS - 2 * HOUR_MS }), ago(HOUR_MS)];
  const policy = { reentry: { rule: 'after_exit' } } as const;
  expect(judged({ entries: entries.toReversed(), policy })).toEqual(judged({ entries, policy }));
});
