import { expect, test } from 'vitest';
import { DAY_MS, entry, type Given, HOUR_MS, judged, MINUTE_MS, NOW_MS } from './testing/facts.ts';
import { nextOpenMs, showTime } from './venue-time.ts';

const S = 1000;

test.each<[string, Given, string, number?]>([
  ['before its beginning', { ticket: { validFromMs: NOW_MS + 30 * MINUTE_MS } }, 'valid from 19:30', 30 * MINUTE_MS],
  [
    'before its beginning, on another day',
    { ticket: { validFromMs: NOW_MS + DAY_MS }, event: { endsAtMs: NOW_MS + 2 * DAY_MS } },
    'valid from 2027-05-02 19:00',
    DAY_MS,
  ],
  ['after its end', { ticket: { validUntilMs: NOW_MS - 1 } }, 'was valid until 18:59'],
  ['before the doors', { event: { startsAtMs: NOW_MS + 13 * HOUR_MS, endsAtMs: null } }, 'valid from 20:00', HOUR_MS],
  [
    'before the doors, by policy',
    { event: { startsAtMs: NOW_MS + HOUR_MS }, policy: { admission: { opens_before_start_s: 1800 } } },
    'valid from 19:30',
    30 * MINUTE_MS,
  ],
  ['after the event', { event: { startsAtMs: NOW_MS - 2 * DAY_MS, endsAtMs: NOW_MS - DAY_MS } }, 'was valid until 2027-04-30 21:00'],
  ['K6: after an event of last week that has no end', { event: { startsAtMs: NOW_MS - 7 * DAY_MS, endsAtMs: null } }, 'was valid until 2027-04-25 09:00'],
  ['K6: 14 h after the beginning of an event without an end', { event: { startsAtMs: NOW_MS - 14 * HOUR_MS - 1, endsAtMs: null } }, 'was valid until 18:59'],
  ['too long after the beginning', { policy: { admission: { closes_after_start_s: 1800 } } }, 'was valid until 18:30'],
  ['before a fixed bound', { policy: { admission: { from: '2027-05-01T17:30:00.000Z' } } }, 'valid from 19:30', 30 * MINUTE_MS],
  ['after a fixed bound', { policy: { admission: { until: '2027-05-01T16:30:00.000Z' } } }, 'was valid until 18:30'],
  [
    'the latest of several beginnings',
    { ticket: { validFromMs: NOW_MS + MINUTE_MS }, policy: { admission: { from: '2027-05-01T17:30:00.000Z' } } },
    'valid from 19:30',
    30 * MINUTE_MS,
  ],
  [
    'more than the grace before',
    { ticket: { validFromMs: NOW_MS + 30 * MINUTE_MS }, policy: { admission: { grace_before_s: 600 } } },
    'valid from 19:20',
    20 * MINUTE_MS,
  ],
  [
    'more than the grace after: its own end is named',
    { ticket: { validUntilMs: NOW_MS - 11 * MINUTE_MS }, policy: { admission: { grace_after_s: 600 } } },
    'was valid until 18:49',
  ],
  [
    'expired since the first entry',
    { entries: [entry()], policy: { reentry: { rule: 'always' }, expires_after_first_entry_s: 1800 } },
    'was valid until 18:30',
  ],
  ['a beginning after its end', { ticket: { validFromMs: NOW_MS + HOUR_MS, validUntilMs: NOW_MS + MINUTE_MS } }, 'not valid at this time'],
  ['no opening at all', { policy: { schedule: [] } }, 'not valid at this time'],
  ['closed until this evening', { policy: { schedule: [{ days: [6], from: '20:00', until: '23:00' }] } }, 'valid again at 20:00', HOUR_MS],
  ['closed until next week, after the event', { policy: { schedule: [{ days: [5], from: '20:00', until: '23:00' }] } }, 'not valid at this time'],
  [
    'closed until next week',
    { event: { endsAtMs: NOW_MS + 7 * DAY_MS }, policy: { schedule: [{ days: [5], from: '20:00', until: '23:00' }] } },
    'valid again at 2027-05-07 20:00',
    6 * DAY_MS + HOUR_MS,
  ],
  [
    "the night's opening is over",
    { event: { endsAtMs: null }, policy: { schedule: [{ days: [5, 6], from: '22:00', until: '04:00' }] } },
    'valid again at 22:00',
    3 * HOUR_MS,
  ],
])('refused: %s', (_, given, explanation, againInMs) => {
  expect(judged(given)).toMatchObject({
    kind: 'refusal',
    reason: 'invalid_time',
    explanation,
    validAgainAtMs: againInMs === undefined ? null : NOW_MS + againInMs,
  });
});

test.each<[string, Given]>([
  ['at its first moment', { ticket: { validFromMs: NOW_MS } }],
  ['at its last moment', { ticket: { validUntilMs: NOW_MS } }],
  ["at the event's last moment", { event: { endsAtMs: NOW_MS } }],
  ['two hours after the event, by default', { event: { endsAtMs: NOW_MS - 2 * HOUR_MS } }],
  ['K6: an event without an end, 14 h after its beginning', { event: { startsAtMs: NOW_MS - 14 * HOUR_MS, endsAtMs: null } }],
  [
    'an event without an end that never closes, by policy',
    { event: { startsAtMs: NOW_MS - 7 * DAY_MS, endsAtMs: null }, policy: { admission: { closes_after_end_s: null } } },
  ],
  ['an event without times', { event: { startsAtMs: null, endsAtMs: null } }],
  ['within the grace before', { ticket: { validFromMs: NOW_MS + 10 * MINUTE_MS }, policy: { admission: { grace_before_s: 600 } } }],
  ['within the grace after', { ticket: { validUntilMs: NOW_MS - 10 * MINUTE_MS }, policy: { admission: { grace_after_s: 600 } } }],
  ['not yet expired since the first entry', { entries: [entry()], policy: { reentry: { rule: 'always' }, expires_after_first_entry_s: 3600 } }],
  ['open now', { policy: { schedule: [{ days: [1, 6], from: '19:00', until: '19:01' }] } }],
  ['open since yesterday evening', { policy: { schedule: [{ days: [5], from: '20:00', until: '19:30' }] } }],
  ['open round the clock', { policy: { schedule: [{ days: [6], from: '00:00', until: '24:00' }] } }],
  ['within the grace before an opening', { policy: { schedule: [{ days: [6], from: '19:10', until: '20:00' }], admission: { grace_before_s: 600 } } }],
  ['within the grace after an opening', { policy: { schedule: [{ days: [6], from: '18:00', until: '18:50' }], admission: { grace_after_s: 601 } } }],
  ['after the event, by policy', { event: { endsAtMs: NOW_MS - HOUR_MS }, policy: { admission: { closes_after_end_s: 3600 } } }],
])('admitted: %s', (_, given) => {
  expect(judged(given)).toMatchObject({ kind: 'grant' });
});

const berlin = 'Europe/Berlin';
const at = (text: string) => Date.parse(text);
test.each([
  [
    'spring: 02:30 does not exist, the opening begins when the clocks have moved',
    '2027-03-28T00:00:00Z',
    [{ days: [7], from: '02:30', until: '05:00' }],
    '2027-03-28T01:30:00Z',
  ],
  ['spring: 05:00 is an hour sooner', '2027-03-28T02:59:59Z', [{ days: [7], from: '00:00', until: '05:00' }], '2027-03-28T02:59:59Z'],
  ['spring: and then it is over', '2027-03-28T03:00:00Z', [{ days: [7], from: '00:00', until: '05:00' }], '2027-04-03T22:00:00Z'],
  [
    'autumn: 02:30 comes twice, the opening begins the first time',
    '2027-10-30T23:00:00Z',
    [{ days: [7], from: '02:30', until: '05:00' }],
    '2027-10-31T00:30:00Z',
  ],
  ['autumn: the night is an hour longer', '2027-10-31T03:59:59Z', [{ days: [6], from: '22:00', until: '05:00' }], '2027-10-31T03:59:59Z'],
  ['autumn: until 24:00 is the local midnight', '2027-10-31T22:30:00Z', [{ days: [7], from: '00:00', until: '24:00' }], '2027-10-31T22:30:00Z'],
])('a change of clocks: %s', (_, from, schedule, open) => {
  expect(new Date(nextOpenMs(schedule, at(from), berlin, 0, 0) ?? 0).toISOString()).toBe(new Date(open).toISOString());
});

test('a time is shown to the minute, with its date when that is another one', () => {
  expect(showTime(NOW_MS + 59 * S, NOW_MS, berlin)).toBe('19:00');
  expect(showTime(NOW_MS + 1, NOW_MS, berlin, 'up')).toBe('19:01');
  expect(showTime(NOW_MS, NOW_MS, berlin, 'up')).toBe('19:00');
  expect(showTime(NOW_MS + 5 * HOUR_MS, NOW_MS, berlin)).toBe('2027-05-02 00:00');
  expect(showTime(NOW_MS + 5 * HOUR_MS, NOW_MS, 'UTC')).toBe('22:00');
  expect(showTime(Number.NaN, NOW_MS, berlin)).toBe('?');
});
