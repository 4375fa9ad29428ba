import { expect, test } from 'vitest';
import { DAY_MS, entry, exit, type Given, HOUR_MS, judged, MINUTE_MS, NOW_MS } from './testing/facts.ts';
import { type RuleNode, ruleProblem } from './venue-rule.ts';

const products = (...ids: string[]): RuleNode => ({
  inList: [{ var: 'product' }, { objectList: ids.map((id) => ({ lookup: ['product', id, `Product ${id}`] })) }],
});
const custom = (text: string) => ({ buildTime: ['custom', text] });
const clock = (text: string) => ({ buildTime: ['customtime', text] });
/** Everyone may re-enter, so that the rule alone decides. */
const rule = (rules: RuleNode, more: Given = {}): Given => ({ ...more, policy: { reentry: { rule: 'always' }, duplicate_window_s: 0, ...more.policy, rules } });
const ago = (ms: number) => entry({ atMs: NOW_MS - ms });

const PASSES: readonly (readonly [string, Given])[] = [
  ['true', rule(true)],
  ['product in list', rule(products('vip', 'standard'))],
  ['product of a tier with a variation', rule(products('12'), { ticket: { tier: '12:34' } })],
  ['ids that are numbers', rule({ inList: [{ var: 'product' }, { objectList: [{ lookup: ['product', 12, 'x'] }] }] }, { ticket: { tier: '12' } })],
  ['variation in list', rule({ inList: [{ var: 'variation' }, { objectList: [{ lookup: ['variation', '34', ''] }] }] }, { ticket: { tier: '12:34' } })],
  ['gate by its full name', rule({ inList: [{ var: ['gate'] }, { objectList: [{ lookup: ['gate', 'arena/north-03', ''] }] }] })],
  ['gate by its short name', rule({ inList: [{ var: 'gate' }, { objectList: [{ lookup: ['gate', 'north-03', ''] }] }] })],
  ['weekday', rule({ '==': [{ var: 'now_isoweekday' }, 6] })],
  ['before a time', rule({ isBefore: [{ var: 'now' }, custom('2027-05-01T19:00:00.001+02:00')] })],
  ['before, by tolerance', rule({ isBefore: [{ var: 'now' }, custom('2027-05-01T16:51:00Z'), 10] })],
  ['after, by tolerance', rule({ isAfter: [{ var: 'now' }, custom('2027-05-01T17:09:00Z'), 10] })],
  ['after a clock time today', rule({ isAfter: [{ var: 'now' }, clock('18:59:59')] })],
  ["a time without an offset is the venue's", rule({ isAfter: [{ var: 'now' }, custom('2027-05-01T18:59:00')] })],
  ['after the beginning', rule({ isAfter: [{ var: 'now' }, { buildTime: ['date_from'] }] })],
  ['before the end', rule({ isBefore: [{ var: 'now' }, { buildTime: ['date_to'] }, null] })],
  ['the end falls back to the beginning', rule({ isAfter: [{ var: 'now' }, { buildTime: ['date_to'] }] }, { event: { endsAtMs: null } })],
  ['admission falls back to the beginning', rule({ isAfter: [{ var: 'now' }, { buildTime: ['date_admission'] }] })],
  [
    'admission as the policy says',
    rule({ isBefore: [{ var: 'now' }, { buildTime: ['date_admission'] }, 31] }, { policy: { admission: { from: '2027-05-01T16:30:00.000Z' } } }),
  ],
  ['entries so far', rule({ '<': [{ var: 'entries_number' }, 3] }, { entries: [ago(DAY_MS), ago(HOUR_MS)] })],
  ['entries today', rule({ '<': [{ var: 'entries_today' }, 2] }, { entries: [ago(DAY_MS), ago(HOUR_MS)] })],
  ['days with an entry', rule({ '==': [{ var: 'entries_days' }, 2] }, { entries: [ago(DAY_MS), ago(HOUR_MS), ago(2 * HOUR_MS)] })],
  ['no entry yet: -1', rule({ and: [{ '==': [{ var: 'minutes_since_first_entry' }, -1] }, { '==': [{ var: 'minutes_since_last_entry' }, -1] }] })],
  [
    'minutes since',
    rule(
      { and: [{ '==': [{ var: 'minutes_since_first_entry' }, 90] }, { '>=': [{ var: 'minutes_since_last_entry' }, 60] }] },
      { entries: [ago(90.5 * MINUTE_MS), ago(HOUR_MS)] },
    ),
  ],
  ['absent', rule({ '==': [{ var: 'entry_status' }, 'absent'] }, { entries: [entry(), exit()] })],
  ['present', rule({ '==': [{ var: 'entry_status' }, 'present'] }, { entries: [entry()] })],
  ['entries since', rule({ '==': [{ entries_since: [clock('17:30')] }, 1] }, { entries: [ago(2 * HOUR_MS), ago(HOUR_MS)] })],
  ['entries before', rule({ '==': [{ entries_before: [clock('17:30')] }, 1] }, { entries: [ago(2 * HOUR_MS), ago(HOUR_MS)] })],
  ['days since', rule({ '==': [{ entries_days_since: [custom('2027-04-29T00:00:00')] }, 2] }, { entries: [ago(3 * DAY_MS), ago(DAY_MS), ago(HOUR_MS)] })],
  ['days before', rule({ '==': [{ entries_days_before: [clock('00:00')] }, 2] }, { entries: [ago(3 * DAY_MS), ago(DAY_MS), ago(HOUR_MS)] })],
  ['either', rule({ or: [products('vip'), { '<': [{ var: 'entries_number' }, 1] }] })],
  ['not', rule({ '!': [products('vip')] })],
  ['exit is not bound to it', rule(false, { place: { direction: 'out' }, entries: [entry()] })],
];
for (const [name, given] of PASSES) {
  test(`holds: ${name}`, () => {
    expect(ruleProblem(given.policy?.rules)).toBeNull();
    expect(judged(given)).toMatchObject({ kind: 'grant' });
  });
}

const vipUntilSix: RuleNode = {
  or: [
    { and: [products('standard'), { isAfter: [{ var: 'now' }, clock('09:00')] }, { isBefore: [{ var: 'now' }, clock('17:00')] }] },
    { and: [products('vip'), { isBefore: [{ var: 'now' }, clock('20:00')] }] },
  ],
};
const later = { event: { startsAtMs: null, endsAtMs: null } };
const FAILS: readonly (readonly [string, Given, string, number?])[] = [
  ['false', rule(false), "the venue's rule does not admit this ticket"],
  ['product', rule(products('vip')), "ticket type standard is not admitted by the venue's rule"],
  [
    'no variation',
    rule({ inList: [{ var: 'variation' }, { objectList: [{ lookup: ['variation', 'null', ''] }] }] }),
    "ticket type standard is not admitted by the venue's rule",
  ],
  [
    'gate',
    rule({ inList: [{ var: 'gate' }, { objectList: [{ lookup: ['gate', 'south-01', ''] }] }] }),
    "the venue's rule does not admit this ticket at gate north-03",
  ],
  ['not before its bound', rule({ isBefore: [{ var: 'now' }, custom('2027-05-01T17:00:00Z')] }), 'admitted before 19:00 only'],
  ['tolerance moves the bound', rule({ isBefore: [{ var: 'now' }, custom('2027-05-01T16:30:00Z'), 15] }), 'admitted before 18:45 only'],
  ['not yet', rule({ isAfter: [{ var: 'now' }, custom('2027-05-01T17:45:00Z'), 15] }), 'admitted after 19:30 only', 30 * MINUTE_MS],
  [
    'not yet, and then the event is over',
    rule({ isAfter: [{ var: 'now' }, custom('2027-05-01T17:45:00Z')] }, { event: { endsAtMs: NOW_MS - 119 * MINUTE_MS } }),
    'admitted after 19:45 only',
  ],
  ['weekday', rule({ '==': [{ var: 'now_isoweekday' }, 1] }, later), 'valid again at 2027-05-03 00:00', 29 * HOUR_MS],
  [
    'clock time, again tomorrow',
    rule({ and: [{ isAfter: [{ var: 'now' }, clock('09:00')] }, { isBefore: [{ var: 'now' }, clock('17:00')] }] }, later),
    'admitted before 17:00 only',
    14 * HOUR_MS,
  ],
  ['entries', rule({ '<': [{ var: 'entries_number' }, 2] }, { entries: [ago(DAY_MS), ago(HOUR_MS)] }), "2 of 2 entries of the venue's rule used"],
  ['entries at most', rule({ '<=': [{ var: 'entries_number' }, 1] }, { entries: [ago(DAY_MS), ago(HOUR_MS)] }), "2 of 2 entries of the venue's rule used"],
  ['entries today', rule({ '<': [{ var: 'entries_today' }, 1] }, { ...later, entries: [ago(HOUR_MS)] }), '1 of 1 entries a day used', 5 * HOUR_MS],
  ['days', rule({ '<': [{ var: 'entries_days' }, 1] }, { entries: [ago(HOUR_MS)] }), '1 of 1 days used'],
  [
    'minutes since the last entry',
    rule({ '>': [{ var: 'minutes_since_last_entry' }, 90] }, { entries: [ago(HOUR_MS)] }),
    'valid again at 19:31',
    31 * MINUTE_MS,
  ],
  ['status', rule({ '==': [{ var: 'entry_status' }, 'absent'] }, { entries: [entry()] }), "the venue's rule does not admit this ticket while it is present"],
  // The product can be changed least, so the time is named; of the two ends the one that this ticket's own way has.
  ['the nearest miss', rule(vipUntilSix, later), 'admitted before 17:00 only', 14 * HOUR_MS],
  ['binds VIPs as well', rule(products('x'), { ticket: { vip: true } }), "ticket type standard is not admitted by the venue's rule"],
];
for (const [name, given, explanation, againInMs] of FAILS) {
  test(`fails: ${name}`, () => {
    expect(ruleProblem(given.policy?.rules)).toBeNull();
    expect(judged(given)).toMatchObject({ kind: 'refusal', reason: 'rules', explanation, validAgainAtMs: againInMs === undefined ? null : NOW_MS + againInMs });
  });
}

test('a rule judges only what does not depend on the time when the clock is not trusted', () => {
  const untrusted = { place: { clockTrusted: false } };
  expect(judged(rule({ and: [products('standard'), { isAfter: [{ var: 'now' }, clock('23:00')] }] }, untrusted))).toMatchObject({ flags: ['clock_untrusted'] });
  expect(judged(rule({ and: [products('vip'), { isAfter: [{ var: 'now' }, clock('10:00')] }] }, untrusted))).toMatchObject({ reason: 'rules' });
  expect(judged(rule({ '!': [{ isBefore: [{ var: 'now' }, clock('23:00')] }] }, untrusted))).toMatchObject({ kind: 'grant' });
});

test.each<[string, RuleNode, Given]>([
  ['a list that is none', { inList: [{ var: 'product' }, 'x'] }, {}],
  ['a time that is none', { isBefore: [{ var: 'now' }, 'x'] }, {}],
  ['the event has no such time', { isBefore: [{ var: 'now' }, { buildTime: ['date_from'] }] }, { event: { startsAtMs: null } }],
  ['a tolerance that is none', { isBefore: [{ var: 'now' }, clock('10:00'), 'x'] }, {}],
])('a rule that throws refuses with error: %s', (_, node, given) => {
  expect(judged(rule(node, given))).toMatchObject({ kind: 'refusal', reason: 'error' });
});

test('a part that was not needed and throws costs only the explanation', () => {
  const node: RuleNode = { and: [products('vip'), { isBefore: [{ var: 'now' }, 'x'] }] };
  expect(judged(rule(node))).toMatchObject({ reason: 'rules', explanation: "the venue's rule does not admit this ticket" });
});

const nested = (depth: number): RuleNode => (depth === 0 ? true : { '!': [nested(depth - 1)] });
test.each<[string, unknown, string]>([
  ['an operator of the library that is not offered', { log: 'x' }, 'unknown operator "log"'],
  ['a method', { method: [{ var: 'now' }, 'toString'] }, 'unknown operator "method"'],
  ['a prototype', JSON.parse('{"__proto__": [1]}'), 'unknown operator "__proto__"'],
  ['a constructor', { constructor: [1] }, 'unknown operator "constructor"'],
  ['another variable', { '==': [{ var: 'ask.ticket.ticketRef' }, 1] }, 'unknown variable "ask.ticket.ticketRef"'],
  ['the whole data', { '==': [{ var: '' }, 1] }, 'unknown variable ""'],
  ['a variable that is computed', { '==': [{ var: { var: 'now' } }, 1] }, 'unknown variable'],
  ['two operators', { and: [true], or: [true] }, 'exactly one key'],
  ['no operator', {}, 'exactly one key'],
  ['too many arguments', { '==': [1, 2, 3] }, '== takes 2 arguments'],
  ['too few arguments', { inList: [{ var: 'product' }] }, 'inList takes 2 arguments'],
  ['too deep', nested(20), 'nested deeper than 16'],
  ['too large', { objectList: Array.from({ length: 500 }, () => [1, 2, 3, 4]) }, 'more than 2000 parts'],
  ['a text', 'yes', 'a rule is an operation or true or false'],
  ['null', null, 'a rule is an operation or true or false'],
  ['a number that is not finite', { '==': [Number.NaN, 1] }, 'not finite'],
  ['a function', { '==': [() => 1, 1] }, 'not JSON'],
  ['a clock time that is none', { isBefore: [{ var: 'now' }, clock('25:00')] }, 'customtime takes a clock time'],
  ['a date that is none', { isBefore: [{ var: 'now' }, custom('2027-02-30T10:00:00')] }, 'custom takes a date and time'],
  ['a time of another kind', { isBefore: [{ var: 'now' }, { buildTime: ['tomorrow'] }] }, 'buildTime is of'],
  ['a lookup of another kind', { inList: [{ var: 'product' }, { objectList: [{ lookup: ['user', '1', ''] }] }] }, 'lookup is of'],
])('not a rule: %s', (_, node, problem) => {
  expect(ruleProblem(node)).toContain(problem);
});
test('depth is bounded before it can hurt', () => {
  let deep: unknown = true;
  for (let i = 0; i < 100_000; i++) deep = [deep];
  expect(ruleProblem({ and: deep })).toContain('deeper');
});
