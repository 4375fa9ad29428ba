import fc from 'fast-check';
import { expect, test } from 'vitest';
import { base45Encode } from './base45.ts';
import { decodeEnrolment, encodeEnrolment, MAX_ENROLMENT_CODE_BYTES } from './enrolment-code.ts';

const bytes32 = fc.uint8Array({ minLength: 32, maxLength: 32 });

test('a code comes back as it was, also in lower case and with a line end from a reader', () => {
  fc.assert(
    fc.property(bytes32, bytes32, fc.stringMatching(/^[a-z0-9.-]{1,60}$/), (token, fingerprint, host) => {
      const code = { cloud: `https://${host}`, token, fingerprint };
      const text = encodeEnrolment(code);
      expect(text).toMatch(/^STILE1:[0-9A-Z $%*+\-./:]+$/);
      for (const shown of [text, `${text}\r\n`, text.toLowerCase()]) expect(decodeEnrolment(shown)).toEqual({ ok: true, code });
    }),
  );
});

test('reading an enrolment code never throws, and takes no damaged code for another one', () => {
  fc.assert(fc.property(fc.string(), (text) => decodeEnrolment(text).ok === false || text.trim().toUpperCase().startsWith('STILE1:')));
  const good = encodeEnrolment({ cloud: 'https://192.168.1.10', token: new Uint8Array(32), fingerprint: new Uint8Array(32) });
  for (const [text, cause] of [
    ['T-1001', /begin/],
    [good.slice(0, 20), /cut off|damaged/],
    [`STILE1:${base45Encode(new Uint8Array([2, ...new Uint8Array(80)]))}`, /newer/],
    [`STILE1:${base45Encode(new Uint8Array([1, ...new Uint8Array(64), ...new TextEncoder().encode('http://x')]))}`, /https/],
    [`STILE1:${base45Encode(new Uint8Array([1, ...new Uint8Array(64), ...new TextEncoder().encode('https://user@x')]))}`, /https/],
    [`STILE1:${base45Encode(new Uint8Array(MAX_ENROLMENT_CODE_BYTES + 1).fill(1))}`, /longer/],
  ] as const)
    expect(decodeEnrolment(text)).toEqual({ ok: false, cause: expect.stringMatching(cause) });
  expect(() => encodeEnrolment({ cloud: `https://${'x'.repeat(300)}`, token: new Uint8Array(32), fingerprint: new Uint8Array(32) })).toThrow(/at most/);
});
