import fc from 'fast-check';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { MAX_PAYLOAD_BYTES } from './limits.ts';
import { StateMessage } from './messages.ts';
import { parsePayload } from './parse.ts';

const RUNS = process.env['STILE_PROVE'] === undefined ? 500 : 20_000;
const bytes = (text: string) => new TextEncoder().encode(text);
const GOOD = { schema: 1, state: 'online', session: 's', since: '2027-05-01T16:00:00.000Z', reason: '' };
const SECRET = 'Q7MFTXPC3ZK2Y5RWB4HJN6DVEA';

test('a good message is read, what it knows besides is kept', () => {
  expect(parsePayload(StateMessage, bytes(JSON.stringify({ ...GOOD, mood: 'fine' })))).toEqual({ ok: true, value: { ...GOOD, mood: 'fine' } });
});

test.each<[string, Uint8Array, string, RegExp]>([
  ['one byte too large', new Uint8Array(MAX_PAYLOAD_BYTES + 1).fill(0x20), 'oversized', /262145 bytes, at most 262144/],
  ['no UTF-8', Uint8Array.of(0x22, 0xff, 0x22), 'not_utf8', /not UTF-8/],
  ['empty', bytes(''), 'not_json', /not JSON/],
  ['half a message', bytes(`{"schema":1,"code":"${SECRET}`), 'not_json', /not JSON/],
  ['a plain code', bytes(SECRET), 'not_json', /not JSON/],
  ['nested by brackets', bytes('['.repeat(33)), 'malformed', /deeper than 32/],
  ['nested a hundred thousand deep', bytes('{"a":'.repeat(50_000)), 'malformed', /deeper than 32/],
  ['another version', bytes('{"schema":2}'), 'wrong_version', /schema 2, this side speaks 1/],
  ['a version that is half', bytes('{"schema":1.5}'), 'wrong_version', /1\.5/],
  ['no version', bytes('{}'), 'malformed', /^schema: /],
  ['a version in quotes', bytes('{"schema":"1"}'), 'malformed', /^schema: /],
  ['null', bytes('null'), 'malformed', /^\(whole\): /],
  ['a list', bytes('[]'), 'malformed', /^\(whole\): /],
  ['U+0000', bytes(JSON.stringify({ ...GOOD, extra: ['a\0'] })), 'malformed', /U\+0000/],
  ['U+0000 in a key', bytes(JSON.stringify({ ...GOOD, 'a\0': 1 })), 'malformed', /U\+0000/],
  ['half a surrogate pair', bytes('{"schema":1,"reason":"\\ud800"}'), 'malformed', /surrogate/],
  ['a number beyond a double', bytes('{"schema":1,"extra":{"n":1e999}}'), 'malformed', /too large/],
])('refused: %s', (_, payload, error, message) => {
  const parsed = parsePayload(StateMessage, payload);
  expect(parsed).toMatchObject({ ok: false, error, message: expect.stringMatching(message) });
  expect(JSON.stringify(parsed)).not.toContain(SECRET);
});

test("brackets within texts are not depth, and a bound of one's own is kept", () => {
  const deep = JSON.stringify({ ...GOOD, reason: '[{"'.repeat(60) });
  expect(parsePayload(StateMessage, bytes(deep))).toMatchObject({ ok: true });
  expect(parsePayload(StateMessage, bytes(deep), 100)).toMatchObject({ ok: false, error: 'oversized' });
});

test('the message repeats no value of the payload', () => {
  fc.assert(
    fc.property(
      fc.constantFrom('state', 'session', 'since', 'reason', 'schema'),
      fc.constantFrom(SECRET, [SECRET], { [SECRET]: SECRET }, 17_171_717),
      (key, value) => {
        const parsed = parsePayload(StateMessage, bytes(JSON.stringify({ ...GOOD, [key]: value })));
        if (!parsed.ok && key !== 'schema') expect(parsed.message).not.toMatch(/Q7MF|1717/);
      },
    ),
  );
});

test('parsing never throws, and its message stays short', () => {
  const long = fc.string({ minLength: 1_000, maxLength: 2_000 }).map((key) => bytes(JSON.stringify({ schema: 1, [key]: { [key]: 1 } })));
  const schema = z.looseObject({ schema: z.literal(1) }).catchall(z.record(z.string(), z.string()));
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.json().map(bytes), long), (payload) => {
      const parsed = parsePayload(schema, payload);
      if (!parsed.ok) expect(parsed.message.length).toBeLessThanOrEqual(300);
    }),
    { numRuns: RUNS },
  );
});

test('depth is that of the value, whatever its texts and keys say', () => {
  const text = fc.array(fc.constantFrom('"', '\\', '[', ']', '{', '}', '\\"', '\\\\', ',', 'é', '\u0001'), { maxLength: 6 }).map((parts) => parts.join(''));
  fc.assert(
    fc.property(fc.array(fc.oneof(text, fc.constant(null)), { minLength: 25, maxLength: 40 }), text, (levels, leaf) => {
      let value: unknown = leaf;
      // null: a list; a text: an object with that key, and with itself as a text beside.
      for (const level of levels) value = level === null ? [leaf, value, leaf] : { [`${level}.`]: level, [level]: value };
      const parsed = parsePayload(z.unknown(), bytes(JSON.stringify(value)));
      expect(parsed).toMatchObject(levels.length <= 32 ? { ok: true } : { ok: false, error: 'malformed' });
    }),
    { numRuns: 300 },
  );
});
