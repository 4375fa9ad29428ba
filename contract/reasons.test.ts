import fc from 'fast-check';
import { expect, test } from 'vitest';
import { explain, LANGUAGES, REASON_TEXTS, REASONS } from './reasons.ts';

const slots = (text: string): string[] => [...text.matchAll(/\{([^{}]*)\}/g)].map(([, name]) => name as string).sort();

test('the reasons are those of the public contract, in its order', () => {
  expect(REASONS.join(', ')).toBe(
    'invalid, unreadable, unpaid, blocked, invalid_time, canceled, already_redeemed, already_inside, product, zone, rules, ambiguous, revoked, unapproved, gap, max_entries, passback, capacity, gate_locked, see_staff, busy, manifest_stale, usage_lost, clock_untrusted, error',
  );
});

test.each(LANGUAGES)('%s has every reason, with texts that name the same facts in the same order as English', (language) => {
  expect(Object.keys(REASON_TEXTS[language]).sort()).toEqual([...REASONS].sort());
  for (const reason of REASONS) {
    const [own, english] = [REASON_TEXTS[language][reason], REASON_TEXTS.en[reason]];
    expect(own.short.length, reason).toBeGreaterThan(0);
    expect(slots(own.short), reason).toEqual([]);
    expect(own.long.map(slots), reason).toEqual(english.long.map(slots));
    for (const text of own.long) for (const name of slots(text)) expect(name, reason).toMatch(/^[a-z_]+$/);
  }
});

test('other languages are translated, not copied', () => {
  for (const language of LANGUAGES.filter((name) => name !== 'en')) {
    for (const reason of REASONS) expect(REASON_TEXTS[language][reason].short, reason).not.toBe(REASON_TEXTS.en[reason].short);
  }
});

test.each([
  ['the short text without facts', {}, 'already used'],
  ['what is known is told', { used_at: '18:02' }, 'already used at 18:02'],
  ['the text that tells most', { used_at: '18:02', used_gate: 'north-03' }, 'already used at 18:02, gate north-03'],
  ['a fact without its companion is left out', { used_gate: 'north-03' }, 'already used'],
  ['facts of other reasons do no harm', { used_at: '18:02', constructor: 'x' }, 'already used at 18:02'],
  ['a fact is no template', { used_at: '{used_gate} $& $1' }, 'already used at {used_gate} $& $1'],
])('explained: %s', (_, facts, text) => {
  expect(explain('already_redeemed', facts)).toBe(text);
});
test('reasons have German texts', () => {
  expect(explain('already_inside', { inside_since: '18:02', inside_gate: 'north-03' }, 'de')).toBe('drinnen seit 18:02, Eingang north-03');
});

test('always a text without holes', () => {
  const names = [...new Set(REASONS.flatMap((reason) => REASON_TEXTS.en[reason].long.flatMap(slots)))];
  const facts = fc.dictionary(fc.constantFrom(...names, 'other'), fc.oneof(fc.stringMatching(/^[a-z0-9: ]{1,20}$/), fc.integer()));
  fc.assert(
    fc.property(fc.constantFrom(...REASONS), fc.constantFrom(...LANGUAGES), facts, (reason, language, given) => {
      const text = explain(reason, given, language);
      expect(text).not.toMatch(/[{}]|undefined/);
      expect(text.length).toBeGreaterThan(0);
    }),
  );
});
