/** The table at the end of the demo says WRONG where anything is, and only there. */
import { expect, test } from 'vitest';
import { EXPECTED, expectedCounts, planDemo } from './plan.ts';
import { type Found, judge } from './result.ts';

const plan = planDemo('test', 48);
const played = plan.guests.map((guest) => ({ guest, line: null, asExpected: true }));
const wanted = expectedCounts(plan.guests);
const admitted = wanted.get('admitted') ?? 0;
const good: Found = { rows: { gates: 100, postgres: 100 }, verdicts: wanted, facts: { passed: admitted, ticketsUsed: admitted, conflicts: 0 } };
const line = (text: string, what: string) => text.split('\n').find((one) => one.includes(what)) ?? '';

test('the plan has every kind of guest, and what is as planned is right', () => {
  expect([...wanted.keys()].toSorted()).toEqual([...new Set(Object.values(EXPECTED).map((reason) => reason ?? 'admitted'))].toSorted());
  const { right, text } = judge(plan, played, good);
  expect(right).toBe(true);
  expect(text).toContain('all as expected');
  expect(text).not.toMatch(/WRONG|NOT/);
});

test.each<[string, Partial<Found>, string]>([
  ['a row that Postgres lacks', { rows: { gates: 100, postgres: 99 } }, 'ledger rows (gates, Postgres)'],
  ['a row too many', { rows: { gates: 100, postgres: 101 } }, 'ledger rows (gates, Postgres)'],
  ['an admission too many', { verdicts: new Map([...wanted, ['admitted', admitted + 1]]) }, 'admitted'],
  ['a refusal that is missing', { verdicts: new Map([...wanted].filter(([what]) => what !== 'zone')) }, 'refused: zone'],
  ['a reason nobody planned', { verdicts: new Map([...wanted, ['error', 1]]) }, 'refused: error'],
  ['a guest who did not get through', { facts: { ...good.facts, passed: admitted - 1 } }, 'guests through the turnstile'],
  ['a ticket not used', { facts: { ...good.facts, ticketsUsed: admitted - 1 } }, 'tickets used'],
  ['a conflict', { facts: { ...good.facts, conflicts: 1 } }, 'conflicts'],
])('%s is WRONG', (_name, wrong, what) => {
  const { right, text } = judge(plan, played, { ...good, ...wrong });
  expect(right).toBe(false);
  expect(line(text, what)).toMatch(/WRONG$/);
  expect(text.match(/WRONG/g)).toHaveLength(1);
  expect(text).toContain('NOT as expected');
});

test('a guest who was told something else, and one who never came, are named', () => {
  const [first, ...others] = played;
  if (first === undefined) throw new Error('no guests');
  const told = judge(plan, [{ ...first, asExpected: false }, ...others], good);
  expect([told.right, line(told.text, `guest ${first.guest.number} `)]).toEqual([false, expect.stringContaining('was told: nothing')]);
  const lost = judge(plan, others, good);
  expect([lost.right, line(lost.text, 'did not come')]).toEqual([false, expect.stringContaining('1 of 48')]);
});
