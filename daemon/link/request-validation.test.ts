import fc from 'fast-check';
import { expect, test } from 'vitest';
import { commandOfTopic, validateRequest } from './request-validation.ts';

const NOW = Date.parse('2026-06-01T20:00:00.000Z');
const iso = (ms: number) => new Date(ms).toISOString();
const envelope = (over: object = {}) => ({
  schema: 1,
  transaction: 'abcdefgh-1',
  actor: 'op-7',
  reason: 'child lost',
  issued_at: iso(NOW - 100),
  expires_at: iso(NOW + 4_900),
  args: {},
  ...over,
});
const judge = (over: { command?: string; body?: unknown; retained?: boolean; nowMs?: number | null; nonce?: string | null } = {}) =>
  validateRequest({
    command: over.command ?? 'open',
    payload: Buffer.from(typeof over.body === 'string' ? over.body : JSON.stringify(over.body ?? envelope())),
    retained: over.retained ?? false,
    nowMs: over.nowMs === undefined ? NOW : over.nowMs,
    nonce: over.nonce ?? null,
  });

test('knows its own requests and those of its site by the topic', () => {
  expect(commandOfTopic('stile/1/arena/north-03/request/open', 'arena/north-03')).toBe('open');
  expect(commandOfTopic('stile/1/arena/_all/request/mode', 'arena/north-03')).toBe('mode');
  expect(commandOfTopic('stile/1/arena/north-03/request/self-destruct', 'arena/north-03')).toBe('self-destruct');
  for (const topic of [
    'stile/1/arena/north-04/request/open',
    'stile/1/stadium/_all/request/open',
    'stile/1/arena/north-03/request/open/x',
    'stile/1/arena/north-03/request/',
    'stile/1/arena/north-03/response/open',
  ])
    expect(commandOfTopic(topic, 'arena/north-03'), topic).toBeNull();
});

test('validateRequest accepts a complete request in time and applies defaults', () => {
  expect(judge()).toMatchObject({ accept: true, command: 'open', expiresAtMs: NOW + 4_900, request: { args: { direction: 'in', units: 1 } } });
  expect(judge({ command: 'mode', body: envelope({ args: { mode: 'locked' } }) })).toMatchObject({ accept: true, command: 'mode' });
});

test('validateRequest refuses each kind of bad request with its own code', () => {
  const refused = (judgement: ReturnType<typeof judge>) => (judgement.accept ? 'accepted' : judgement.code);
  expect(refused(judge({ retained: true }))).toBe('retained');
  expect(refused(judge({ command: 'explode' }))).toBe('unknown_command');
  expect(refused(judge({ body: 'no json' }))).toBe('malformed');
  expect(refused(judge({ body: envelope({ actor: undefined }) }))).toBe('malformed');
  expect(refused(judge({ body: envelope({ args: { direction: 'up' } }) }))).toBe('malformed');
  expect(refused(judge({ body: envelope({ args: { units: 1, extra: 1 } }) }))).toBe('malformed');
  expect(refused(judge({ body: envelope({ schema: 2 }) }))).toBe('malformed');
  expect(refused(judge({ body: envelope({ issued_at: iso(NOW + 60_000), expires_at: iso(NOW + 61_000) }) }))).toBe('malformed');
  expect(refused(judge({ command: 'mode', body: envelope({ args: { mode: 'emergency' } }) }))).toBe('malformed');
  expect(refused(judge({ nowMs: null }))).toBe('clock_untrusted');
  expect(refused(judge({ nowMs: NOW + 4_900 }))).toBe('late');
  expect(refused(judge({ body: '['.repeat(300_000) }))).toBe('malformed');
});

test('validateRequest returns the transaction when it is readable', () => {
  expect(judge({ body: envelope({ args: 5 }) })).toMatchObject({ accept: false, transaction: 'abcdefgh-1' });
  expect(judge({ body: envelope({ transaction: 'x' }) })).toMatchObject({ accept: false, transaction: null });
});

test('validateRequest limits the life of a request by its command', () => {
  const eternal = envelope({ expires_at: '9999-12-31T23:59:59.999Z' });
  expect(judge({ body: eternal })).toMatchObject({ accept: true, expiresAtMs: NOW - 100 + 5_000 });
  expect(judge({ body: eternal, nowMs: NOW + 5_000 })).toMatchObject({ accept: false, code: 'late' });
});

test('is total: any bytes are judged, none are accepted by chance', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.string(), fc.boolean(), (payload, command, retained) => {
      expect(validateRequest({ command, payload, retained, nowMs: NOW }).accept).toBe(false);
    }),
  );
});

const NONCE = 'b1b2b3b4-0000-4000-8000-000000000001';
test.each([
  ['evacuate', {}, true],
  ['stop-entry', {}, true],
  ['resume-entry', {}, true],
  ['open', { direction: 'in', units: 1 }, true],
  ['reset-emergency', {}, true],
  ['mode', { mode: 'free' }, true],
  ['mode', { mode: 'locked' }, false],
  ['restart', {}, false],
  ['resend', {}, false],
])('without a trusted clock %s %j is taken by its nonce: %s', (command, args, taken) => {
  const body = envelope({ args, nonce: NONCE });
  expect(judge({ command, body, nowMs: null, nonce: NONCE }).accept).toBe(taken);
  expect(judge({ command, body, nowMs: null, nonce: NONCE, retained: true }).accept).toBe(false);
  expect(judge({ command, body, nowMs: null, nonce: 'b1b2b3b4-0000-4000-8000-000000000002' }).accept).toBe(false);
  expect(judge({ command, body: envelope({ args }), nowMs: null, nonce: NONCE }).accept).toBe(false);
  expect(judge({ command, body, nowMs: null, nonce: null }).accept).toBe(false);
});
