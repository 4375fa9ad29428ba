import { generateKeyPairSync } from 'node:crypto';
import { expect, test } from 'vitest';
import { PublicKey } from '../contract/manifest.ts';
import { readKeyEntry, readPublicKey } from './keys.ts';

const PREFIX = Buffer.from('302a300506032b6570032100', 'hex');
const spki = (hex: string) => Buffer.concat([PREFIX, Buffer.from(hex, 'hex')]).toString('base64');
const P = 2n ** 255n - 19n;
const modPow = (base: bigint, exponent: bigint): bigint => {
  let [result, square, rest] = [1n, base % P, exponent];
  for (; rest > 0n; rest >>= 1n) {
    if (rest & 1n) result = (result * square) % P;
    square = (square * square) % P;
  }
  return result;
};

/** Every y whose point has an order dividing 8, found by doubling it three times on the curve. */
function smallOrderYs(): bigint[] {
  const inverse = (x: bigint) => modPow(((x % P) + P) % P, P - 2n);
  const d = (((-121665n * inverse(121666n)) % P) + P) % P;
  const mod = (x: bigint) => ((x % P) + P) % P;
  // Points of order 8 double to (±sqrt(-1), 0): y² = x² for them, so y⁴·d + ... : -x² + y² = 1 + d x² y² with x² = -y² (order 8) or y = 0, ±1.
  const order8: bigint[] = [];
  // With x² = -y²: 2y² = 1 - d y⁴, a quadratic in y².
  const root = (square: bigint): bigint | null => {
    const candidate = modPow(square, (P + 3n) / 8n);
    for (const r of [candidate, mod(candidate * modPow(2n, (P - 1n) / 4n))]) if (mod(r * r) === mod(square)) return r;
    return null;
  };
  const discriminant = root(mod(4n + 4n * d));
  for (const sign of [1n, -1n]) {
    if (discriminant === null) break;
    const y2 = mod((-2n + sign * discriminant) * inverse(2n * d));
    const y = root(y2);
    if (y !== null && root(mod(-y2)) !== null) order8.push(y, mod(-y));
  }
  return [0n, 1n, P - 1n, ...order8];
}

const littleEndian = (y: bigint) => Buffer.from(y.toString(16).padStart(64, '0'), 'hex').reverse().toString('hex');

test('every point of small order is refused, in every spelling and with either sign', () => {
  const ys = smallOrderYs();
  expect(ys).toHaveLength(5);
  const spellings = ys.flatMap((y) => [y, y + P]).filter((y) => y < 2n ** 255n);
  expect(spellings).toHaveLength(7);
  for (const y of spellings) {
    for (const sign of [0n, 1n << 255n]) expect(readPublicKey(spki(littleEndian(y | sign)))).toEqual({ ok: false, why: 'small_order' });
  }
});

test('a key that was really made is read', () => {
  const { publicKey } = generateKeyPairSync('ed25519');
  const der = publicKey.export({ format: 'der', type: 'spki' });
  expect(readPublicKey(der.toString('base64'))).toEqual({ ok: true, bytes: new Uint8Array(der.subarray(12)) });
});

test.each([
  ['no base64', '%%%'],
  ['empty', ''],
  ['too short', spki('00'.repeat(31))],
  ['too long', spki('11'.repeat(33))],
  ['of another kind', generateKeyPairSync('x25519').publicKey.export({ format: 'der', type: 'spki' }).toString('base64')],
])('malformed: %s', (_, text) => {
  expect(readPublicKey(text)).toEqual({ ok: false, why: 'malformed' });
});

test('a pinned key is read as its schema reads it', () => {
  const right = {
    key_id: 'k-1',
    use: 'manifest',
    alg: 'Ed25519',
    spki: generateKeyPairSync('ed25519').publicKey.export({ format: 'der', type: 'spki' }).toString('base64'),
  };
  const odd: Record<string, readonly unknown[]> = {
    key_id: ['', 'a'.repeat(32), 'a'.repeat(33), 'a b', 7, null],
    use: ['code', 'pretix', 'other', undefined],
    alg: ['RSA', undefined],
    spki: ['', 'AAAA', 'AAA=', 'AA==', 'AAA', 'A===', 'AA AA', 'AAA\n', 'A'.repeat(256), 'A'.repeat(260), '-_-_', 5],
    not_after: [
      null,
      undefined,
      '2027-01-01T00:00:00.000Z',
      '2027-01-01T00:00:00Z',
      '2027-02-30T00:00:00.000Z',
      '2027-01-01T00:00:00.000+01:00',
      '2024-02-29T23:59:59.999Z',
      'soon',
      5,
      '',
    ],
    revoked: [true, false, undefined, null, 'yes'],
    more: ['kept'],
  };
  const variants: unknown[] = [
    right,
    null,
    [],
    'key',
    5,
    {},
    ...Object.entries(odd).flatMap(([field, values]) => values.map((value) => ({ ...right, [field]: value }))),
  ];
  for (const variant of variants) {
    const parsed = PublicKey.safeParse(variant);
    expect(readKeyEntry(variant), JSON.stringify(variant)).toEqual(parsed.success ? parsed.data : null);
  }
});
