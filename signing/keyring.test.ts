/** Which keys may sign lists and overlays, and until when (FAULTS M3): the gate believes nothing else. */
import { generateKeyPairSync, sign } from 'node:crypto';
import { expect, test } from 'vitest';
import { signedText } from '../contract/hash-chain.ts';
import type { PublicKey } from '../contract/manifest.ts';
import { createKeyring } from './keyring.ts';

const { publicKey, privateKey } = generateKeyPairSync('ed25519');
const spki = publicKey.export({ format: 'der', type: 'spki' }).toString('base64');
const END_MS = Date.parse('2027-05-01T00:00:00.000Z');
const key = (change: Partial<PublicKey> = {}): PublicKey => ({ key_id: 'k1', use: 'manifest', alg: 'Ed25519', spki, not_after: null, ...change });
const payload = { schema: 1, event_id: 'EV1', key_id: 'k1' };
const signed = { ...payload, signature: sign(null, Buffer.from(signedText(payload)), privateKey).toString('base64') };

test.each([
  ['without an end', null, END_MS, 'ok'],
  ['in its last millisecond', END_MS, END_MS, 'ok'],
  ['a millisecond after its end', END_MS, END_MS + 1, 'unknown_key'],
  ['after its end, by a clock that is not trusted', END_MS, null, 'ok'],
] as const)('M3: a key %s', (_about, endsMs, nowMs, verdict) => {
  const one = key({ not_after: endsMs === null ? null : new Date(endsMs).toISOString() });
  expect(createKeyring([one]).verifyPayload(signed, [], nowMs)).toBe(verdict);
  expect(createKeyring([]).verifyPayload(signed, [one], nowMs)).toBe(verdict);
});

test('a list is accepted only from a key for lists, under its own id, and unchanged', () => {
  for (const use of ['code', 'pretix'] as const) expect(createKeyring([key({ use })]).verifyPayload(signed, [key({ use })], null)).toBe('unknown_key');
  expect(createKeyring([key({ key_id: 'k2' })]).verifyPayload(signed, [], null)).toBe('unknown_key');
  expect(createKeyring([key()]).verifyPayload({ ...signed, event_id: 'EV2' }, [], null)).toBe('signature');
  expect(createKeyring([key()]).verifyPayload(payload, [], null)).toBe('signature');
});
