import { expect, test } from 'vitest';
import { type Candidate, chooseEvent } from './choose.ts';
import { effectivePolicy } from './policy.ts';
import { DAY_MS, EVENT, entry, type Given, HOUR_MS, MINUTE_MS, NOW_MS, PLACE, TICKET } from './testing/facts.ts';

/** One code in an event: an ordinary one that began an hour ago, but for what is given. */
const known = (eventId: string, given: Given = {}): Candidate => ({
  facts: {
    kind: 'ticket',
    ticket: { ...TICKET, eventId, ...given.ticket },
    medium: 'opaque',
    entries: given.entries ?? [],
    event: { ...EVENT, eventId, ...given.event },
  },
  policy: effectivePolicy({ event: given.policy ?? {} }, 'standard', PLACE.gate),
});
const begun = (agoMs: number, given: Given = {}): Given => ({ ...given, event: { startsAtMs: NOW_MS - agoMs, endsAtMs: NOW_MS - agoMs + 3 * HOUR_MS } });
const used = [entry()];

test.each<[string, Candidate[], string, boolean]>([
  ['one alone', [known('a', begun(DAY_MS))], 'a', false],
  ['one is over', [known('a', begun(6 * HOUR_MS)), known('b')], 'b', false],
  ['one was last week and has no end', [known('a', { event: { startsAtMs: NOW_MS - 7 * DAY_MS, endsAtMs: null } }), known('b', begun(-HOUR_MS))], 'b', false],
  ['one is a week away', [known('a', begun(-7 * DAY_MS)), known('b')], 'b', false],
  ['both are open: the one that began last', [known('a', begun(2 * HOUR_MS)), known('b', begun(HOUR_MS)), known('c', begun(-HOUR_MS))], 'b', true],
  ['both are open, none has begun: the nearest', [known('a', begun(-3 * HOUR_MS)), known('b', begun(-HOUR_MS))], 'b', true],
  ['at the same time: the lower id', [known('b'), known('a')], 'a', true],
  ['one without a beginning is the last choice', [known('a', { event: { startsAtMs: null, endsAtMs: null } }), known('b', begun(-3 * HOUR_MS))], 'b', true],
  ['used in one: the other', [known('a', { entries: used }), known('b', begun(2 * HOUR_MS))], 'b', false],
  ['blocked in one: the other', [known('a', { ticket: { status: 'blocked' } }), known('b', begun(2 * HOUR_MS))], 'b', false],
  ['open and used goes before over: the reason is of tonight', [known('a', begun(6 * HOUR_MS)), known('b', { entries: used })], 'b', false],
  ['none is open: the one that began last', [known('a', begun(-7 * DAY_MS)), known('b', begun(DAY_MS))], 'b', false],
])('K7: %s', (_, candidates, eventId, several) => {
  for (const list of [candidates, candidates.toReversed()]) {
    const chosen = chooseEvent(list, PLACE) as Candidate;
    expect([chosen.facts.event.eventId, chosen.facts.chosenOfSeveral === true]).toEqual([eventId, several]);
  }
});

test('K7: a policy refuses to choose where several would admit, and only there', () => {
  const strict: Given = { policy: { ambiguous: 'refuse' } };
  expect(chooseEvent([known('a', strict), known('b')], PLACE)).toBe('ambiguous');
  expect(chooseEvent([known('a', strict), known('b', begun(6 * HOUR_MS))], PLACE)).toMatchObject({ facts: { event: { eventId: 'a' } } });
  expect(chooseEvent([], PLACE)).toBeNull();
});

test('K7: who is inside on one of them goes out on that one; without a trusted clock nothing is held for closed', () => {
  const inside = known('a', { ...begun(6 * HOUR_MS), entries: used });
  expect(chooseEvent([known('b'), inside], { ...PLACE, direction: 'out' })).toMatchObject({ facts: { event: { eventId: 'a' } } });
  const blind = { ...PLACE, clockTrusted: false };
  expect(chooseEvent([known('a', begun(6 * HOUR_MS)), known('b', begun(-20 * MINUTE_MS))], blind)).toMatchObject({
    facts: { event: { eventId: 'a' }, chosenOfSeveral: true },
  });
});
