import { createPublicKey, generateKeyPairSync, type KeyObject, randomBytes, sign, verify } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PublicKey } from '../contract/manifest.ts';
import { base45Decode, base45Encode } from './base45.ts';
import { readCode, recogniseCode } from './code.ts';
import type { CodeForm, SignedForm } from './code-forms.ts';
import { checkSignature, ticketFromSignature, type VerifySignature } from './signature-check.ts';
import { encodeSigned, SIGNED_PREFIX, type SignedContent } from './stile-code.ts';

const RUNS = process.env['STILE_PROVE'] === undefined ? 500 : 20_000;
const FORGED = process.env['STILE_PROVE'] === undefined ? 2_000 : 100_000;

const CONTENT: SignedContent = {
  keyId: 'k2027',
  eventId: 'cup-final',
  ticketId: '0b7e5a1c-2d3e-4f50-8a9b-0c1d2e3f4a5b',
  tier: 'standard',
  zone: 'east:12',
  validFromMs: Date.parse('2027-05-01T15:00:00Z'),
  validUntilMs: Date.parse('2027-05-01T22:00:00Z'),
};
const spki = (key: KeyObject) => key.export({ format: 'der', type: 'spki' }).toString('base64');
const keyOf = (key: KeyObject, keyId: string, use: 'code' | 'pretix' = 'code', notAfter: string | null = null) =>
  PublicKey.parse({ key_id: keyId, use, alg: 'Ed25519', spki: spki(key), not_after: notAfter });
const ours = generateKeyPairSync('ed25519');
const others = generateKeyPairSync('ed25519');
const KEYS = [keyOf(others.publicKey, 'k2026'), keyOf(ours.publicKey, 'k2027')];

const nodeVerify: VerifySignature = (key, signedBytes, signature) => {
  try {
    return verify(null, signedBytes, createPublicKey({ key: Buffer.from(key, 'base64'), format: 'der', type: 'spki' }), signature);
  } catch {
    return false;
  }
};
const issue = (content: SignedContent, key = ours.privateKey) => {
  const { bytes, assemble } = encodeSigned(content);
  return assemble(sign(null, bytes, key));
};
const signed = (text: string): SignedForm => {
  const form = recogniseCode(text);
  if (form.form === 'opaque') throw new Error('expected a signed code');
  return form;
};

test('an issued code is read again, through a reader, and verifies', () => {
  const text = issue(CONTENT);
  const code = readCode(new TextEncoder().encode(`\x02${text}\r\n`));
  expect(code).toEqual({ kind: 'code', text });
  const form = signed(text);
  expect(form).toMatchObject({ form: 'stile', ...CONTENT, lookupText: CONTENT.ticketId });
  expect(checkSignature(form, KEYS, nodeVerify, 0)).toEqual({ ok: true, keyId: 'k2027' });
  // QR alphanumeric; version 8 at level M holds 221 characters.
  expect(text).toMatch(/^ST1:[0-9A-Z $%*+\-./:]+$/);
  expect(text.length).toBeLessThanOrEqual(221);
});

const id = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}$/);
const seconds = fc.option(fc.integer({ min: 0, max: 2 ** 34 }).map((second) => second * 1000));
const content = fc.record({
  keyId: fc.stringMatching(/^[A-Za-z0-9_-]{1,32}$/),
  eventId: id,
  ticketId: fc.oneof(id, fc.uuid()),
  tier: id,
  zone: fc.option(id),
  validFromMs: seconds,
  validUntilMs: seconds,
});

test('every content is read as it was written', () => {
  fc.assert(
    fc.property(content, (given) => {
      const { assemble } = encodeSigned(given);
      expect(recogniseCode(assemble(new Uint8Array(64)))).toMatchObject({ form: 'stile', ...given });
    }),
    { numRuns: RUNS },
  );
});

test.each([
  ['an id with a space', { ...CONTENT, tier: 'a b' }],
  ['half a second', { ...CONTENT, validFromMs: 1500 }],
  ['a time before 1970', { ...CONTENT, validFromMs: -1000 }],
  ['no ticket id', { ...CONTENT, ticketId: '' }],
])('is not issued: %s', (_, given) => {
  expect(() => encodeSigned(given)).toThrow();
});
test('a signature of another length is not taken', () => {
  expect(() => encodeSigned(CONTENT).assemble(new Uint8Array(63))).toThrow('64 bytes');
});

test.each<[string, () => SignedForm, 'unknown_key' | 'expired_key' | 'bad_signature']>([
  ["signed by a stranger in our key's name", () => signed(issue(CONTENT, others.privateKey)), 'bad_signature'],
  ['signed by a key that is not listed', () => signed(issue({ ...CONTENT, keyId: 'k2028' }, others.privateKey)), 'unknown_key'],
])('forged: %s', (_, form, why) => {
  expect(checkSignature(form(), KEYS, nodeVerify, 0)).toEqual({ ok: false, why });
});

test("a key's end is judged only by a trusted clock; a key for something else is no key", () => {
  const form = signed(issue(CONTENT));
  const ended = [keyOf(ours.publicKey, 'k2027', 'code', '2027-01-01T00:00:00.000Z')];
  expect(checkSignature(form, ended, nodeVerify, Date.parse('2027-01-01T00:00:00.001Z'))).toEqual({ ok: false, why: 'expired_key' });
  expect(checkSignature(form, ended, nodeVerify, Date.parse('2027-01-01T00:00:00.000Z'))).toEqual({ ok: true, keyId: 'k2027' });
  expect(checkSignature(form, ended, nodeVerify, null)).toEqual({ ok: true, keyId: 'k2027' });
  expect(checkSignature(form, [keyOf(ours.publicKey, 'k2027', 'pretix')], nodeVerify, 0)).toEqual({ ok: false, why: 'unknown_key' });
});

test('a revoked key is believed by no clock, and another key of the event still is', () => {
  const form = signed(issue(CONTENT));
  const revoked = [{ ...keyOf(ours.publicKey, 'k2027'), revoked: true }, keyOf(others.publicKey, 'k2026')];
  for (const nowMs of [0, null]) expect(checkSignature(form, revoked, nodeVerify, nowMs)).toEqual({ ok: false, why: 'revoked_key' });
  expect(checkSignature(signed(issue({ ...CONTENT, keyId: 'k2026' }, others.privateKey)), revoked, nodeVerify, null)).toMatchObject({ ok: true });
});

test('a code with a changed byte does not verify', () => {
  const whole = base45Decode(issue(CONTENT).slice(SIGNED_PREFIX.length)) as Uint8Array;
  for (let at = 0; at < whole.length; at++) {
    const changed = whole.slice();
    changed[at] = (changed[at] as number) ^ (1 << (at % 8));
    const form = recogniseCode(SIGNED_PREFIX + base45Encode(changed));
    if (form.form !== 'opaque') expect(checkSignature(form, KEYS, nodeVerify, 0).ok).toBe(false);
  }
});

test(`none of ${FORGED} forged frames verifies`, () => {
  const genuine = base45Decode(issue(CONTENT).slice(SIGNED_PREFIX.length)) as Uint8Array;
  const { bytes } = encodeSigned(CONTENT);
  const forge = (n: number): CodeForm => {
    const noise = randomBytes(64);
    if (n % 4 === 0) return recogniseCode(encodeSigned({ ...CONTENT, ticketId: `T-${n}` }).assemble(noise));
    if (n % 4 === 1) return recogniseCode(encodeSigned({ ...CONTENT, tier: `t${n}` }).assemble(genuine.subarray(genuine.length - 64)));
    if (n % 4 === 2) return recogniseCode(SIGNED_PREFIX + base45Encode(Buffer.concat([bytes, noise, noise]).subarray(0, 1 + (n % 200))));
    const spliced = genuine.slice();
    spliced.set(noise.subarray(0, 1 + (n % 16)), n % (genuine.length - 16));
    return recogniseCode(SIGNED_PREFIX + base45Encode(spliced));
  };
  let verified = 0;
  for (let n = 0; n < FORGED; n++) {
    const form = forge(n);
    if (form.form !== 'opaque' && checkSignature(form, KEYS, nodeVerify, 0).ok) verified++;
  }
  expect(verified).toBe(0);
});

test.each([
  ['the prefix alone', 'ST1:'],
  ['no base45 after it', 'ST1:abc'],
  ['too short', `ST1:${base45Encode(new Uint8Array(64))}`],
  ['another version', `ST1:${base45Encode(Uint8Array.of(2, ...new Uint8Array(120)))}`],
  ['bytes left over', `ST1:${base45Encode(Uint8Array.of(...encodeSigned(CONTENT).bytes, 0, ...new Uint8Array(64)))}`],
  ['a time that never ends', `ST1:${base45Encode(Uint8Array.of(1, 1, 97, 1, 97, 1, 97, 1, 97, 0, ...new Uint8Array(12).fill(0xff), ...new Uint8Array(64)))}`],
])('opaque after all: %s', (_, text) => {
  expect(recogniseCode(text)).toEqual({ form: 'opaque', text, lookupText: text });
});

test('a checked signature gives a right by itself', () => {
  expect(ticketFromSignature(signed(issue(CONTENT)), 'cup-final', 'ab'.repeat(16))).toMatchObject({
    ticketId: CONTENT.ticketId,
    tier: 'standard',
    zone: 'east:12',
    status: 'valid',
    source: 'signature',
    validFromMs: CONTENT.validFromMs,
  });
});

// Made with Python and openssl, not with this project's code.
const PRETIX_KEY = PublicKey.parse({ key_id: 'p1', use: 'pretix', alg: 'Ed25519', spki: 'MCowBQYDK2VwAyEAWPcG+ijWmkY2Lk5RmtP2pJL+E//zytJqRmdtLStd89g=' });
const PRETIX_PLAIN = '=EQiqm3dB8pFNuOWdpeguXTnfe1v+A3P/0BKBtA6TKaSoZIA6NARfNnaxzQdNxzQU5iMiF9xjs+4IL2Gh3OrCCIOgIQuYEQgQEHe5c2VrFkYNRHOrx0a0ZDEKAEAaAQA';
const PRETIX_TIMED = '=AwLTHdjSB8iyB54Oon0VnrMn7XtOaeRegdUgM+F5OyE7csrR4x/BoTXnyO0kCkZvfO/vKMhM7F5OBbHlLsT+9oBej9gACjBeLN4AiCDQIHU5NnWycnYktEdM5WbMlHEKAEAgAQA';

test("pretix's signed tickets are read and verified", () => {
  const plain = signed(PRETIX_PLAIN);
  expect(plain).toMatchObject({ form: 'pretix', item: 129, variation: 313, subevent: 56, validFromMs: null, validUntilMs: null, lookupText: PRETIX_PLAIN });
  const timed = signed(PRETIX_TIMED);
  expect(timed).toMatchObject({ item: 12, variation: null, subevent: null, validFromMs: 1_809_100_800_000, validUntilMs: 1_809_187_200_000 });
  for (const form of [plain, timed]) {
    expect(checkSignature(form, [...KEYS, keyOf(ours.publicKey, 'p0', 'pretix'), PRETIX_KEY], nodeVerify, 0)).toEqual({ ok: true, keyId: 'p1' });
    expect(checkSignature(form, KEYS, nodeVerify, 0)).toEqual({ ok: false, why: 'unknown_key' });
    expect(checkSignature(form, [keyOf(ours.publicKey, 'p0', 'pretix')], nodeVerify, 0)).toEqual({ ok: false, why: 'bad_signature' });
  }
  expect(ticketFromSignature(plain, 'e', 'ab'.repeat(16))).toMatchObject({ ticketId: 'ab'.repeat(16), tier: '129:313', zone: null });
  expect(ticketFromSignature(plain, 'e', 'ab'.repeat(16))).toMatchObject({ subevent: 56 });
  expect(ticketFromSignature(timed, 'e', 'ab'.repeat(16))).toMatchObject({ tier: '12' });
});

const reversed = (bytes: Uint8Array) => [...Buffer.from(bytes).toString('base64')].reverse().join('');
const frame = (payload: readonly number[], signatureBytes = 64) =>
  reversed(Uint8Array.of(1, payload.length >> 8, payload.length & 255, 0, signatureBytes, ...payload, ...new Uint8Array(signatureBytes)));

test('a pretix ticket with a changed byte does not verify', () => {
  const whole = Buffer.from([...PRETIX_TIMED].reverse().join(''), 'base64');
  for (let at = 0; at < whole.length; at++) {
    const changed = Buffer.from(whole);
    changed[at] = (changed[at] as number) ^ (1 << (at % 8));
    const form = recogniseCode(reversed(changed));
    if (form.form !== 'opaque') expect(checkSignature(form, [PRETIX_KEY], nodeVerify, 0).ok).toBe(false);
  }
});

test.each([
  ['a signature of another length', frame([0x10, 1], 63)],
  ['a payload that ends early', frame([0x10, 0x80])],
  ['a text longer than the payload', frame([0x0a, 9, 65])],
  ['a number that is a text', frame([0x12, 1, 65])],
  ['a negative number', frame([0x10, ...new Array(9).fill(0xff), 0x01])],
  ['a number of eleven bytes', frame([0x10, ...new Array(10).fill(0xff), 0x01])],
  ['a field number 0', frame([0x00, 1])],
  ['a group', frame([0x3b])],
  ['another spelling of the same bytes', (PRETIX_TIMED.startsWith('=A') ? '=B' : '?') + PRETIX_TIMED.slice(2)],
  ['its padding left out', PRETIX_TIMED.slice(1)],
  ['a byte too many', reversed(Uint8Array.of(1, 0, 2, 0, 64, 0x10, 1, ...new Uint8Array(65)))],
])('opaque after all: %s', (_, text) => {
  expect(recogniseCode(text).form).toBe('opaque');
});

test('K8: 0 is none in every field that pretix may leave empty', () => {
  expect(recogniseCode(frame([0x10, 5, 0x18, 0, 0x20, 0, 0x28, 0, 0x30, 0]))).toMatchObject({
    variation: null,
    subevent: null,
    validFromMs: null,
    validUntilMs: null,
  });
  expect(recogniseCode(frame([0x10, 5, 0x28, 9, 0x30, 0]))).toMatchObject({ validFromMs: 9_000, validUntilMs: null });
});

test('unknown fields of a pretix ticket are passed over', () => {
  expect(recogniseCode(frame([0x10, 5, 0x3a, 1, 65, 0x40, 1, 0x4d, 1, 2, 3, 4, 0x51, 1, 2, 3, 4, 5, 6, 7, 8]))).toMatchObject({ form: 'pretix', item: 5 });
});

test('recognising a text never throws', () => {
  const base64 = fc.uint8Array({ maxLength: 200 }).map((noise) => reversed(Uint8Array.of(1, 0, ...noise)));
  const framed = fc.array(fc.integer({ min: 0, max: 255 }), { maxLength: 80 }).map((payload) => frame(payload));
  const prefixed = fc.uint8Array({ maxLength: 200 }).map((noise) => SIGNED_PREFIX + base45Encode(Uint8Array.of(1, ...noise)));
  fc.assert(
    fc.property(fc.oneof(fc.string({ unit: 'binary', maxLength: 200 }), base64, framed, prefixed), (text) => {
      expect(['opaque', 'stile', 'pretix']).toContain(recogniseCode(text).form);
    }),
    { numRuns: RUNS },
  );
});
