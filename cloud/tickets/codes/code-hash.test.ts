import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { readTicketFields } from '../ticket-fields.ts';
import { codeBits, MIN_CODE_BITS, sharedPrefixChars, ticketRef } from './code-hash.ts';

test('a ref is the first 16 bytes of SHA-256 over salt and code', () => {
  const salt = randomBytes(32);
  expect(ticketRef(salt, 'Grüße').toString('hex')).toBe(
    createHash('sha256')
      .update(Buffer.concat([salt, Buffer.from('Grüße')]))
      .digest('hex')
      .slice(0, 32),
  );
});

test.each([
  ['16 random bytes in base64url', randomBytes(16).toString('base64url'), true],
  ['24 hex digits', randomBytes(12).toString('hex').padEnd(24, 'a'), true],
  ['a random UUID', randomUUID(), true],
  ['a UUID of time', '019a3b2c-1111-7abc-9abc-0123456789ab', false],
  ['a UUID of a machine', '6ba7b810-9dad-11d1-80b4-00c04fd430c8', false],
  ['20 digits', '12345678901234567890', false],
  ['a long pattern', 'ABABABABABABABABABABABABABABAB', false],
  ['10 letters', 'KJHGFDSAQW', false],
])('%s: strong enough is %s', (_name, code, strong) => {
  expect(codeBits(code) >= MIN_CODE_BITS).toBe(strong);
});

test('codes that begin alike are judged by what differs', () => {
  const codes = Array.from({ length: 50 }, (_, n) => `SUMMER-FESTIVAL-2026-GENERAL-${String(n).padStart(6, '0')}`);
  const shared = sharedPrefixChars(codes);
  expect(codes[0]?.slice(0, shared)).toBe('SUMMER-FESTIVAL-2026-GENERAL-0000');
  expect(codeBits(codes[0] as string)).toBeGreaterThan(MIN_CODE_BITS);
  expect(codeBits(codes[0] as string, shared)).toBeLessThan(MIN_CODE_BITS);
  expect(sharedPrefixChars(codes.slice(0, 5))).toBe(0);
});

test('text and JSON read the same; nothing is not the same as not given', () => {
  const asText = readTicketFields(
    { ticket_id: 'T-1', code: 'c', zone: '', max_scans: '3', vip: 'yes', valid_from: '2026-07-01 20:00+02:00', status: 'Canceled', tier: '' },
    'e',
  );
  const asJson = readTicketFields(
    { ticket_id: 'T-1', code: 'c', zone: null, max_scans: 3, vip: true, valid_from: '2026-07-01T18:00:00Z', status: 'cancelled' },
    'e',
  );
  expect(asText).toEqual(asJson);
  expect(asText).toEqual({
    ok: true,
    ticket: { ticket_id: 'T-1', code: 'c', zone: null, max_scans: 3, vip: true, valid_from: '2026-07-01T18:00:00.000Z', status: 'cancelled' },
  });
});

test('every error of a line is named, and the code never is', () => {
  const secret = 'sécret\u0007code';
  const read = readTicketFields(
    { ticket_id: 'T 1', code: secret, event_id: 'other', units: '0', status: 'gone', vip: 'perhaps', valid_from: '1.7.2026', valid_until: [1] },
    'e',
  );
  expect(read.ok).toBe(false);
  const problems = read.ok ? [] : read.problems;
  expect(problems.map(({ field }) => field).sort()).toEqual(['code', 'event_id', 'status', 'ticket_id', 'units', 'valid_from', 'valid_until', 'vip']);
  expect(JSON.stringify(problems)).not.toContain('cret');
});
